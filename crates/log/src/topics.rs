//! The names of the topics, and their making.

use crate::LogConfig;
use anyhow::{Context, bail};
use onsale_domain::RESERVATION_TOPIC;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
};
use std::time::Duration;

/// Topic names under a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Every command that touches a reservation, keyed by the reservation's id.
    pub reservation: String,
}

impl Topics {
    /// The names under `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self { reservation: format!("{prefix}{RESERVATION_TOPIC}") }
    }

    /// Where records of `topic` go that no retry can help.
    pub fn dead_letters(topic: &str) -> String {
        format!("{topic}.dlt")
    }

    /// All of them, dead letter topics included.
    pub fn all(&self) -> Vec<String> {
        vec![self.reservation.clone(), Self::dead_letters(&self.reservation)]
    }
}

/// Makes the topics that are absent; those that are there stay as they are. `replication` -1 is the broker's
/// own default.
pub async fn ensure_topics(config: &LogConfig, partitions: i32, replication: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = config.client().create().context("the log's address")?;
    let names = config.topics().all();
    let topics: Vec<_> = names
        .iter()
        .map(|name| {
            // A dead letter keeps its place for a person to look at; one partition keeps their order.
            let partitions = if name.ends_with(".dlt") { 1 } else { partitions };
            NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
                .set("retention.ms", "1209600000")
                .set("message.timestamp.type", "LogAppendTime")
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(15)));
    for result in admin.create_topics(&topics, &options).await.context("topics could not be created")? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => bail!("topic {topic} could not be created: {code}"),
        }
    }
    Ok(())
}
