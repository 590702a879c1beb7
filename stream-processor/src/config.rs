//! The processor's settings, read once at start.

use onsale_catalog::Catalog;
use onsale_config::{ConfigError, Env, Secret};
use onsale_inventory::Inventory;
use onsale_log::{Log, LogConfig};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How the processor works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the ledger is; holds a password.
    pub database_url: Secret,
    /// The consumer group, whose offsets are in the ledger.
    pub group: Arc<str>,
    /// Where `/health`, `/metrics` and `/audit` listen.
    pub address: SocketAddr,
    /// Records in a batch at most.
    pub batch_size: usize,
    /// How long a batch waits to fill up, from its first record.
    pub batch_linger: Duration,
    /// Partitions of a topic this processor makes.
    pub partitions: i32,
    /// Replicas of such a topic; -1 leaves it to the broker.
    pub replication: i32,
    /// A command pending longer than this is looked after by the relay.
    pub relay_after: Duration,
    /// How long a function may take from its Redis call to the log's acknowledgement. What Redis accepted and the log
    /// does not have after that time it will not get.
    pub delivery_deadline: Duration,
    /// How often the leader looks for work.
    pub leader_interval: Duration,
    /// The log.
    pub log: LogConfig,
}

impl Settings {
    /// From the environment.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let group: String = env.or("KAFKA_GROUP", "stream-processor".to_owned())?;
        Ok(Self {
            database_url: env.required("DATABASE_URL")?,
            group: group.into(),
            address: env.or("PROCESSOR_ADDR", SocketAddr::from(([127, 0, 0, 1], 9100)))?,
            batch_size: env.within("BATCH_SIZE", 2_000, 1..=10_000)?,
            batch_linger: env.duration("BATCH_LINGER_MS", ms(5), Duration::ZERO..=s(5))?,
            partitions: env.within("KAFKA_PARTITIONS", 6, 1..=1_000)?,
            replication: env.within("KAFKA_REPLICATION", -1, -1..=9)?,
            relay_after: env.duration("RELAY_AFTER_MS", s(10), ms(100)..=s(3_600))?,
            delivery_deadline: env.duration("DELIVERY_DEADLINE_MS", s(6), ms(100)..=s(120))?,
            leader_interval: env.duration("LEADER_INTERVAL_MS", ms(200), ms(10)..=s(60))?,
            log: LogConfig::from_env(env)?,
        })
    }
}

/// The stores around the ledger.
#[derive(Clone)]
pub struct Stores {
    /// The Redis side.
    pub inventory: Inventory,
    /// DynamoDB.
    pub catalog: Catalog,
    /// The producer, for the relay and dead letters.
    pub log: Log,
}

impl Stores {
    /// From the environment. Connects lazily.
    pub async fn from_env(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            inventory: Inventory::from_env(env)?,
            catalog: Catalog::from_env(env).await?,
            log: Log::from_env(env)?,
        })
    }
}
