//! What a hold costs in Redis' memory: pending, and once the ledger has it. Starts a redis-server of its own.
//!
//! `cargo run --release -p onsale-inventory --example memory_per_hold [HOLDS]`

use onsale_domain::{ReservationId, SaleConfig, SaleId, SaleSettings, Timestamp, UserId};
use onsale_inventory::{Command, Connection, Inventory, RedisConfig, Reserve, Reserved, Wanted};
use onsale_testkit::{RedisServer, RedisSetup};
use std::time::Duration;

#[tokio::main]
#[allow(clippy::print_stdout)] // what it is for
async fn main() -> anyhow::Result<()> {
    let holds: u32 = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let server = RedisServer::start(RedisSetup::default())?;
    let config = RedisConfig { url: server.url(), cluster: false, timeout: Duration::from_secs(10) };
    let inventory = Inventory::new(Connection::new(&config)?);
    inventory.load_library().await?;
    let sale: SaleConfig = serde_json::from_value(serde_json::json!({
        "title": "t", "artist": "a", "opensAt": "2020-01-01T00:00:00Z", "capacity": holds,
        "unitPrice": {"amount": 100, "currency": "EUR"}, "perUserLimit": 4, "holdSeconds": 300
    }))?;
    let sale = SaleSettings::new(SaleId::parse("saleId", "memory")?, sale)?;
    inventory.create(&sale, 1, Timestamp::now().plus(Duration::from_secs(5))).await?;

    let used = || -> anyhow::Result<f64> {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut server.client()?)?;
        let line = info.lines().find_map(|l| l.strip_prefix("used_memory:"));
        Ok(line.map_or(Ok(0), |n| n.trim().parse::<u64>())? as f64)
    };
    let empty = used()?;
    let mut taken = Vec::with_capacity(holds as usize);
    for n in 0..holds {
        let id = ReservationId::generate(sale.id.clone());
        let user = UserId::parse(&uuid::Uuid::now_v7().to_string())?;
        let mut digest = [0; 16];
        digest[..4].copy_from_slice(&n.to_be_bytes());
        let wanted = Wanted::Quantity(1);
        let call = Reserve { id: &id, user: &user, key_digest: digest, fingerprint: [0; 8], wanted: &wanted };
        let reserved = inventory.reserve(&call).await?;
        anyhow::ensure!(matches!(reserved, Reserved::Accepted(_)), "{reserved:?}");
        taken.push(Command::Hold(id.uuid));
    }
    let pending = used()?;
    for portion in taken.chunks(1_000) {
        inventory.clear(&sale.id, portion).await?;
    }
    let cleared = used()?;
    println!("holds of one unit, user ids of 36 characters: {holds}");
    println!("bytes each while pending:  {:.0}", (pending - empty) / f64::from(holds));
    println!("bytes each once cleared:   {:.0}", (cleared - empty) / f64::from(holds));
    Ok(())
}
