//! The ledger: the Postgres schema that is the truth, and the only code that speaks SQL to it.
//!
//! Commands come in as a [`Batch`] and go in as one transaction together with the offsets of the log
//! they were read from ([`Ledger::stage`]). What a batch frees goes out through two queues written in the same
//! transaction: [`UnitReturn`]s on their way back into Redis, and the reservations whose state must be
//! written to where finished requests are read from ([`Ledger::next_outcomes`]).
//!
//! Each table has one module that holds its SQL; `fold` is the one place that decides.

mod audit;
mod batch;
mod command;
mod error;
mod fold;
mod offset;
mod outcome_queue;
mod recovery;
mod reservation;
mod sale;
#[cfg(test)]
mod tests;
mod unit;
mod unit_return;

pub use audit::{LedgerAudit, OverLimit, SaleAudit, Snapshot, StateCount, Stray};
pub use batch::{Batch, Entry, Staged};
pub use error::LedgerError;
pub use fold::{Applied, Counts, Effect, Refusal, Refused, Settled};
pub use offset::{OffsetMove, Position};
pub use recovery::OwnedUnit;
pub use reservation::ReservationRow;
pub use sale::SaleRow;
pub use unit_return::UnitReturn;

use sqlx::{
    Executor,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long to wait for a connection before a call fails with a transient error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of every connection.
///
/// * A commit is on disk before it is acknowledged, whatever the server's default: Redis forgets what the
///   ledger has said it has.
/// * A processor that freezes within a transaction (its refused records may take a while to publish, but not
///   a minute) loses it, and with it the locks that keep the next owner of its partitions waiting.
/// * Plans are made for each batch as it is: a cached plan made while a table was empty would walk the whole
///   table once it is full, and planning costs a fraction of a millisecond per batch. Nothing here is a query that
///   compiled plans would help.
const SESSION: &str = "set synchronous_commit = on; \
                       set idle_in_transaction_session_timeout = '60s'; \
                       set plan_cache_mode = force_custom_plan; \
                       set jit = off";

/// The way to the ledger. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: PgPool,
}

impl Ledger {
    /// Connects, with at most `connections` connections open at a time. `url` is
    /// `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// [`LedgerError::Database`] if the URL cannot be read or the server not be reached.
    pub async fn connect(url: &str, connections: u32) -> Result<Self, LedgerError> {
        let options = PgConnectOptions::from_str(url)?.application_name("onsale-stream-processor");
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(SESSION).await?;
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Creates or brings up to date the schema. Safe to run again, and by several at once.
    ///
    /// # Errors
    /// [`LedgerError::Migrate`] if a migration fails or one already run has been changed since.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// The connections, for health checks and measuring.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl From<PgPool> for Ledger {
    /// A ledger on connections made elsewhere, without the settings that [`Ledger::connect`] gives them.
    fn from(pool: PgPool) -> Self {
        Self { pool }
    }
}

/// A count or number of units as its column has it. The types differ in sign only: stock ends far below 2^31.
fn to_column(number: onsale_domain::UnitNumber) -> i32 {
    number.cast_signed()
}

/// Back from [`to_column`].
fn from_column(number: i32) -> onsale_domain::UnitNumber {
    number.cast_unsigned()
}

/// Lists of different lengths as one flat list and, for each, the place of its first and last element,
/// counted from 1: `UNNEST` takes arrays of arrays apart, and SQL's `flat[first:last]` puts these together again.
/// An empty list has its last before its first, which SQL reads as empty too.
struct Slices {
    flat: Vec<i32>,
    first: Vec<i32>,
    last: Vec<i32>,
}

impl Slices {
    fn of<'a>(lists: impl IntoIterator<Item = &'a [onsale_domain::UnitNumber]>) -> Self {
        let mut slices = Self { flat: Vec::new(), first: Vec::new(), last: Vec::new() };
        // A batch is far below 2^31 units; saturating keeps a wrong size from becoming another reservation's units.
        let place = |len: usize| i32::try_from(len).unwrap_or(i32::MAX);
        for list in lists {
            slices.first.push(place(slices.flat.len() + 1));
            slices.flat.extend(list.iter().copied().map(to_column));
            slices.last.push(place(slices.flat.len()));
        }
        slices
    }
}
