//! The ledger as it stood at one moment, and whether it contradicts itself.

use super::{Ledger, LedgerError, from_column, reservation, sale};
use chrono::{DateTime, Utc};
use onsale_domain::{Epoch, ReservationState, SaleId, Timestamp, UnitNumber};
use sqlx::{Postgres, Row, Transaction, postgres::PgRow};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// How many examples of a violation are listed per sale. Their number is always told in full.
const EXAMPLES: i64 = 20;

/// A read-only view of the ledger as it stood when it was opened; what commits later is not in it. Keep it short:
/// it holds a connection, and the server keeps every row version it may still ask for.
#[derive(Debug)]
pub struct Snapshot {
    transaction: Transaction<'static, Postgres>,
    taken_at: Timestamp,
}

/// What the ledger holds, sale by sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerAudit {
    /// Every sale, by id.
    pub sales: Vec<SaleAudit>,
    /// How many reservations wait to be written to where finished requests are read from.
    pub outcome_queue: i64,
    /// Sales that have reservations or owned units but no row of their own.
    pub without_row: Vec<SaleId>,
}

/// What the ledger holds of one sale. Lists of examples hold 20 at most; the counts beside them are in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleAudit {
    /// The sale.
    pub sale: SaleId,
    /// How many units it has.
    pub capacity: UnitNumber,
    /// How many units one user may own: the highest the limit has been.
    pub per_user_limit: u32,
    /// The number of its Redis state.
    pub epoch: Epoch,
    /// Reservations and units by state, in the order of [`ReservationState::ALL`].
    pub by_state: [StateCount; 5],
    /// Rows in `unit`: units that have an owner.
    pub unit_rows: i64,
    /// The highest number among them; 0 where there are none.
    pub highest_unit: UnitNumber,
    /// Units whose owner is no reservation that owns them: drift.
    pub strays: i64,
    /// Examples of those.
    pub stray_examples: Vec<Stray>,
    /// Held or confirmed reservations that do not own exactly the units they were sold.
    pub incomplete: i64,
    /// Examples of those.
    pub incomplete_examples: Vec<Uuid>,
    /// The most units any one user owns.
    pub most_per_user: i64,
    /// Users who own more than the limit.
    pub over_limit: i64,
    /// Examples of those.
    pub over_limit_examples: Vec<OverLimit>,
    /// The number last given out in the journal of unit returns.
    pub return_seq: i64,
    /// How many returns the journal holds, applied or not; equals `return_seq`.
    pub returns: i64,
    /// Returns that Redis is not known to have.
    pub pending_returns: i64,
    /// Units in these that have no new owner: on their way back.
    pub returning_units: i64,
    /// The numbers of these returns.
    pub pending_seqs: Vec<i64>,
}

/// Reservations in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateCount {
    /// The state.
    pub state: ReservationState,
    /// How many reservations are in it.
    pub reservations: i64,
    /// The units they were sold.
    pub units: i64,
}

/// A unit whose owner does not own it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray {
    /// The unit.
    pub number: UnitNumber,
    /// The reservation its row names.
    pub reservation: Uuid,
}

/// A user who owns more units than the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    /// The user.
    pub user: String,
    /// How many units they own.
    pub units: i64,
}

impl SaleAudit {
    fn new(sale: SaleId, capacity: UnitNumber, per_user_limit: u32, epoch: Epoch, return_seq: i64) -> Self {
        Self {
            sale,
            capacity,
            per_user_limit,
            epoch,
            by_state: ReservationState::ALL.map(|state| StateCount { state, reservations: 0, units: 0 }),
            unit_rows: 0,
            highest_unit: 0,
            strays: 0,
            stray_examples: Vec::new(),
            incomplete: 0,
            incomplete_examples: Vec::new(),
            most_per_user: 0,
            over_limit: 0,
            over_limit_examples: Vec::new(),
            return_seq,
            returns: 0,
            pending_returns: 0,
            returning_units: 0,
            pending_seqs: Vec::new(),
        }
    }

    /// Units of reservations in `state`.
    pub fn units(&self, state: ReservationState) -> i64 {
        self.by_state[usize::from(state.code())].units
    }

    /// Units of reservations that own theirs: held and confirmed.
    pub fn owned_units(&self) -> i64 {
        self.by_state.iter().filter(|count| count.state.owns_units()).map(|count| count.units).sum()
    }

