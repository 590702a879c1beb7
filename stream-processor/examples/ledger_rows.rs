//! How fast the ledger takes holds, next to how fast the same rows go into the same tables bare.
//!
//! `DATABASE_URL=postgres://… cargo run --release -p stream-processor --example ledger_rows [batches [holds per batch]]`
//!
//! One connection, one transaction per batch, one unit per hold, commits waited for. "bare" is an
//! `INSERT … SELECT FROM UNNEST` of the same rows into tables of the same shape, without offsets, checks or
//! decisions. Runs of the two alternate, so that what else the machine does meets both. Works in a database of its own
//! beside the one the URL names, and drops it.

// What it prints is what it is for; a failure anywhere ends it with its reason.
#![allow(clippy::print_stdout)]

use onsale_domain::{
    Command, Currency, Hold, Money, ReservationId, SaleConfig, SaleId, SaleSettings, Timestamp, UserId,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};
use stream_processor::ledger::{Batch, Entry, Ledger, OffsetMove};

const RUNS: usize = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (batches, holds) = (number(100)?, number(1_000)?);

    let url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let (server, _) = url.rsplit_once('/').ok_or("DATABASE_URL names no database")?;
    let database = format!("ledger_rows_{}", std::process::id());
    let mut outside = PgConnection::connect(&url).await?;
    sqlx::query(AssertSqlSafe(format!("create database {database}"))).execute(&mut outside).await?;
    let measured = measure(&format!("{server}/{database}"), batches, holds).await;
    sqlx::query(AssertSqlSafe(format!("drop database {database} with (force)"))).execute(&mut outside).await?;
    measured
}

async fn measure(url: &str, batches: usize, holds: usize) -> Result<(), Box<dyn Error>> {
    let ledger = Ledger::connect(url, 1).await?;
    ledger.migrate().await?;
    for sql in [
        "create table bare_reservation (like reservation including all)",
        "create table bare_unit (like unit including all)",
    ] {
        sqlx::query(sql).execute(ledger.pool()).await?;
    }
    let row = sqlx::query("select current_setting('fsync'), current_setting('synchronous_commit'), version()")
        .fetch_one(ledger.pool())
        .await?;
    println!(
        "{}; fsync {}, synchronous_commit {}",
        row.get::<&str, _>(2),
        row.get::<&str, _>(0),
        row.get::<&str, _>(1)
    );
    println!("{RUNS} runs of {batches} batches of {holds} holds, one unit each, one connection");
    println!("{:>4} {:>16} {:>16} {:>7}", "run", "ledger holds/s", "bare holds/s", "ratio");
    let mut ratios = Vec::with_capacity(RUNS);
    for run in 1..=RUNS {
        sqlx::query("truncate reservation, unit, consumer_offset, bare_reservation, bare_unit")
            .execute(ledger.pool())
            .await?;
        let work = batches_of(run, batches, holds)?;
        ledger.insert_sale(&sale(run)?).await?;
        let topic: Arc<str> = "reservation".into();
        ledger.assign_offsets("ledger", &[(topic, 0)]).await?;
        let (mut taken, mut bare) = (Duration::ZERO, Duration::ZERO);
        for batch in &work {
            let start = Instant::now();
            let applied = ledger.stage(batch).await?.commit().await?;
            taken += start.elapsed();
            if applied.counts.recorded != holds {
                return Err(format!("{:?}", applied.counts).into());
            }
            let start = Instant::now();
            insert_bare(&ledger, batch).await?;
            bare += start.elapsed();
        }
        let rate = |spent: Duration| (batches * holds) as f64 / spent.as_secs_f64();
        ratios.push(rate(taken) / rate(bare));
        println!("{run:>4} {:>16.0} {:>16.0} {:>7.2}", rate(taken), rate(bare), rate(taken) / rate(bare));
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2} (a hold is two rows: a reservation and a unit)", ratios[RUNS / 2]);
    ledger.pool().close().await;
    Ok(())
}

fn sale(run: usize) -> Result<SaleSettings, Box<dyn Error>> {
    let config: SaleConfig = serde_json::from_value(serde_json::json!({
        "title": "t", "artist": "a", "opensAt": "2026-01-01T00:00:00Z", "capacity": 10_000_000,
        "unitPrice": {"amount": 100, "currency": "EUR"}, "perUserLimit": 4, "holdSeconds": 300
    }))?;
    Ok(SaleSettings::new(SaleId::parse("saleId", &format!("seoul-2026-12-{run:02}"))?, config)?)
}

fn batches_of(run: usize, batches: usize, holds: usize) -> Result<Vec<Batch>, Box<dyn Error>> {
    let (topic, group): (Arc<str>, Arc<str>) = ("reservation".into(), "ledger".into());
    let sale = sale(run)?.id;
    let amount = Money { amount: 100, currency: Currency::parse("EUR")? };
    let mut number = 0;
    (0..batches)
        .map(|_| {
            let first = i64::from(number);
            let mut entries = Vec::with_capacity(holds);
            for _ in 0..holds {
                let offset = i64::from(number);
                number += 1;
                let now = Timestamp::now();
                let hold = Hold {
                    epoch: 1,
                    occurred_at: now,
                    reservation_id: ReservationId::generate(sale.clone()),
                    user_id: UserId::parse(&format!("user-{number}"))?,
                    units: vec![number],
                    amount,
                    expires_at: now.plus(Duration::from_secs(300)),
                };
                entries.push(Entry { topic: Arc::clone(&topic), partition: 0, offset, command: Command::Hold(hold) });
            }
            let step = OffsetMove { topic: Arc::clone(&topic), partition: 0, expected: first, next: i64::from(number) };
            Ok(Batch { group: Arc::clone(&group), entries, offsets: vec![step] })
        })
        .collect()
}

async fn insert_bare(ledger: &Ledger, batch: &Batch) -> Result<(), Box<dyn Error>> {
    let holds: Vec<&Hold> = batch
        .entries
        .iter()
        .filter_map(|entry| match &entry.command {
            Command::Hold(hold) => Some(hold),
            Command::Cancel(_) => None,
        })
        .collect();
    let ids: Vec<_> = holds.iter().map(|h| h.reservation_id.uuid).collect();
    let sales: Vec<&str> = holds.iter().map(|h| h.reservation_id.sale.as_str()).collect();
    let numbers: Vec<i32> = holds.iter().map(|h| h.units[0].cast_signed()).collect();
    let mut transaction = ledger.pool().begin().await?;
    sqlx::query(
        "insert into bare_reservation \
             (id, sale_id, user_id, state, version, units, amount, currency, held_at, expires_at, epoch) \
         select id, sale_id, user_id, 0, 1, array[unit], amount, currency, held_at, expires_at, epoch \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::text[], $7::timestamptz[], \
                     $8::timestamptz[], $9::bigint[]) \
              as h(id, sale_id, user_id, unit, amount, currency, held_at, expires_at, epoch)",
    )
    .bind(&ids)
    .bind(&sales)
    .bind(holds.iter().map(|h| h.user_id.as_str()).collect::<Vec<_>>())
    .bind(&numbers)
    .bind(holds.iter().map(|h| h.amount.amount).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.amount.currency.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.occurred_at.to_datetime()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| h.expires_at.to_datetime()).collect::<Vec<_>>())
    .bind(holds.iter().map(|h| i64::from(h.epoch)).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    sqlx::query("insert into bare_unit select * from unnest($1::text[], $2::int[], $3::uuid[])")
        .bind(&sales)
        .bind(&numbers)
        .bind(&ids)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
