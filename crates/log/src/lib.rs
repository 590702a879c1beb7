//! The log: topics, and the producer whose acknowledgement stands behind every 202.

mod breaker;
mod ends;
mod producer;
mod topics;

pub use breaker::{Breaker, Open};
pub use ends::{EndOffsets, LogEnds};
pub use producer::{DeadLetter, Log, LogError};
pub use topics::{Topics, ensure_topics};

use onsale_config::{ConfigError, Env};
use rdkafka::ClientConfig;
use std::time::Duration;

/// Where the log is and how long to wait for it.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Put before every topic's name, so that several installations can share brokers.
    pub topic_prefix: String,
    /// How long a record may take to be acknowledged by all in-sync replicas. After that it is not written any
    /// more; whether it had been is unknown.
    pub delivery_timeout: Duration,
    /// How long the producer waits for more records before it sends. Zero in Lambda, where one request runs at a
    /// time.
    pub linger: Duration,
}

impl LogConfig {
    /// `KAFKA_BROKERS`; `TOPIC_PREFIX` (none); `KAFKA_DELIVERY_TIMEOUT_MS` (4,000); `KAFKA_LINGER_MS` (0).
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let topic_prefix: String = env.or("TOPIC_PREFIX", String::new())?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if topic_prefix.len() > 100 || !topic_prefix.chars().all(fits) {
            return Err(ConfigError::new("TOPIC_PREFIX", "must be at most 100 of the characters A-Z a-z 0-9 - _ ."));
        }
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        Ok(Self {
            brokers: env.required("KAFKA_BROKERS")?,
            topic_prefix,
            delivery_timeout: env.duration("KAFKA_DELIVERY_TIMEOUT_MS", s(4), ms(100)..=s(60))?,
            linger: env.duration("KAFKA_LINGER_MS", Duration::ZERO, Duration::ZERO..=s(1))?,
        })
    }

    /// What every client of the log needs to reach it.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "onsale")
            .set("socket.nagle.disable", "true")
            .set("socket.connection.setup.timeout.ms", "3000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.fast.interval.ms", "100")
            .set("allow.auto.create.topics", "false");
        config
    }

    /// The topics under this prefix.
    pub fn topics(&self) -> Topics {
        Topics::new(&self.topic_prefix)
    }
}
