//! Where the log ends: what must have been read before one may say that something is not in it.

use crate::LogConfig;
use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The offset behind the last record of each partition, by topic and partition.
pub type EndOffsets = BTreeMap<(String, i32), i64>;

/// Asks the brokers where topics end. Clones share one connection.
#[derive(Clone)]
pub struct LogEnds {
    client: Arc<BaseConsumer>,
}

/// How long one question to the brokers may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl LogEnds {
    /// Connects in the background.
    pub fn new(config: &LogConfig) -> anyhow::Result<Self> {
        // A consumer without a group: it asks and never reads.
        let client = config.client().set("group.id", "onsale-ends").create().context("the log's address")?;
        Ok(Self { client: Arc::new(client) })
    }

    /// The present ends of all partitions of `topics`.
    pub async fn of(&self, topics: &[String]) -> anyhow::Result<EndOffsets> {
        let (client, topics) = (self.client.clone(), topics.to_vec());
        tokio::task::spawn_blocking(move || {
            let mut ends = EndOffsets::new();
            for topic in topics {
                let metadata = client.fetch_metadata(Some(&topic), PATIENCE).context("the log's partitions")?;
                for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
                    let (_, end) = client
                        .fetch_watermarks(&topic, partition.id(), PATIENCE)
                        .with_context(|| format!("the end of {topic} partition {}", partition.id()))?;
                    ends.insert((topic.clone(), partition.id()), end);
                }
            }
            Ok(ends)
        })
        .await?
    }
}
