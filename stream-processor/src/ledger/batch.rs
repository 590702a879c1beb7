//! A batch: commands and the offsets they were read at, in one transaction.

use super::{
    Applied, Ledger, LedgerError, OffsetMove, command, error, fold,
    fold::{Outcome, Standing},
    offset, outcome_queue, reservation, sale, unit, unit_return,
};
use onsale_domain::{Command, SaleId, UnitNumber};
use sqlx::{PgConnection, Postgres, Transaction};
use std::{collections::HashSet, sync::Arc};
use uuid::Uuid;

/// How often a batch is decided anew because others changed the same rows meanwhile. Each time means that one of them has
/// committed; more than a few in a row do not happen by chance.
const ATTEMPTS: u32 = 8;

/// A command and where in the log it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// The command.
    pub command: Command,
}

/// What is written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The consumer group whose offsets move.
    pub group: Arc<str>,
    /// The commands, those of one partition in the order of the log.
    pub entries: Vec<Entry>,
    /// The steps of the partitions, one of each at most. They may pass records that are no entries.
    pub offsets: Vec<OffsetMove>,
}

/// A batch that has been applied and waits for its commit. Dropping it undoes all of it.
///
/// It holds locks that other owners of the same partitions, and others who free units of the same sales, wait for.
#[derive(Debug)]
#[must_use = "nothing is in the ledger before the commit"]
pub struct Staged {
    transaction: Transaction<'static, Postgres>,
    applied: Applied,
}

impl Staged {
    /// What will have become of the commands once this is committed.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Commits: the effects of the commands, what follows from them, and the offsets.
    ///
    /// # Errors
    /// [`LedgerError::Database`]. If the connection broke it is unknown whether the batch is in: read the offsets
    /// again ([`Ledger::assign_offsets`]) before going on.
    pub async fn commit(self) -> Result<Applied, LedgerError> {
        self.transaction.commit().await?;
        Ok(self.applied)
    }
}

impl Ledger {
    /// Applies a batch in a new transaction and leaves it open, so that what was refused can be put elsewhere
    /// before the offsets pass it.
    ///
    /// The first attempt takes it that the batch's holds are new and their units free, as they nearly always
    /// are, and spares itself the reading: the primary keys say if it was wrong. Then, and in every later attempt, what stands
    /// is read first and the batch decided on that.
    ///
    /// # Errors
    /// * [`LedgerError::Stale`]: the offsets are not where the batch starts.
    /// * [`LedgerError::UnknownSale`]: insert the sales and stage again.
    /// * [`LedgerError::Contended`], [`LedgerError::Database`], [`LedgerError::Inconsistent`].
    ///
    /// Whichever it is, nothing of the batch is in the ledger.
    pub async fn stage(&self, batch: &Batch) -> Result<Staged, LedgerError> {
        for attempt in 0..ATTEMPTS {
            let reads = if attempt == 0 { Reads::Cancelled } else { Reads::All };
            let mut transaction = self.pool.begin().await?;
            offset::advance(&mut transaction, &batch.group, &batch.offsets).await?;
            let standing = read(&mut transaction, &batch.entries, reads).await?;
            let outcome = fold::fold(&batch.entries, &standing);
            let decided = reads == Reads::All || outcome.checks_itself;
            if decided && write(&mut transaction, &outcome).await? {
                return Ok(Staged { transaction, applied: outcome.applied });
            }
            transaction.rollback().await?;
        }
        Err(LedgerError::Contended(ATTEMPTS))
    }
}

/// How much of what stands is read before a batch is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// The reservations that cancels are about; holds are taken to be new and their units free.
    Cancelled,
    /// Every reservation, and the owners of every unit a hold wants.
    All,
}

/// Reads what the ledger has about `entries`.
async fn read(connection: &mut PgConnection, entries: &[Entry], reads: Reads) -> Result<Standing, LedgerError> {
    let mut sales: HashSet<&SaleId> = HashSet::new();
    let mut reservations: Vec<Uuid> = Vec::new();
    let mut commands: Vec<Uuid> = Vec::new();
    let mut units: Vec<(&SaleId, UnitNumber)> = Vec::new();
    for entry in entries {
        let reservation = entry.command.reservation_id();
        match &entry.command {
            Command::Hold(hold) => {
                sales.insert(&reservation.sale);
                if reads == Reads::All {
                    reservations.push(reservation.uuid);
                    units.extend(hold.units.iter().map(|&number| (&reservation.sale, number)));
                }
            }
            Command::Cancel(cancel) => {
                reservations.push(reservation.uuid);
                commands.push(cancel.id);
            }
        }
    }

    let mut standing = Standing::default();
    if !sales.is_empty() {
        standing.capacities = sale::capacities(connection, sales.iter().copied()).await?;
        let mut unknown: Vec<SaleId> =
            sales.into_iter().filter(|&sale| !standing.capacities.contains_key(sale)).cloned().collect();
        if !unknown.is_empty() {
            unknown.sort_unstable();
            return Err(LedgerError::UnknownSale(unknown));
        }
    }
    if !reservations.is_empty() {
        standing.reservations = reservation::by_id(connection, &reservations).await?;
    }
    if !units.is_empty() {
        standing.owners = unit::owners(connection, &units).await?;
    }
    if !commands.is_empty() {
        standing.commands = command::known(connection, &commands).await?;
    }
    Ok(standing)
}

/// Writes what was decided; `false` if the ledger has changed since it was read (or is not as it was taken to be),
/// and the transaction must be rolled back.
async fn write(connection: &mut PgConnection, outcome: &Outcome<'_>) -> Result<bool, LedgerError> {
    match write_guarded(connection, outcome).await {
        Ok(as_decided) if !as_decided => return Ok(false),
        Ok(_) => {}
        Err(error) if error::is_unique_violation(&error) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if !outcome.changed.is_empty() {
        let changed: Vec<_> = outcome.changed.iter().map(|change| (change.id.uuid, change.version)).collect();
        outcome_queue::enqueue(connection, &changed).await?;
    }
    if !outcome.returns.is_empty() {
        unit_return::append(connection, &outcome.returns).await?;
    }
    Ok(true)
}

/// The writes that keys and versions guard. `Ok(false)` and a unique violation both mean that the decision is out of date.
async fn write_guarded(connection: &mut PgConnection, outcome: &Outcome<'_>) -> Result<bool, sqlx::Error> {
    if !outcome.fresh.is_empty() {
        reservation::insert(connection, &outcome.fresh).await?;
    }
    if !outcome.changed.is_empty() {
        let changed = reservation::change(connection, &outcome.changed).await?;
        if usize::try_from(changed) != Ok(outcome.changed.len()) {
            return Ok(false);
        }
    }
    if !outcome.freed.is_empty() {
        let freed = unit::free(connection, &outcome.freed).await?;
        if usize::try_from(freed) != Ok(outcome.freed.len()) {
            // The reservation itself stood as it was read, so its units were not its own before: nothing a retry would
            // change, nothing to stop the log for, and the audit names it.
            tracing::error!(
                expected = outcome.freed.len(),
                freed,
                "units to be freed were not owned by their reservation"
            );
        }
    }
    if !outcome.taken.is_empty() {
        // In the order of the key: two batches after the same units then wait for one another in one direction only,
        // and the index is walked once from left to right.
        let mut taken = outcome.taken.clone();
        taken.sort_unstable();
        unit::take(connection, &taken).await?;
    }
    if !outcome.cancels.is_empty() {
        command::insert_cancels(connection, &outcome.cancels).await?;
    }
    Ok(true)
}