    /// What is wrong, in words; empty if nothing is.
    pub fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let sale = &self.sale;
        let owned = self.owned_units();
        if owned > i64::from(self.capacity) {
            wrong.push(format!("{sale}: {owned} units are held or confirmed, its capacity is {}", self.capacity));
        }
        if self.highest_unit > self.capacity {
            wrong.push(format!("{sale}: unit {} is owned, its capacity is {}", self.highest_unit, self.capacity));
        }
        if self.unit_rows != owned {
            wrong.push(format!("{sale}: {owned} units are held or confirmed, {} have an owner", self.unit_rows));
        }
        if self.strays > 0 {
            let examples = self.stray_examples.iter().map(|s| format!("{} of {}", s.number, s.reservation));
            wrong.push(format!("{sale}: {} units whose owner does not own them: {}", self.strays, list(examples)));
        }
        if self.incomplete > 0 {
            let examples = self.incomplete_examples.iter().map(Uuid::to_string);
            wrong.push(format!(
                "{sale}: {} reservations do not own exactly their units: {}",
                self.incomplete,
                list(examples)
            ));
        }
        if self.over_limit > 0 {
            let examples = self.over_limit_examples.iter().map(|o| format!("{} has {}", o.user, o.units));
            let limit = self.per_user_limit;
            wrong.push(format!("{sale}: {} users over the limit of {limit}: {}", self.over_limit, list(examples)));
        }
        if self.returns != self.return_seq {
            wrong.push(format!(
                "{sale}: {} unit returns were numbered, the journal has {}",
                self.return_seq, self.returns
            ));
        }
        wrong
    }
}

impl LedgerAudit {
    /// What is wrong, in words; empty if nothing is.
    pub fn violations(&self) -> Vec<String> {
        let without_row = self.without_row.iter().map(|sale| format!("{sale}: has reservations or units but no row"));
        self.sales.iter().flat_map(SaleAudit::violations).chain(without_row).collect()
    }
}

fn list(examples: impl Iterator<Item = String>) -> String {
    examples.collect::<Vec<_>>().join(", ")
}

impl Ledger {
    /// Opens a view of the ledger as it stands now.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        let mut transaction = self.pool.begin_with("begin isolation level repeatable read, read only").await?;
        // The server takes the snapshot with the first query, not with BEGIN: ask something, so that it is now.
        let row = sqlx::query("select clock_timestamp()").fetch_one(&mut *transaction).await?;
        let taken_at = Timestamp::from(row.try_get::<DateTime<Utc>, _>(0)?);
        Ok(Snapshot { transaction, taken_at })
    }
}

impl Snapshot {
    /// What a transaction sees that may have written something itself.
    #[cfg(test)]
    pub(super) fn within(transaction: Transaction<'static, Postgres>) -> Self {
        Self { transaction, taken_at: Timestamp::now() }
    }

    /// For queries that stand elsewhere.
    pub(super) fn connection(&mut self) -> &mut sqlx::PgConnection {
        &mut self.transaction
    }

    /// When it was taken, by the database's clock.
    pub fn taken_at(&self) -> Timestamp {
        self.taken_at
    }

