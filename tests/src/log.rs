//! The log as a test needs it: writing what nobody would, reading dead letters, deleting topics.

use crate::{PATIENCE, eventually};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use std::{collections::BTreeMap, time::Duration};

/// A record of a dead letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRecord {
    /// Its key, if it had one.
    pub key: Option<Vec<u8>>,
    /// Its value, if it had one.
    pub payload: Option<Vec<u8>>,
    /// What was noted about it.
    pub headers: BTreeMap<String, String>,
}

/// Writes records into one topic, in their order; gives back where they went (partition, offset).
pub(crate) async fn write(brokers: &str, topic: &str, records: &[(Option<&str>, &[u8])]) -> Vec<(i32, i64)> {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("acks", "all").create().expect("a producer");
    let mut places = Vec::new();
    for (key, payload) in records {
        let mut record: FutureRecord<'_, str, [u8]> = FutureRecord::to(topic).payload(payload);
        record.key = *key;
        let written = producer.send(record, Timeout::After(PATIENCE)).await.map_err(|(e, _)| e);
        let written = written.expect("a record in the log");
        places.push((written.partition, written.offset));
    }
    places
}

/// Reads partition 0 of `topic` from its start until `enough` says so.
pub(crate) async fn read(brokers: &str, topic: &str, enough: impl Fn(&[DeadRecord]) -> bool) -> Vec<DeadRecord> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "a-test-that-commits-nothing")
        .create()
        .expect("a consumer");
    let mut start = TopicPartitionList::new();
    start.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
    consumer.assign(&start).expect("a partition");
    let mut found = Vec::new();
    eventually("records in the dead letter topic", async || {
        while let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            found.push(DeadRecord {
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
                headers: headers.map(|h| (h.key.to_owned(), text(h.value))).collect(),
            });
        }
        if enough(&found) { Ok(()) } else { Err(found.clone()) }
    })
    .await;
    found
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// Deletes topics. What cannot be deleted stays: it harms nobody.
pub(crate) async fn delete(brokers: &str, topics: &[&str]) {
    let admin: Result<AdminClient<DefaultClientContext>, _> =
        ClientConfig::new().set("bootstrap.servers", brokers).create();
    if let Ok(admin) = admin {
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
        let _ = admin.delete_topics(topics, &options).await;
    }
}
