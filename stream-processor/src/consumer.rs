//! Reads the log in batches, on a thread of its own.
//!
//! Offsets are not kept by Kafka but by the ledger: on every assignment the thread asks the ledger where it stands
//! and reads on from there, so what it hands over joins what is committed, whatever happened before. A batch
//! carries the step of each partition it makes; the ledger takes it only from where it stands itself.

use crate::ledger::{Ledger, LedgerError, OffsetMove};
use onsale_log::LogConfig;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc};

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value, if it has one.
    pub payload: Option<Vec<u8>>,
}

/// Records in the order of the log (within each partition), and the steps they make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fetched {
    /// The reading they belong to; what an earlier one left behind is dropped.
    pub generation: u64,
    /// The records.
    pub records: Vec<Record>,
    /// One step a partition.
    pub moves: Vec<OffsetMove>,
}

/// How the reading and the writing side tell each other to start anew.
#[derive(Debug, Default)]
pub struct Signals {
    generation: AtomicU64,
    reread: AtomicBool,
    stop: AtomicBool,
    /// Partitions assigned at present.
    assigned: AtomicU64,
}

impl Signals {
    /// Whether what was fetched in `generation` still counts.
    pub fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The ledger does not stand where the reading thinks: read again from where it stands.
    pub fn reread(&self) {
        self.reread.store(true, Ordering::Release);
    }

    /// Stop reading.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Partitions assigned at present.
    pub fn assigned(&self) -> u64 {
        self.assigned.load(Ordering::Acquire)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

type Partition = (Arc<str>, i32);

/// Where the reading stands in each assigned partition: the offset of the next record.
type Positions = HashMap<Partition, i64>;

struct Context {
    ledger: Ledger,
    group: Arc<str>,
    runtime: Handle,
    signals: Arc<Signals>,
    positions: Mutex<Positions>,
}

impl Context {
    fn positions(&self) -> MutexGuard<'_, Positions> {
        // Whoever panicked while holding it left at worst an old position, which the ledger refuses.
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the ledger stands. Tries until it answers: without it there is nothing to read from.
    fn ask_ledger(&self, partitions: &[Partition]) -> Option<Positions> {
        let mut pause = Duration::from_millis(100);
        while !self.signals.stopping() {
            match self.runtime.block_on(self.ledger.assign_offsets(&self.group, partitions)) {
                Ok(found) => return Some(found.into_iter().map(|p| ((p.topic, p.partition), p.next_offset)).collect()),
                Err(e) => log_ledger_error(&e),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        None
    }

    /// Starts a new reading of `partitions`. What is under way belongs to an earlier one from here on.
    fn begin(&self, partitions: &[Partition]) -> Option<TopicPartitionList> {
        self.signals.generation.fetch_add(1, Ordering::AcqRel);
        let positions = self.ask_ledger(partitions)?;
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in &positions {
            if let Err(e) = list.add_partition_offset(topic, *partition, Offset::Offset(*next)) {
                tracing::error!(error = %e, topic = %topic, partition, next, "consumer.offset_refused");
            }
        }
        self.signals.assigned.store(positions.len() as u64, Ordering::Release);
        *self.positions() = positions;
        Some(list)
    }
}

fn log_ledger_error(e: &LedgerError) {
    tracing::warn!(error = %e, "consumer.ledger_away");
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    /// Called on the reading thread, within `poll`.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let result = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let partitions: Vec<Partition> =
                    list.elements().iter().map(|e| (Arc::from(e.topic()), e.partition())).collect();
                tracing::info!(partitions = partitions.len(), "consumer.assigned");
                match self.begin(&partitions) {
                    Some(list) => consumer.assign(&list),
                    None => consumer.unassign(),
                }
            }
            _ => {
                tracing::info!("consumer.revoked");
                self.signals.generation.fetch_add(1, Ordering::AcqRel);
                self.signals.assigned.store(0, Ordering::Release);
                self.positions().clear();
                consumer.unassign()
            }
        };
        if let Err(e) = result {
            tracing::error!(error = %e, "consumer.rebalance_failed");
        }
    }
}

/// How to read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The consumer group.
    pub group: Arc<str>,
    /// The topics.
    pub topics: Vec<String>,
    /// Records in a batch at most.
    pub batch_size: usize,
    /// How long a batch waits to fill up, from its first record.
    pub linger: Duration,
}

/// Reads on a thread of its own until told to stop, and hands batches to `batches`. The thread ends when `batches`
/// is closed.
pub fn start(
    log: &LogConfig,
    reading: Reading,
    ledger: Ledger,
    signals: Arc<Signals>,
    batches: mpsc::Sender<Fetched>,
) -> Result<thread::JoinHandle<()>, anyhow::Error> {
    let context = Context {
        ledger,
        group: reading.group.clone(),
        runtime: Handle::current(),
        signals,
        positions: Mutex::default(),
    };
    let consumer: BaseConsumer<Context> = log
        .client()
        .set("group.id", &*reading.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Not largest: a new group starts with the first record there is.
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", "10000")
        .set("max.poll.interval.ms", "300000")
        .set("fetch.wait.max.ms", "20")
        .set("fetch.min.bytes", "1")
        .set("queued.max.messages.kbytes", "32768")
        .create_with_context(context)?;
    let topics: Vec<&str> = reading.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics)?;
    let thread = thread::Builder::new().name("consumer".into()).spawn(move || {
        Reader { consumer, reading, batches, names: HashMap::new() }.run();
        tracing::info!("consumer.stopped");
    })?;
    Ok(thread)
}

