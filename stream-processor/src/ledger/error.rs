//! What can go wrong.

use onsale_domain::SaleId;

/// Why the ledger did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The log's offsets in the ledger are not where the batch starts: another owner of a partition has moved them,
    /// or a commit whose answer was lost did. Nothing of the batch was written. Read the offsets again
    /// ([`Ledger::assign_offsets`](super::Ledger::assign_offsets)) and go on from there.
    #[error("the offsets in the ledger are not where this batch starts: {found} of {moves} partitions are")]
    Stale {
        /// Partitions the batch moves.
        moves: usize,
        /// Of these, the ones that stood where the batch expected them.
        found: u64,
    },
    /// Holds of sales the ledger does not know. Nothing was written: insert the sales and stage again.
    #[error("sales unknown to the ledger: {}", .0.iter().map(SaleId::as_str).collect::<Vec<_>>().join(", "))]
    UnknownSale(Vec<SaleId>),
    /// A sale would change what it sells: its capacity, seats or currency.
    #[error("sale {0} is in the ledger with another stock or currency")]
    StockDiffers(SaleId),
    /// Others kept changing what the batch is about while it was being applied. Transient.
    #[error("gave up after {0} attempts: other transactions kept changing the same rows")]
    Contended(u32),
    /// A row that this code does not write, or one that is missing though another needs it.
    #[error("the ledger contradicts itself: {0}")]
    Inconsistent(String),
    /// The schema could not be brought up to date.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database, or the way to it.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

impl LedgerError {
    /// Whether the same call may succeed later without anyone changing its input: the connection was lost, the
    /// server is stopping, starting or failing over, resources ran short, or other transactions were in the way.
    ///
    /// After a transient error of a commit it is unknown whether the batch is in; staging it again tells, by
    /// [`LedgerError::Stale`].
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Contended(_) => true,
            Self::Database(error) => is_transient(error),
            Self::Stale { .. }
            | Self::UnknownSale(_)
            | Self::StockDiffers(_)
            | Self::Inconsistent(_)
            | Self::Migrate(_) => false,
        }
    }

    /// Whether the database objected to the data of the batch: a batch without the record at fault would go in.
    /// Whatever else is not transient (a missing table, a lost permission) would meet every record alike.
    pub fn is_about_data(&self) -> bool {
        let Self::Database(sqlx::Error::Database(refusal)) = self else { return false };
        // Data exception, integrity constraint violation.
        refusal.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // What is left of a connection that broke within a message.
        sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| is_transient_state(&code)),
        _ => false,
    }
}

/// Source: PostgreSQL 15 documentation, appendix A, error codes.
fn is_transient_state(code: &str) -> bool {
    match code {
        // database_dropped
        "57P04" => false,
        // read_only_sql_transaction (a fail-over has left us with the former writer), idle_in_transaction_session_timeout,
        // serialization_failure, deadlock_detected, lock_not_available
        "25006" | "25P03" | "40001" | "40P01" | "55P03" => true,
        // Connection exception, insufficient resources, operator intervention, system error.
        _ => ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)),
    }
}

/// Whether `error` is the database's refusal of a second row with the same key.
pub(super) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