    /// State and version of those of `reservations` that the ledger has.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn reservation_states(
        &mut self,
        reservations: &[Uuid],
    ) -> Result<HashMap<Uuid, (ReservationState, i32)>, LedgerError> {
        reservation::states(&mut self.transaction, reservations).await
    }

    /// Counts everything and looks for contradictions. Reads every row: some seconds per million.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; [`LedgerError::Inconsistent`] if a row cannot be read.
    pub async fn audit(&mut self) -> Result<LedgerAudit, LedgerError> {
        let mut sales = self.sales().await?;
        self.reservations(&mut sales).await?;
        self.units(&mut sales).await?;
        self.strays(&mut sales).await?;
        self.incomplete(&mut sales).await?;
        self.users(&mut sales).await?;
        self.returns(&mut sales).await?;
        let row = sqlx::query("select count(*) from outcome_queue").fetch_one(&mut *self.transaction).await?;
        Ok(LedgerAudit {
            sales: sales.known.into_values().collect(),
            outcome_queue: row.try_get(0)?,
            without_row: sales.without_row.into_keys().collect(),
        })
    }

    async fn sales(&mut self) -> Result<Sales, LedgerError> {
        let rows = sqlx::query("select sale_id, capacity, per_user_limit, epoch, return_seq from sale")
            .fetch_all(&mut *self.transaction)
            .await?;
        let mut sales = Sales::default();
        for row in &rows {
            let id = sale::sale_id(row)?;
            let audit = SaleAudit::new(
                id.clone(),
                from_column(row.try_get("capacity")?),
                from_column(row.try_get("per_user_limit")?),
                sale::epoch(row)?,
                row.try_get("return_seq")?,
            );
            sales.known.insert(id, audit);
        }
        Ok(sales)
    }

    async fn reservations(&mut self, sales: &mut Sales) -> Result<(), LedgerError> {
        let rows = sqlx::query(
            "select sale_id, state, count(*) as reservations, sum(cardinality(units)) as units \
             from reservation group by sale_id, state",
        )
        .fetch_all(&mut *self.transaction)
        .await?;
        for row in &rows {
            let state = reservation::state(row)?;
            let count = &mut sales.of(row)?.by_state[usize::from(state.code())];
            count.reservations = row.try_get("reservations")?;
            count.units = row.try_get("units")?;
        }
        Ok(())
    }

    async fn units(&mut self, sales: &mut Sales) -> Result<(), LedgerError> {
        let rows = sqlx::query("select sale_id, count(*) as rows, max(number) as highest from unit group by sale_id")
            .fetch_all(&mut *self.transaction)
            .await?;
        for row in &rows {
            let audit = sales.of(row)?;
            audit.unit_rows = row.try_get("rows")?;
            audit.highest_unit = from_column(row.try_get("highest")?);
        }
        Ok(())
    }

    /// Units without a reservation, or whose reservation has ended, is of another sale or was not sold them.
    async fn strays(&mut self, sales: &mut Sales) -> Result<(), LedgerError> {
        let rows = sqlx::query(
            "select * from ( \
                 select u.sale_id, u.number, u.reservation_id, count(*) over sale as total, \
                        row_number() over (partition by u.sale_id order by u.number) as place \
                 from unit u left join reservation r on r.id = u.reservation_id \
                 where r.id is null or r.state not in (0, 1) or r.sale_id <> u.sale_id \
                       or u.number <> all (r.units) \
                 window sale as (partition by u.sale_id)) s \
             where place <= $1 order by sale_id, place",
        )
        .bind(EXAMPLES)
        .fetch_all(&mut *self.transaction)
        .await?;
        for row in &rows {
            let audit = sales.of(row)?;
            audit.strays = row.try_get("total")?;
            audit.stray_examples.push(Stray {
                number: from_column(row.try_get("number")?),
                reservation: row.try_get("reservation_id")?,
            });
        }
        Ok(())
    }

    /// Held or confirmed reservations some of whose units have no row, or another reservation's.
    async fn incomplete(&mut self, sales: &mut Sales) -> Result<(), LedgerError> {
        let rows = sqlx::query(
            "select * from ( \
                 select r.sale_id, r.id, count(*) over sale as total, \
                        row_number() over (partition by r.sale_id order by r.id) as place \
                 from reservation r \
                 left join unit u on u.sale_id = r.sale_id and u.reservation_id = r.id and u.number = any (r.units) \
                 where r.state in (0, 1) \
                 group by r.id \
                 having count(u.number) <> cardinality(r.units) \
                 window sale as (partition by r.sale_id)) s \
             where place <= $1 order by sale_id, place",
        )
        .bind(EXAMPLES)
        .fetch_all(&mut *self.transaction)
        .await?;
        for row in &rows {
            let audit = sales.of(row)?;
            audit.incomplete = row.try_get("total")?;
            audit.incomplete_examples.push(row.try_get("id")?);
        }
        Ok(())
    }

    async fn users(&mut self, sales: &mut Sales) -> Result<(), LedgerError> {
        let rows = sqlx::query(
            "select * from ( \
                 select o.sale_id, o.user_id, o.units, \
                        count(*) filter (where o.units > s.per_user_limit) over (partition by o.sale_id) as total, \
                        row_number() over (partition by o.sale_id order by o.units desc, o.user_id) as place \
                 from (select sale_id, user_id, sum(cardinality(units)) as units \
                       from reservation where state in (0, 1) group by sale_id, user_id) o \
                 left join sale s on s.sale_id = o.sale_id) u \
             where place <= $1 order by sale_id, place",
        )
        .bind(EXAMPLES)
        .fetch_all(&mut *self.transaction)
        .await?;
        for row in &rows {
            let audit = sales.of(row)?;
            let units: i64 = row.try_get("units")?;
            audit.most_per_user = audit.most_per_user.max(units);
            audit.over_limit = row.try_get("total")?;
            if units > i64::from(audit.per_user_limit) {
                audit.over_limit_examples.push(OverLimit { user: row.try_get("user_id")?, units });
            }
        }
        Ok(())
    }

    async fn returns(&mut self, sales: &mut Sales) -> Result<(), LedgerError> {
        let rows = sqlx::query("select sale_id, count(*) as returns from unit_return group by sale_id")
            .fetch_all(&mut *self.transaction)
            .await?;
        for row in &rows {
            sales.of(row)?.returns = row.try_get("returns")?;
        }
        let rows = sqlx::query(
            "select r.sale_id, r.seq, \
                    (select count(*) from unnest(r.units) n \
                     where not exists (select from unit u where u.sale_id = r.sale_id and u.number = n)) as units \
             from unit_return r where r.applied_at is null order by r.sale_id, r.seq",
        )
        .fetch_all(&mut *self.transaction)
        .await?;
        for row in &rows {
            let audit = sales.of(row)?;
            audit.pending_returns += 1;
            audit.returning_units += row.try_get::<i64, _>("units")?;
            audit.pending_seqs.push(row.try_get("seq")?);
        }
        Ok(())
    }
}

/// The sales of an audit while it is being made.
#[derive(Debug, Default)]
struct Sales {
    known: BTreeMap<SaleId, SaleAudit>,
    without_row: BTreeMap<SaleId, SaleAudit>,
}

impl Sales {
    /// The sale a row is about.
    fn of(&mut self, row: &PgRow) -> Result<&mut SaleAudit, LedgerError> {
        let id = sale::sale_id(row)?;
        Ok(match self.known.get_mut(&id) {
            Some(audit) => audit,
            None => self.without_row.entry(id.clone()).or_insert_with(|| SaleAudit::new(id, 0, 0, 0, 0)),
        })
    }
}
