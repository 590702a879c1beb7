//! What only one processor does at a time: unit returns, outcomes, the relay, and blessing sales again.
//!
//! The leader is whoever holds an advisory lock of the ledger. Each duty is a step that may be done twice, or by two
//! at once for a moment, without harm: Redis applies returns by their number, the catalog keeps the higher version,
//! the ledger takes a command once, and a blessing fails unless it starts from what stands there.

pub mod fence;
pub mod outcomes;
pub mod relay;
pub mod returns;

use crate::{
    config::{Settings, Stores},
    ledger::Ledger,
};
use onsale_catalog::Sale;
use onsale_domain::SaleId;
use onsale_log::{EndOffsets, LogEnds};
use sqlx::{Connection, PgConnection};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Names the lock. Any number will do, as long as nobody else uses it in this database.
const LOCK: i64 = 0x006F_6E73_616C_6531;

/// How often the list of sales is read and every sale looked after.
const SALES_INTERVAL: Duration = Duration::from_secs(1);

/// The duties of the leader and what they need.
pub struct Leader {
    ledger: Ledger,
    stores: Stores,
    settings: Settings,
    ends: LogEnds,
}

impl Leader {
    /// Nothing is done before [`run`](Self::run).
    pub fn new(ledger: Ledger, stores: Stores, settings: Settings) -> anyhow::Result<Self> {
        let ends = LogEnds::new(&settings.log)?;
        Ok(Self { ledger, stores, settings, ends })
    }

    /// Stands for election until stopped, and does the duties while elected.
    pub async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.elect().await {
                Ok(Some(mut lock)) => {
                    tracing::info!("leader.elected");
                    metrics::gauge!("onsale_leader").set(1.0);
                    self.lead(&mut lock, &stop).await;
                    metrics::gauge!("onsale_leader").set(0.0);
                    tracing::info!("leader.resigned");
                    let _ = lock.close().await;
                }
                Ok(None) => {}
                Err(e) => tracing::warn!(error = %e, "leader.election_failed"),
            }
            pause(SALES_INTERVAL, &stop).await;
        }
    }

    /// The connection that holds the lock, if nobody else does. The lock goes with the connection.
    async fn elect(&self) -> Result<Option<PgConnection>, sqlx::Error> {
        let mut connection = self.ledger.pool().acquire().await?.detach();
        let mine: bool =
            sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut connection).await?;
        Ok(mine.then_some(connection))
    }

    async fn lead(&self, lock: &mut PgConnection, stop: &CancellationToken) {
        let mut fences = fence::Fences::default();
        let mut relay = relay::Relay::default();
        let mut copied = HashMap::new();
        let mut sales_read: Option<Instant> = None;
        while !stop.is_cancelled() {
            // A lock whose connection is gone is somebody else's by now.
            if let Err(e) = lock.ping().await {
                tracing::warn!(error = %e, "leader.lock_lost");
                return;
            }
            report("returns", self.give_back().await);
            report("outcomes", self.write_outcomes().await);
            if sales_read.is_none_or(|at| at.elapsed() >= SALES_INTERVAL) {
                sales_read = Some(Instant::now());
                match self.stores.catalog.sales().await {
                    Ok(sales) => {
                        metrics::gauge!("onsale_sales").set(sales.len() as f64);
                        self.copy_settings(&mut copied, &sales).await;
                        self.look_after_fences(&mut fences, &sales).await;
                        self.look_after_pending(&mut relay, &sales).await;
                    }
                    Err(e) => tracing::warn!(error = %e, "leader.sales_unknown"),
                }
            }
            pause(self.settings.leader_interval, stop).await;
        }
    }

    /// Brings settings that are new since the last time into the ledger: the audit measures users by the limit there.
    async fn copy_settings(&self, copied: &mut HashMap<SaleId, u64>, sales: &Sales) {
        for sale in sales {
            if copied.get(&sale.settings.id) == Some(&sale.version) {
                continue;
            }
            let result = self.ledger.insert_sale(&sale.settings).await;
            if result.is_ok() {
                copied.insert(sale.settings.id.clone(), sale.version);
            }
            report("settings", result);
        }
    }

    /// Whether the ledger has everything that stood in the log when it ended at `ends`.
    async fn drained(&self, ends: &EndOffsets) -> Result<bool, crate::ledger::LedgerError> {
        let offsets = self.ledger.offsets(&self.settings.group).await?;
        Ok(ends.iter().all(|(partition, end)| *end == 0 || offsets.get(partition).is_some_and(|next| next >= end)))
    }

    async fn log_ends(&self) -> anyhow::Result<EndOffsets> {
        self.ends.of(&[self.settings.log.topics().reservation]).await
    }
}

/// A sale and its settings, as the catalog has them.
type Sales = [Sale];

fn report<E: std::fmt::Display>(duty: &'static str, result: Result<(), E>) {
    if let Err(e) = result {
        metrics::counter!("onsale_leader_errors_total", "duty" => duty).increment(1);
        tracing::warn!(duty, error = %e, "leader.duty_failed");
    }
}

async fn pause(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
