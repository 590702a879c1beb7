//! Tests against a real Postgres; `DATABASE_URL` names one whose role may create databases.

mod audit;
mod batches;
mod cancels;
mod concurrency;
mod holds;
mod model;
mod queues;
mod sales;

use super::{Applied, Batch, Effect, Entry, Ledger, OffsetMove, Refusal};
use onsale_domain::{
    Cancel, Command, Currency, Hold, Money, ReservationId, ReservationState, SaleId, SaleSettings, Timestamp,
    UnitNumber, UserId,
};
use sqlx::{PgPool, Row};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

const GROUP: &str = "ledger";
const TOPIC: &str = "reservation";

/// A sale of ten units, four per user.
fn sale(id: &str) -> SaleSettings {
    sale_with(id, |_| ())
}

fn sale_with(id: &str, change: impl FnOnce(&mut serde_json::Value)) -> SaleSettings {
    let mut config = serde_json::json!({
        "title": "Moonlight", "artist": "The Tides", "opensAt": "2026-12-01T11:00:00Z", "capacity": 10,
        "unitPrice": {"amount": 100, "currency": "EUR"}, "perUserLimit": 4, "holdSeconds": 300
    });
    change(&mut config);
    SaleSettings::new(SaleId::parse("saleId", id).unwrap(), serde_json::from_value(config).unwrap()).unwrap()
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn reservation_id(sale: &str, n: u128) -> ReservationId {
    ReservationId { sale: SaleId::parse("saleId", sale).unwrap(), uuid: uuid(n) }
}

/// A moment that a command's number sets, so that times can be compared.
fn moment(n: u128) -> Timestamp {
    Timestamp::from_millis(1_796_122_800_000 + i64::try_from(n).unwrap()).unwrap()
}

fn hold_in(sale: &str, reservation: u128, user: &str, units: &[UnitNumber]) -> Command {
    Command::Hold(Hold {
        epoch: 1,
        occurred_at: moment(reservation),
        reservation_id: reservation_id(sale, reservation),
        user_id: UserId::parse(user).unwrap(),
        units: units.to_vec(),
        amount: Money { amount: 100 * i64::try_from(units.len()).unwrap(), currency: Currency::parse("EUR").unwrap() },
        expires_at: moment(reservation).plus(Duration::from_secs(300)),
    })
}

fn cancel_in(sale: &str, command: u128, reservation: u128, user: &str) -> Command {
    Command::Cancel(Cancel {
        id: uuid(command),
        epoch: 1,
        occurred_at: moment(command),
        reservation_id: reservation_id(sale, reservation),
        user_id: UserId::parse(user).unwrap(),
    })
}

/// Reservation `reservation` of the sale `demo`.
fn hold(reservation: u128, user: &str, units: &[UnitNumber]) -> Command {
    hold_in("demo", reservation, user, units)
}

/// Cancel `command` of a reservation of the sale `demo`.
fn cancel(command: u128, reservation: u128, user: &str) -> Command {
    cancel_in("demo", command, reservation, user)
}

/// A ledger that knows the sale `demo` and has taken nothing in yet.
async fn ledger(pool: PgPool) -> Ledger {
    let ledger = Ledger::from(pool);
    ledger.insert_sale(&sale("demo")).await.unwrap();
    ledger
}

/// A batch of partition `partition` that starts where the ledger stands.
async fn batch(ledger: &Ledger, partition: i32, commands: &[Command]) -> Batch {
    let topic: Arc<str> = TOPIC.into();
    let position = ledger.assign_offsets(GROUP, &[(Arc::clone(&topic), partition)]).await.unwrap().remove(0);
    let entries: Vec<Entry> = commands
        .iter()
        .zip(position.next_offset..)
        .map(|(command, offset)| Entry { topic: Arc::clone(&topic), partition, offset, command: command.clone() })
        .collect();
    let next = position.next_offset + i64::try_from(entries.len()).unwrap();
    let step = OffsetMove { topic, partition, expected: position.next_offset, next };
    Batch { group: GROUP.into(), entries, offsets: vec![step] }
}

async fn apply(ledger: &Ledger, commands: &[Command]) -> Applied {
    let batch = batch(ledger, 0, commands).await;
    let staged = ledger.stage(&batch).await.unwrap();
    let told = staged.applied().clone();
    let applied = staged.commit().await.unwrap();
    assert_eq!(told, applied);
    assert_eq!(applied.settled.len() + applied.refused.len(), commands.len());
    applied
}

/// What became of each command, in the order of the batch.
fn effects(applied: &Applied) -> Vec<Effect> {
    applied.settled.iter().map(|settled| settled.effect).collect()
}

fn refusals(applied: &Applied) -> Vec<(usize, Refusal)> {
    applied.refused.iter().map(|refused| (refused.entry, refused.reason)).collect()
}

/// Everything the ledger holds that follows from commands, without clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Contents {
    reservations: BTreeMap<u128, Stands>,
    /// Owners by sale and number.
    units: BTreeMap<(String, i32), u128>,
    /// Reservation and result by command.
    commands: BTreeMap<u128, (u128, String)>,
    /// Reservation, user and units by sale and number, as written down.
    returns: BTreeMap<(String, i64), (u128, String, Vec<i32>)>,
    /// Version by reservation.
    outcomes: BTreeMap<u128, i32>,
}

