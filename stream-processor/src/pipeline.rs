//! From fetched records to committed rows: one transaction a batch, dead letters before it, settlement after it.

use crate::{
    config::Stores,
    consumer::{Fetched, Record, Signals},
    ledger::{Applied, Batch, Entry, Ledger, LedgerError, OffsetMove},
    settle::{Settled, Settler},
};
use onsale_domain::{Command, EventKind, SaleId};
use onsale_log::{DeadLetter, LogError};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Why a batch could not be taken in.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("dead letter: {0}")]
    DeadLetter(#[from] LogError),
    #[error("catalog: {0}")]
    Catalog(#[from] onsale_catalog::CatalogError),
}

impl BatchError {
    /// Whether a record is to blame. Everything else is to be waited for, also what a person must mend: a missing
    /// column or right would otherwise send the whole log to the dead letters.
    fn is_about_data(&self) -> bool {
        matches!(self, Self::Ledger(e) if e.is_about_data())
    }
}

/// Takes batches into the ledger, in order.
pub struct Pipeline {
    ledger: Ledger,
    stores: Stores,
    group: Arc<str>,
    signals: Arc<Signals>,
    settler: Settler,
}

impl Pipeline {
    /// Writes to `ledger`; tells `settler` what was committed and `signals` when to read again.
    pub fn new(ledger: Ledger, stores: Stores, group: Arc<str>, signals: Arc<Signals>, settler: Settler) -> Self {
        Self { ledger, stores, group, signals, settler }
    }

    /// Runs until `batches` is closed and empty, or until `stop` says so between two tries.
    pub async fn run(&self, mut batches: mpsc::Receiver<Fetched>, stop: tokio_util::sync::CancellationToken) {
        while let Some(fetched) = batches.recv().await {
            if self.signals.is_current(fetched.generation) {
                self.take_in(fetched, &stop).await;
            }
        }
    }

    /// Tries until the batch is committed, is no longer ours, or the processor stops.
    async fn take_in(&self, fetched: Fetched, stop: &tokio_util::sync::CancellationToken) {
        let mut pause = Duration::from_millis(50);
        let mut parts = vec![fetched];
        while let Some(part) = parts.pop() {
            let started = Instant::now();
            match self.commit(&part).await {
                Ok(applied) => {
                    pause = Duration::from_millis(50);
                    count(&applied, started.elapsed());
                    self.settler.settle(applied.settled.into_iter().map(Settled::from).collect());
                }
                Err(BatchError::Ledger(LedgerError::Stale { .. })) => {
                    // Another has these partitions, or a commit whose answer was lost went through. Either way the
                    // ledger knows where it stands.
                    metrics::counter!("onsale_batches_stale_total").increment(1);
                    tracing::warn!(records = part.records.len(), "batch.stale");
                    self.signals.reread();
                    return;
                }
                Err(e) if !e.is_about_data() => {
                    metrics::counter!("onsale_batches_retried_total").increment(1);
                    tracing::warn!(error = %e, pause_ms = pause.as_millis() as u64, "batch.retry");
                    let stays = self.signals.is_current(part.generation);
                    parts.push(part);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(jittered(pause)) => {}
                    }
                    if !stays {
                        return;
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                Err(e) if part.records.len() > 1 => {
                    // One record spoils the batch: halve it until that one stands alone.
                    tracing::warn!(error = %e, records = part.records.len(), "batch.halved");
                    let (first, second) = halves(part);
                    parts.push(second);
                    parts.push(first);
                }
                Err(e) => match self.pass(&part, &e.to_string()).await {
                    Ok(()) => {}
                    Err(BatchError::Ledger(LedgerError::Stale { .. })) => {
                        self.signals.reread();
                        return;
                    }
                    Err(again) => {
                        tracing::warn!(error = %again, "batch.retry");
                        parts.push(part);
                        tokio::time::sleep(jittered(pause)).await;
                        pause = (pause * 2).min(Duration::from_secs(5));
                    }
                },
            }
        }
    }

    /// One transaction: commands, offsets, and dead letters published before both are committed.
    async fn commit(&self, part: &Fetched) -> Result<Applied, BatchError> {
        let mut unknown = HashSet::new();
        loop {
            let (batch, mut dead) = self.batch(part, &unknown);
            let staged = match self.ledger.stage(&batch).await {
                Ok(staged) => staged,
                Err(LedgerError::UnknownSale(sales)) => {
                    for sale in sales {
                        match self.stores.catalog.sale(&sale).await? {
                            Some(found) => self.ledger.insert_sale(&found.settings).await?,
                            None => drop(unknown.insert(sale)),
                        }
                    }
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            for refused in &staged.applied().refused {
                let entry = &batch.entries[refused.entry];
                dead.push((entry.partition, entry.offset, entry.topic.clone(), refused.reason.name().to_owned()));
            }
            self.publish(part, &dead).await?;
            return Ok(staged.commit().await?);
        }
    }

    /// A record that the ledger refuses whenever it is tried goes to the dead letters, and the offsets pass it.
    async fn pass(&self, part: &Fetched, reason: &str) -> Result<(), BatchError> {
        let dead: Vec<_> =
            part.records.iter().map(|r| (r.partition, r.offset, r.topic.clone(), reason.to_owned())).collect();
        let batch = Batch { group: self.group.clone(), entries: Vec::new(), offsets: part.moves.clone() };
        let staged = self.ledger.stage(&batch).await?;
        self.publish(part, &dead).await?;
        staged.commit().await?;
        Ok(())
    }

    /// The commands that can be read; the others with their reason.
    fn batch(&self, part: &Fetched, unknown: &HashSet<SaleId>) -> (Batch, Vec<Dead>) {
        let mut entries = Vec::with_capacity(part.records.len());
        let mut dead = Vec::new();
        for r in &part.records {
            let mut refuse = |reason: String| dead.push((r.partition, r.offset, r.topic.clone(), reason));
            match Command::from_json(r.payload.as_deref().unwrap_or_default()) {
                Ok(command) if unknown.contains(&command.reservation_id().sale) => refuse("unknown-sale".into()),
                Ok(command) => {
                    entries.push(Entry { topic: r.topic.clone(), partition: r.partition, offset: r.offset, command })
                }
                Err(e) => refuse(format!("unreadable: {e}")),
            }
        }
        (Batch { group: self.group.clone(), entries, offsets: part.moves.clone() }, dead)
    }

    /// Puts records into the dead letter topic and marks their pending entries, so that nobody writes them again.
    /// May be done twice for one record if the commit after it fails; replay is idempotent.
    async fn publish(&self, part: &Fetched, dead: &[Dead]) -> Result<(), BatchError> {
        for (partition, offset, topic, reason) in dead {
            let found =
                part.records.iter().find(|r| r.partition == *partition && r.offset == *offset && r.topic == *topic);
            let Some(record) = found else { continue };
            tracing::error!(topic = %topic, partition, offset, reason, "record.dead_lettered");
            metrics::counter!("onsale_dead_letters_total").increment(1);
            self.stores
                .log
                .dead_letter(&DeadLetter {
                    topic,
                    partition: *partition,
                    offset: *offset,
                    key: record.key.as_deref(),
                    payload: record.payload.as_deref(),
                    reason,
                })
                .await?;
            self.settler.bury(record);
        }
        Ok(())
    }
}

type Dead = (i32, i64, Arc<str>, String);

/// Two parts that join: each takes every partition as far as its records reach.
fn halves(part: Fetched) -> (Fetched, Fetched) {
    let Fetched { generation, mut records, moves } = part;
    let later = records.split_off(records.len() / 2);
    let reached = |r: &[Record], m: &OffsetMove| {
        r.iter().filter(|r| r.partition == m.partition && r.topic == m.topic).map(|r| r.offset + 1).max()
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for m in moves {
        let middle = reached(&records, &m);
        let rest = reached(&later, &m).is_some();
        match middle {
            Some(middle) if rest => {
                first.push(OffsetMove { next: middle, ..m.clone() });
                second.push(OffsetMove { expected: middle, ..m });
            }
            Some(_) => first.push(m),
            None => second.push(m),
        }
    }
    (Fetched { generation, records, moves: first }, Fetched { generation, records: later, moves: second })
}

/// Between half of `pause` and all of it, so that two processors do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::now_v7().as_u128() as u32;
    pause / 2 + pause / 2 * (random % 1024) / 1024
}

fn count(applied: &Applied, took: Duration) {
    let c = &applied.counts;
    for (effect, n) in [
        ("recorded", c.recorded),
        ("duplicate", c.duplicate),
        ("rejected", c.rejected),
        ("cancelled", c.cancelled),
        ("no-effect", c.no_effect),
        ("refused", c.refused),
    ] {
        if n > 0 {
            metrics::counter!("onsale_ledger_commands_total", "effect" => effect).increment(n as u64);
        }
    }
    metrics::histogram!("onsale_batch_duration_seconds").record(took.as_secs_f64());
    metrics::histogram!("onsale_batch_commands").record(applied.settled.len() as f64);
    let now = onsale_domain::Timestamp::now().millis();
    let newest = applied.settled.iter().filter(|s| s.kind == EventKind::Hold);
    for s in newest {
        // The id carries the millisecond in which the function made it.
        if let Some(made) = s.reservation.uuid.get_timestamp() {
            let (seconds, nanos) = made.to_unix();
            let made = seconds as f64 + f64::from(nanos) / 1e9;
            metrics::histogram!("onsale_accept_to_ledger_seconds").record((now as f64 / 1e3 - made).max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64) -> Record {
        Record { topic: "t".into(), partition, offset, key: None, payload: None }
    }

    fn step(partition: i32, expected: i64, next: i64) -> OffsetMove {
        OffsetMove { topic: "t".into(), partition, expected, next }
    }

    #[test]
    fn halves_join_where_they_part() {
        let records = vec![record(0, 5), record(1, 9), record(0, 6), record(2, 1)];
        let part = Fetched { generation: 3, records, moves: vec![step(0, 5, 7), step(1, 8, 10), step(2, 0, 2)] };
        let (first, second) = halves(part);
        assert_eq!(first.records, [record(0, 5), record(1, 9)]);
        assert_eq!(first.moves, [step(0, 5, 6), step(1, 8, 10)]);
        assert_eq!(second.records, [record(0, 6), record(2, 1)]);
        assert_eq!(second.moves, [step(0, 6, 7), step(2, 0, 2)]);
    }
}