struct Reader {
    consumer: BaseConsumer<Context>,
    reading: Reading,
    batches: mpsc::Sender<Fetched>,
    /// Topic names, shared by all records.
    names: HashMap<String, Arc<str>>,
}

impl Reader {
    fn run(&mut self) {
        let mut batch = Fetched::default();
        let mut since = Instant::now();
        while !self.context().signals.stopping() && !self.batches.is_closed() {
            if self.context().signals.reread.swap(false, Ordering::AcqRel) {
                self.read_again();
            }
            if !self.context().signals.is_current(batch.generation) {
                batch = Fetched { generation: self.generation(), ..Fetched::default() };
            }
            let wait = if batch.records.is_empty() {
                Duration::from_millis(100)
            } else {
                self.reading.linger.saturating_sub(since.elapsed())
            };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let record = self.names_of(&message);
                    if batch.records.is_empty() {
                        since = Instant::now();
                        batch.generation = self.generation();
                    }
                    self.step(&mut batch, &record);
                    batch.records.push(record);
                }
                Some(Err(e)) => log_kafka_error(&e),
                None => {}
            }
            let full = batch.records.len() >= self.reading.batch_size;
            let due = !batch.records.is_empty() && since.elapsed() >= self.reading.linger;
            if full || due {
                let generation = batch.generation;
                self.hand_over(std::mem::replace(&mut batch, Fetched { generation, ..Fetched::default() }));
            }
        }
    }

    fn context(&self) -> &Context {
        self.consumer.context()
    }

    fn generation(&self) -> u64 {
        self.context().signals.generation.load(Ordering::Acquire)
    }

    fn names_of(&self, message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
        Record {
            topic: self.names.get(message.topic()).cloned().unwrap_or_else(|| Arc::from(message.topic())),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
        }
    }

    /// Makes the batch's step in the record's partition end behind the record.
    fn step(&mut self, batch: &mut Fetched, record: &Record) {
        self.names.entry(record.topic.to_string()).or_insert_with(|| record.topic.clone());
        let next = record.offset + 1;
        let stood = self.context().positions().insert((record.topic.clone(), record.partition), next);
        match batch.moves.iter_mut().find(|m| m.partition == record.partition && m.topic == record.topic) {
            Some(step) => step.next = next,
            None => batch.moves.push(OffsetMove {
                topic: record.topic.clone(),
                partition: record.partition,
                // A record of a partition that is not assigned does not come; if it did, the ledger would refuse it.
                expected: stood.unwrap_or(record.offset),
                next,
            }),
        }
    }

    /// Waits for room. Keeps polling meanwhile, with the partitions paused, so that a slow or absent ledger does not
    /// cost the membership in the group.
    fn hand_over(&self, batch: Fetched) {
        let context = self.context();
        let patience = Duration::from_secs(2);
        let mut paused = false;
        loop {
            // The timer is made inside: it needs the runtime to be entered.
            let room = context.runtime.block_on(async { tokio::time::timeout(patience, self.batches.reserve()).await });
            match room {
                Ok(Ok(permit)) => {
                    permit.send(batch);
                    break;
                }
                Ok(Err(_closed)) => return,
                Err(_elapsed) => {}
            }
            if context.signals.stopping() {
                return;
            }
            if !paused && let Ok(assigned) = self.consumer.assignment() {
                paused = self.consumer.pause(&assigned).is_ok();
            }
            if let Some(Err(e)) = self.consumer.poll(Duration::ZERO) {
                log_kafka_error(&e);
            }
            if !context.signals.is_current(batch.generation) {
                break;
            }
        }
        if paused && let Ok(assigned) = self.consumer.assignment() {
            let _ = self.consumer.resume(&assigned);
        }
    }

    /// Back to where the ledger stands, for the partitions assigned now.
    fn read_again(&self) {
        let context = self.context();
        let partitions: Vec<Partition> = context.positions().keys().cloned().collect();
        if partitions.is_empty() {
            return;
        }
        tracing::info!(partitions = partitions.len(), "consumer.reread");
        let Some(list) = context.begin(&partitions) else { return };
        if let Err(e) = self.consumer.assign(&list) {
            tracing::error!(error = %e, "consumer.reread_failed");
        }
    }
}

fn log_kafka_error(e: &KafkaError) {
    metrics::counter!("onsale_kafka_consumer_errors_total").increment(1);
    tracing::warn!(error = %e, "consumer.kafka");
}
