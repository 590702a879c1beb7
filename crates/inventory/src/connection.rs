//! One connection to Redis or Valkey, a single server or a cluster.

use onsale_config::{ConfigError, Env};
use redis::{
    Client, Cmd, RedisError, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::OnceCell;

/// Where Redis is and how long to wait for it.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://` or `rediss://`; for a cluster, any of its nodes (or its configuration endpoint).
    pub url: String,
    /// Whether it is a cluster.
    pub cluster: bool,
    /// How long one call may take. A function waits no longer before it answers 503.
    pub timeout: Duration,
}

impl RedisConfig {
    /// `REDIS_URL`; `REDIS_CLUSTER` (false); `REDIS_TIMEOUT_MS` (1,000).
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let url: String = env.required("REDIS_URL")?;
        if Client::open(url.as_str()).is_err() {
            return Err(ConfigError::new("REDIS_URL", "must be an address such as redis://127.0.0.1:6379"));
        }
        let range = Duration::from_millis(10)..=Duration::from_secs(60);
        let timeout = env.duration("REDIS_TIMEOUT_MS", Duration::from_secs(1), range)?;
        Ok(Self { url, cluster: env.or("REDIS_CLUSTER", false)?, timeout })
    }
}

impl fmt::Debug for RedisConfig {
    /// The url may carry a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig").field("cluster", &self.cluster).field("timeout", &self.timeout).finish()
    }
}

/// A connection that clones share; it connects at its first use and again after it broke.
#[derive(Clone)]
pub struct Connection(Kind);

#[derive(Clone)]
enum Kind {
    Single(ConnectionManager),
    Cluster(Arc<Cluster>),
}

struct Cluster {
    client: ClusterClient,
    connection: OnceCell<ClusterConnection>,
}

impl Connection {
    /// Checks the address; connects lazily, so that a start does not depend on Redis.
    pub fn new(config: &RedisConfig) -> RedisResult<Self> {
        if config.cluster {
            // Two tries: the client follows a moved slot, and gives up before the caller's deadline.
            let client = ClusterClient::builder([config.url.as_str()])
                .connection_timeout(config.timeout)
                .response_timeout(config.timeout)
                .overall_response_timeout(Some(config.timeout * 2))
                .retries(2)
                .build()?;
            Ok(Self(Kind::Cluster(Arc::new(Cluster { client, connection: OnceCell::new() }))))
        } else {
            let settings = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(config.timeout))
                .set_response_timeout(Some(config.timeout))
                .set_number_of_retries(1)
                .set_max_delay(Duration::from_millis(200));
            let manager = ConnectionManager::new_lazy_with_config(Client::open(config.url.as_str())?, settings)?;
            Ok(Self(Kind::Single(manager)))
        }
    }

    /// Sends one command. After a connection has broken, the manager gives the first caller the error and
    /// connects again behind it; that caller is spared by one more try, because every command of the library
    /// may be sent twice (a reserve finds its own record, the others change nothing the second time).
    pub async fn query(&self, cmd: &Cmd) -> RedisResult<Value> {
        match &self.0 {
            Kind::Single(manager) => {
                let mut connection = manager.clone();
                match connection.req_packed_command(cmd).await {
                    Err(e) if broken(&e) => connection.req_packed_command(cmd).await,
                    result => result,
                }
            }
            Kind::Cluster(cluster) => {
                let connection = cluster.connection.get_or_try_init(|| cluster.client.get_async_connection()).await?;
                connection.clone().req_packed_command(cmd).await
            }
        }
        .and_then(Value::extract_error)
    }
}

/// The connection was lost, as opposed to: no answer in time.
fn broken(e: &RedisError) -> bool {
    e.is_connection_dropped() && !e.is_timeout()
}
