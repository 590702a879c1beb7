//! Reservations: the table `reservation`.

use super::{Ledger, LedgerError, Slices, fold::Change, from_column, sale};
use onsale_domain::{Currency, Epoch, Hold, Money, ReservationId, ReservationState, Timestamp, UnitNumber, UserId};
use sqlx::{PgConnection, Row, postgres::PgRow};
use std::collections::HashMap;
use uuid::Uuid;

/// A reservation as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationRow {
    /// Its id.
    pub id: ReservationId,
    /// Whose it is.
    pub user_id: UserId,
    /// Where it stands.
    pub state: ReservationState,
    /// 1 when it was recorded, one more with every change since.
    pub version: i32,
    /// The units as sold, ascending, also when they have been freed since.
    pub units: Vec<UnitNumber>,
    /// What it costs.
    pub amount: Money,
    /// When Redis decided.
    pub held_at: Timestamp,
    /// Until when it waits for its payment.
    pub expires_at: Timestamp,
    /// The epoch of the Redis state that decided.
    pub epoch: Epoch,
    /// When the ledger took it, by the database's clock.
    pub recorded_at: Timestamp,
    /// When the command that ended it was accepted; of a rejected one, when it was held.
    pub ended_at: Option<Timestamp>,
    /// Why it was rejected.
    pub reason: Option<String>,
}

impl Ledger {
    /// One reservation as it stands, if the ledger has it.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if the row cannot be read.
    pub async fn reservation(&self, id: &ReservationId) -> Result<Option<ReservationRow>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let found = by_id(&mut connection, &[id.uuid]).await?.remove(&id.uuid);
        Ok(found.filter(|row| row.id == *id))
    }
}

/// The reservations among `ids` that the ledger has.
pub(super) async fn by_id(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, ReservationRow>, LedgerError> {
    sqlx::query(
        "select id, sale_id, user_id, state, version, units, amount, currency, held_at, expires_at, epoch, \
                recorded_at, ended_at, reason \
         from reservation where id = any($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?
    .iter()
    .map(|row| read(row).map(|reservation| (reservation.id.uuid, reservation)))
    .collect()
}

/// State and version of those of `ids` that the ledger has.
pub(super) async fn states(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, (ReservationState, i32)>, LedgerError> {
    sqlx::query("select id, state, version from reservation where id = any($1)")
        .bind(ids)
        .fetch_all(connection)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("id")?, (state(row)?, row.try_get("version")?))))
        .collect()
}

/// Writes reservations down as held. Fails with a unique violation if the ledger has one of them.
pub(super) async fn insert(connection: &mut PgConnection, holds: &[&Hold]) -> Result<(), sqlx::Error> {
    let units = Slices::of(holds.iter().map(|h| h.units.as_slice()));
    // Every column is one pass over the same holds, so they are equally long.
    sqlx::query(
        "insert into reservation \
             (id, sale_id, user_id, state, version, units, amount, currency, held_at, expires_at, epoch) \
         select h.id, h.sale_id, h.user_id, 0, 1, ($4::int[])[h.first:h.last], h.amount, h.currency, h.held_at, \
                h.expires_at, h.epoch \
         from unnest($1::uuid[], $2::text[], $3::text[], $5::int[], $6::int[], $7::bigint[], $8::text[], \
                     $9::timestamptz[], $10::timestamptz[], $11::bigint[]) \
              as h(id, sale_id, user_id, first, last, amount, currency, held_at, expires_at, epoch)",
    )
    .bind(holds.iter().map(|h| h.reservation_id.uuid).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.reservation_id.sale.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.user_id.as_str()).collect::<Vec<_>>())
    .bind(units.flat)
    .bind(units.first)
    .bind(units.last)
    .bind(holds.iter().map(|h| h.amount.amount).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.amount.currency.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.occurred_at.to_datetime()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.expires_at.to_datetime()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| i64::from(h.epoch)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Changes reservations by compare-and-set on their version; tells how many stood where their change starts.
pub(super) async fn change(connection: &mut PgConnection, changes: &[Change<'_>]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "update reservation r \
         set state = c.state, version = c.version, ended_at = c.ended_at, reason = c.reason \
         from unnest($1::uuid[], $2::int[], $3::int[], $4::smallint[], $5::timestamptz[], $6::text[]) \
              as c(id, from_version, version, state, ended_at, reason) \
         where r.id = c.id and r.version = c.from_version",
    )
    .bind(changes.iter().map(|c| c.id.uuid).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.from_version).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.version).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| i16::from(c.state.code())).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.ended_at.map(Timestamp::to_datetime)).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.reason.as_deref()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The state of a row.
pub(super) fn state(row: &PgRow) -> Result<ReservationState, LedgerError> {
    let code: i16 = row.try_get("state")?;
    u8::try_from(code)
        .ok()
        .and_then(ReservationState::from_code)
        .ok_or_else(|| LedgerError::Inconsistent(format!("{code} is no state of a reservation")))
}

/// The reservation of a row with the columns of [`by_id`].
pub(super) fn read(row: &PgRow) -> Result<ReservationRow, LedgerError> {
    let uuid: Uuid = row.try_get("id")?;
    let wrong = |e: onsale_domain::Invalid| LedgerError::Inconsistent(format!("reservation {uuid}: {e}"));
    let time = |column| Ok::<_, sqlx::Error>(Timestamp::from(row.try_get::<chrono::DateTime<chrono::Utc>, _>(column)?));
    let currency: &str = row.try_get("currency")?;
    Ok(ReservationRow {
        id: ReservationId { sale: sale::sale_id(row)?, uuid },
        user_id: UserId::parse(row.try_get("user_id")?).map_err(wrong)?,
        state: state(row)?,
        version: row.try_get("version")?,
        units: row.try_get::<Vec<i32>, _>("units")?.into_iter().map(from_column).collect(),
        amount: Money { amount: row.try_get("amount")?, currency: Currency::parse(currency).map_err(wrong)? },
        held_at: time("held_at")?,
        expires_at: time("expires_at")?,
        epoch: sale::epoch(row)?,
        recorded_at: time("recorded_at")?,
        ended_at: row.try_get::<Option<chrono::DateTime<chrono::Utc>>, _>("ended_at")?.map(Timestamp::from),
        reason: row.try_get("reason")?,
    })
}
