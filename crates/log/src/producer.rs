//! The one long-lived producer of a process.

use crate::{Breaker, LogConfig, Open, Topics};
use onsale_domain::Command;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
    util::Timeout,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Why a record was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not tried: the log has failed too often just now.
    #[error(transparent)]
    Open(#[from] Open),
    /// Not acknowledged in time, or the acknowledgement was lost: the record may or may not be in the log.
    #[error("not acknowledged: {0}")]
    Ambiguous(String),
    /// Certainly not in the log.
    #[error("not written: {0}")]
    NotWritten(KafkaError),
}

/// Writes to the log and waits for the acknowledgement of all in-sync replicas. Clones share one producer.
#[derive(Clone)]
pub struct Log {
    producer: FutureProducer,
    topics: Arc<Topics>,
    breaker: Arc<Breaker>,
}

impl Log {
    /// Connects in the background. `acks=all` and idempotence are not for configuration: 202 rests on them.
    pub fn new(config: &LogConfig) -> Result<Self, KafkaError> {
        let producer = config
            .client()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            // The same partition for a key whatever the client's language.
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.ms", config.linger.as_millis().to_string())
            .set("message.timeout.ms", config.delivery_timeout.as_millis().to_string())
            .set("request.timeout.ms", config.delivery_timeout.as_millis().to_string())
            .create()?;
        Ok(Self {
            producer,
            topics: Arc::new(config.topics()),
            breaker: Arc::new(Breaker::new(Duration::from_secs(1))),
        })
    }

    /// To where the settings say (see [`LogConfig::from_env`]).
    pub fn from_env(env: &onsale_config::Env) -> Result<Self, onsale_config::ConfigError> {
        let wrong = |_| onsale_config::ConfigError::new("KAFKA_BROKERS", "must be addresses such as 127.0.0.1:9092");
        Self::new(&LogConfig::from_env(env)?).map_err(wrong)
    }

    /// To be asked before anything is taken in Redis: whether the log is worth a try.
    pub fn permit(&self) -> Result<(), Open> {
        self.breaker.permit()
    }

    /// Writes a command under its reservation's key and waits for the acknowledgement, until `deadline` at most.
    /// Lambda freezes background threads once it has answered, so the wait is part of the call.
    pub async fn append(&self, command: &Command, deadline: Instant) -> Result<(), LogError> {
        let key = command.reservation_id().to_string();
        let json = command.to_json();
        let record = FutureRecord::to(&self.topics.reservation).key(&key).payload(&json);
        let result = match self.producer.send_result(record) {
            Ok(delivery) => match tokio::time::timeout_at(deadline, delivery).await {
                Ok(Ok(Ok(_))) => Ok(()),
                Ok(Ok(Err((e, _)))) => Err(classify(e)),
                Ok(Err(_cancelled)) => Err(LogError::Ambiguous("the producer was closed".into())),
                Err(_elapsed) => Err(LogError::Ambiguous("no acknowledgement before the deadline".into())),
            },
            Err((e, _)) => Err(LogError::NotWritten(e)),
        };
        match result {
            Ok(()) => self.breaker.success(),
            Err(_) => self.breaker.failure(),
        }
        result
    }

    /// Writes a record that no retry can help to the dead letter topic of `topic`, bytes and key as they were.
    pub async fn dead_letter(&self, letter: &DeadLetter<'_>) -> Result<(), LogError> {
        let topic = Topics::dead_letters(letter.topic);
        let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
        let at = onsale_domain::Timestamp::now().to_string();
        let headers = [
            ("reason", letter.reason),
            ("origin-topic", letter.topic),
            ("origin-partition", &partition),
            ("origin-offset", &offset),
            ("dead-lettered-at", &at),
        ]
        .into_iter()
        .fold(OwnedHeaders::new(), |h, (key, value)| h.insert(Header { key, value: Some(value) }));
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic).headers(headers);
        record.key = letter.key;
        record.payload = letter.payload;
        match self.producer.send(record, Timeout::Never).await {
            Ok(_) => Ok(()),
            Err((e, _)) => Err(classify(e)),
        }
    }

    /// Waits until everything handed over is acknowledged or given up.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.producer.flush(timeout)
    }
}

/// A record for a dead letter topic.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// Where it was read.
    pub topic: &'a str,
    /// Its partition there.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its key, if it had one.
    pub key: Option<&'a [u8]>,
    /// Its value, if it had one.
    pub payload: Option<&'a [u8]>,
    /// Why it is there, for a person.
    pub reason: &'a str,
}

fn classify(e: KafkaError) -> LogError {
    match e.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::QueueFull,
        ) => LogError::NotWritten(e),
        _ => LogError::Ambiguous(e.to_string()),
    }
}
