//! Reservations whose state must be written to where finished requests are read from: the table `outcome_queue`.

use super::{Ledger, LedgerError, ReservationRow, reservation};
use sqlx::PgConnection;
use uuid::Uuid;

impl Ledger {
    /// At most `limit` reservations whose present state is still to be written, as they stand now, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn next_outcomes(&self, limit: i64) -> Result<Vec<ReservationRow>, LedgerError> {
        // By id, which is by age: uuids are version 7, and that order has an index.
        sqlx::query(
            "select r.id, r.sale_id, r.user_id, r.state, r.version, r.units, r.amount, r.currency, r.held_at, \
                    r.expires_at, r.epoch, r.recorded_at, r.ended_at, r.reason \
             from outcome_queue q join reservation r on r.id = q.reservation_id \
             order by q.reservation_id limit $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(reservation::read)
        .collect()
    }

    /// Takes reservations off the queue that have been written, each with the version that was. One that has
    /// changed since stays. Tells how many were taken off.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn outcome_written(&self, written: &[(Uuid, i32)]) -> Result<u64, LedgerError> {
        // The version is compared in the queue's own row: a change that is about to commit has that row locked,
        // and is seen once it has; a join with reservation would be decided by the version before.
        let done = sqlx::query(
            "delete from outcome_queue q using unnest($1::uuid[], $2::int[]) as w(reservation_id, version) \
             where q.reservation_id = w.reservation_id and q.version <= w.version",
        )
        .bind(written.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(written.iter().map(|(_, version)| *version).collect::<Vec<_>>())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

/// Queues reservations (each once) at the versions they have now.
pub(super) async fn enqueue(connection: &mut PgConnection, changed: &[(Uuid, i32)]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into outcome_queue (reservation_id, version) \
         select * from unnest($1::uuid[], $2::int[]) \
         on conflict (reservation_id) do update set version = excluded.version, enqueued_at = now()",
    )
    .bind(changed.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(changed.iter().map(|(_, version)| *version).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