/// A reservation in [`Contents`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stands {
    sale: String,
    user: String,
    state: ReservationState,
    version: i32,
    units: Vec<i32>,
    ended_at: Option<Timestamp>,
    reason: Option<String>,
}

async fn contents(ledger: &Ledger) -> Contents {
    let mut contents = Contents::default();
    for row in sqlx::query("select *, 0 as place from reservation").fetch_all(ledger.pool()).await.unwrap() {
        let row = super::reservation::read(&row).unwrap();
        let stands = Stands {
            sale: row.id.sale.to_string(),
            user: row.user_id.to_string(),
            state: row.state,
            version: row.version,
            units: row.units.iter().map(|n| n.cast_signed()).collect(),
            ended_at: row.ended_at,
            reason: row.reason,
        };
        contents.reservations.insert(row.id.uuid.as_u128(), stands);
    }
    for row in sqlx::query("select sale_id, number, reservation_id from unit").fetch_all(ledger.pool()).await.unwrap() {
        let again = contents.units.insert((row.get(0), row.get(1)), row.get::<Uuid, _>(2).as_u128());
        assert_eq!(again, None, "a unit with two owners");
    }
    let rows = sqlx::query("select id, reservation_id, result, kind from command").fetch_all(ledger.pool()).await;
    for row in rows.unwrap() {
        assert_eq!(row.get::<&str, _>(3), "cancel");
        let (id, reservation) = (row.get::<Uuid, _>(0).as_u128(), row.get::<Uuid, _>(1).as_u128());
        contents.commands.insert(id, (reservation, row.get(2)));
    }
    let rows = sqlx::query("select sale_id, seq, reservation_id, user_id, units from unit_return")
        .fetch_all(ledger.pool())
        .await;
    for row in rows.unwrap() {
        contents.returns.insert((row.get(0), row.get(1)), (row.get::<Uuid, _>(2).as_u128(), row.get(3), row.get(4)));
    }
    let rows = sqlx::query("select reservation_id, version from outcome_queue").fetch_all(ledger.pool()).await;
    for row in rows.unwrap() {
        contents.outcomes.insert(row.get::<Uuid, _>(0).as_u128(), row.get(1));
    }
    contents
}

/// The owner of each unit of `demo` that has one.
async fn owners(ledger: &Ledger) -> Vec<(i32, u128)> {
    contents(ledger).await.units.into_iter().map(|((_, number), owner)| (number, owner)).collect()
}

/// The returns of `demo` that are pending: number, reservation, units.
async fn pending(ledger: &Ledger) -> Vec<(i64, u128, Vec<UnitNumber>)> {
    let returns = ledger.pending_returns(1_000).await.unwrap();
    returns.into_iter().map(|r| (r.seq, r.reservation.uuid.as_u128(), r.units)).collect()
}

async fn assert_consistent(ledger: &Ledger) {
    let audit = ledger.snapshot().await.unwrap().audit().await.unwrap();
    assert_eq!(audit.violations(), [""; 0]);
}
