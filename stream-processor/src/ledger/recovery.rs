//! What the leader asks to compare Redis with the ledger, and to lay a sale anew.

use super::{Ledger, LedgerError, ReservationRow, Snapshot, UnitReturn, from_column, reservation, sale};
use onsale_domain::{Epoch, ReservationId, ReservationState, SaleId, Timestamp, UnitNumber, UserId};
use sqlx::{Row, types::Json};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// An owned unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedUnit {
    /// Its number.
    pub number: UnitNumber,
    /// Who owns it.
    pub reservation: Uuid,
    /// Where that stands.
    pub state: ReservationState,
    /// When Redis decided it.
    pub held_at: Timestamp,
}

impl Ledger {
    /// Where the ledger stands in every partition it has read, by topic and partition.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn offsets(&self, group: &str) -> Result<BTreeMap<(String, i32), i64>, LedgerError> {
        sqlx::query("select topic, partition, next_offset from consumer_offset where consumer_group = $1")
            .bind(group)
            .fetch_all(self.pool())
            .await?
            .iter()
            .map(|row| Ok(((row.try_get("topic")?, row.try_get("partition")?), row.try_get("next_offset")?)))
            .collect()
    }

    /// Raises a sale's epoch and notes where the log ended then: what a lower epoch writes behind that came too
    /// late. Returns whether it was lower.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn raise_epoch(
        &self,
        sale: &SaleId,
        to: Epoch,
        ends: &BTreeMap<(String, i32), i64>,
    ) -> Result<bool, LedgerError> {
        let ends: Vec<_> = ends.iter().map(|((topic, partition), end)| (topic, partition, end)).collect();
        let done = sqlx::query("update sale set epoch = $2, epoch_ends = $3 where sale_id = $1 and epoch < $2")
            .bind(sale.as_str())
            .bind(i64::from(to))
            .bind(Json(ends))
            .execute(self.pool())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Which of `commands` (other than holds) the ledger has.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn known_commands(&self, commands: &[Uuid]) -> Result<HashSet<Uuid>, LedgerError> {
        sqlx::query("select id from command where id = any($1)")
            .bind(commands)
            .fetch_all(self.pool())
            .await?
            .iter()
            .map(|row| Ok(row.try_get(0)?))
            .collect()
    }

    /// State and version of those of `reservations` that the ledger has.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn standing(&self, reservations: &[Uuid]) -> Result<HashMap<Uuid, (ReservationState, i32)>, LedgerError> {
        let mut connection = self.pool().acquire().await?;
        reservation::states(&mut connection, reservations).await
    }
}

impl Snapshot {
    /// The units of a sale that have an owner.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn owned_units(&mut self, sale: &SaleId) -> Result<Vec<OwnedUnit>, LedgerError> {
        sqlx::query(
            "select u.number, u.reservation_id, r.state, r.held_at \
             from unit u join reservation r on r.id = u.reservation_id where u.sale_id = $1",
        )
        .bind(sale.as_str())
        .fetch_all(self.connection())
        .await?
        .iter()
        .map(|row| {
            let held_at: chrono::DateTime<chrono::Utc> = row.try_get("held_at")?;
            Ok(OwnedUnit {
                number: from_column(row.try_get("number")?),
                reservation: row.try_get("reservation_id")?,
                state: reservation::state(row)?,
                held_at: held_at.into(),
            })
        })
        .collect()
    }

    /// The journal of a sale's returns behind number `seq`, in order, and when Redis decided each reservation.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn returns_after(
        &mut self,
        sale: &SaleId,
        seq: i64,
    ) -> Result<Vec<(UnitReturn, Timestamp)>, LedgerError> {
        sqlx::query(
            "select j.seq, j.reservation_id, j.user_id, j.units, r.held_at \
             from unit_return j join reservation r on r.id = j.reservation_id \
             where j.sale_id = $1 and j.seq > $2 order by j.seq",
        )
        .bind(sale.as_str())
        .bind(seq)
        .fetch_all(self.connection())
        .await?
        .iter()
        .map(|row| {
            let seq = row.try_get("seq")?;
            let user = UserId::parse(row.try_get("user_id")?)
                .map_err(|e| LedgerError::Inconsistent(format!("unit return {seq} of sale {sale}: {e}")))?;
            let units = row.try_get::<Vec<i32>, _>("units")?.into_iter().map(from_column).collect();
            let reservation = ReservationId { sale: sale.clone(), uuid: row.try_get("reservation_id")? };
            let held_at: chrono::DateTime<chrono::Utc> = row.try_get("held_at")?;
            Ok((UnitReturn { seq, reservation, user, units }, held_at.into()))
        })
        .collect()
    }

    /// The last number of a sale's journal of returns, and its epoch, as of this view. `None` where the ledger does
    /// not know the sale.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if the row cannot be read.
    pub async fn return_seq(&mut self, sale: &SaleId) -> Result<Option<(i64, Epoch)>, LedgerError> {
        sqlx::query("select return_seq, epoch from sale where sale_id = $1")
            .bind(sale.as_str())
            .fetch_optional(self.connection())
            .await?
            .map(|row| Ok((row.try_get("return_seq")?, sale::epoch(&row)?)))
            .transpose()
    }

    /// The reservations of a sale that own their units, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn live_reservations(&mut self, sale: &SaleId) -> Result<Vec<ReservationRow>, LedgerError> {
        sqlx::query(
            "select id, sale_id, user_id, state, version, units, amount, currency, held_at, expires_at, epoch, \
                    recorded_at, ended_at, reason \
             from reservation where sale_id = $1 and state in (0, 1) order by id",
        )
        .bind(sale.as_str())
        .fetch_all(self.connection())
        .await?
        .iter()
        .map(reservation::read)
        .collect()
    }
}
