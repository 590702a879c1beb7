//! Who owns each held or sold unit: the table `unit`.

use super::{LedgerError, from_column, sale, to_column};
use onsale_domain::{SaleId, UnitNumber};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

/// A unit and the reservation that owns it, or is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owned<'a> {
    pub sale: &'a SaleId,
    pub number: UnitNumber,
    pub reservation: Uuid,
}

/// A unit's owner as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub sale: SaleId,
    pub number: UnitNumber,
    pub reservation: Uuid,
}

/// The owners of those of `units` that have one.
pub(super) async fn owners(
    connection: &mut PgConnection,
    units: &[(&SaleId, UnitNumber)],
) -> Result<Vec<Owner>, LedgerError> {
    sqlx::query(
        "select u.sale_id, u.number, u.reservation_id \
         from (select distinct * from unnest($1::text[], $2::int[])) as w(sale_id, number) \
         join unit u on u.sale_id = w.sale_id and u.number = w.number",
    )
    .bind(units.iter().map(|(sale, _)| sale.as_str()).collect::<Vec<_>>())
    .bind(units.iter().map(|&(_, number)| to_column(number)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?
    .iter()
    .map(|row| {
        Ok(Owner {
            sale: sale::sale_id(row)?,
            number: from_column(row.try_get("number")?),
            reservation: row.try_get("reservation_id")?,
        })
    })
    .collect()
}

/// Gives units to their reservations. Fails with a unique violation if one has an owner: the last guard against
/// selling a unit twice.
pub(super) async fn take(connection: &mut PgConnection, units: &[Owned<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into unit (sale_id, number, reservation_id) \
         select * from unnest($1::text[], $2::int[], $3::uuid[])",
    )
    .bind(units.iter().map(|u| u.sale.as_str()).collect::<Vec<_>>())
    .bind(units.iter().map(|u| to_column(u.number)).collect::<Vec<_>>())
    .bind(units.iter().map(|u| u.reservation).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Frees units that belong to their reservations; tells how many did.
pub(super) async fn free(connection: &mut PgConnection, units: &[Owned<'_>]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from unit u using unnest($1::text[], $2::int[], $3::uuid[]) as f(sale_id, number, reservation_id) \
         where u.sale_id = f.sale_id and u.number = f.number and u.reservation_id = f.reservation_id",
    )
    .bind(units.iter().map(|u| u.sale.as_str()).collect::<Vec<_>>())
    .bind(units.iter().map(|u| to_column(u.number)).collect::<Vec<_>>())
    .bind(units.iter().map(|u| u.reservation).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
