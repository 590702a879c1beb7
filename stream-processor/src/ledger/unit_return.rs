//! The journal of units on their way back into Redis: the table `unit_return`.

use super::{Ledger, LedgerError, Slices, from_column, sale};
use onsale_domain::{ReservationId, SaleId, UnitNumber, UserId};
use sqlx::{PgConnection, Row};

/// Units the ledger has freed, on their way back into Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitReturn {
    /// Its number within the sale, from 1 without gaps: the order in which returns are applied.
    pub seq: i64,
    /// The reservation, and so the sale, that had them.
    pub reservation: ReservationId,
    /// Whose it was: what counts against the user's limit goes back too, also when there are no units.
    pub user: UserId,
    /// The units, ascending, without those that have another owner by now.
    pub units: Vec<UnitNumber>,
}

/// A return to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Freed<'a> {
    pub reservation: &'a ReservationId,
    pub user: &'a UserId,
    pub units: Vec<UnitNumber>,
}

impl Ledger {
    /// Returns that Redis is not known to have, at most `per_sale` of each sale, by sale and number. Each sale
    /// has its own share, so that one whose Redis state takes none keeps no other from its own.
    ///
    /// A unit that has an owner is left out, whatever the journal says: it was rejected there as sold twice, and
    /// the other buyer's reservation came in after. Giving it back would sell it a third time.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn pending_returns(&self, per_sale: i64) -> Result<Vec<UnitReturn>, LedgerError> {
        sqlx::query(
            "select p.sale_id, p.seq, p.reservation_id, p.user_id, \
                    array(select n from unnest(p.units) n \
                          where not exists (select from unit u where u.sale_id = p.sale_id and u.number = n) \
                          order by n) as units \
             from sale s \
             cross join lateral (select * from unit_return r \
                                 where r.sale_id = s.sale_id and r.applied_at is null \
                                 order by r.seq limit $1) p \
             order by p.sale_id, p.seq",
        )
        .bind(per_sale)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            let sale = sale::sale_id(row)?;
            let seq = row.try_get("seq")?;
            let user = UserId::parse(row.try_get("user_id")?)
                .map_err(|e| LedgerError::Inconsistent(format!("unit return {seq} of sale {sale}: {e}")))?;
            Ok(UnitReturn {
                seq,
                reservation: ReservationId { sale, uuid: row.try_get("reservation_id")? },
                user,
                units: row.try_get::<Vec<i32>, _>("units")?.into_iter().map(from_column).collect(),
            })
        })
        .collect()
    }

    /// Notes that Redis has applied a sale's returns up to and including `up_to`; tells how many that were new.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn mark_returned(&self, sale: &SaleId, up_to: i64) -> Result<u64, LedgerError> {
        let done = sqlx::query(
            "update unit_return set applied_at = now() where sale_id = $1 and seq <= $2 and applied_at is null",
        )
        .bind(sale.as_str())
        .bind(up_to)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

/// Appends to the journal, in the order given.
///
/// The numbers come from the sale's row, which stays locked until the commit: whoever comes next waits, so numbers
/// become visible in their order, and a transaction that is undone leaves no gap. For the same reason this is the
/// last thing a transaction should do.
pub(super) async fn append(connection: &mut PgConnection, returns: &[Freed<'_>]) -> Result<(), LedgerError> {
    let sales: Vec<&str> = returns.iter().map(|r| r.reservation.sale.as_str()).collect();
    // All of them at once, in one order for all transactions, so that no two wait for each other in a circle.
    sqlx::query("select from sale where sale_id = any($1::text[]) order by sale_id for no key update")
        .bind(&sales)
        .execute(&mut *connection)
        .await?;
    let units = Slices::of(returns.iter().map(|r| r.units.as_slice()));
    let written = sqlx::query(
        "with freed as ( \
             select * from unnest($1::text[], $2::uuid[], $3::text[], $5::int[], $6::int[]) \
                           with ordinality as f(sale_id, reservation_id, user_id, first, last, place)), \
         counted as (select sale_id, count(*) as returns from freed group by sale_id), \
         numbered as ( \
             update sale s set return_seq = s.return_seq + c.returns from counted c where s.sale_id = c.sale_id \
             returning s.sale_id, s.return_seq - c.returns as before) \
         insert into unit_return (sale_id, seq, reservation_id, user_id, units) \
         select f.sale_id, n.before + row_number() over (partition by f.sale_id order by f.place), \
                f.reservation_id, f.user_id, ($4::int[])[f.first:f.last] \
         from freed f join numbered n on n.sale_id = f.sale_id",
    )
    .bind(&sales)
    .bind(returns.iter().map(|r| r.reservation.uuid).collect::<Vec<_>>())
    .bind(returns.iter().map(|r| r.user.as_str()).collect::<Vec<_>>())
    .bind(units.flat)
    .bind(units.first)
    .bind(units.last)
    .execute(connection)
    .await?
    .rows_affected();
    if usize::try_from(written) == Ok(returns.len()) {
        Ok(())
    } else {
        Err(LedgerError::Inconsistent("units were freed of a sale that has no row".to_owned()))
    }
}
