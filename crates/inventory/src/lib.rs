//! The Redis side of Onsale: stock is taken, and everything about a sale decided, in one call of a
//! Redis Functions library (`inventory.lua`, whose header states keys, arguments and returns).
//!
//! [`Inventory`] is that library with types. It holds no state of its own.

mod connection;
mod keys;
mod reply;
mod wire;

pub use connection::{Connection, RedisConfig};
pub use reply::{
    Accepted, Bless, Cancelled, Command, Configured, Created, GiveBack, HoldRecord, Inspection, Overdue, PendingHold,
    Reserved, SaleSnapshot, Seats, Settlement, StockNow, UnitReturn,
};

use keys::Keys;
use onsale_domain::{CommandId, Epoch, ReservationId, SaleId, SaleSettings, Stock, Timestamp, UnitNumber, UserId};
use redis::{Cmd, Value};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;
use wire::Reply;

/// Why a call brought no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Redis did not answer, or not in time. What the call was to do may have been done.
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The sale's state in Redis is not known to be right: nothing is sold until it is blessed again.
    #[error("sale {0} is fenced")]
    Fenced(SaleId),
    /// Redis has nothing of this sale. Either there is none, or Redis lost it: the catalog knows.
    #[error("sale {0} is not in redis")]
    Absent(SaleId),
    /// A reply that this library does not give: another program answers, or there is a bug.
    #[error("redis answered {0}, which the inventory library does not")]
    Unexpected(String),
}

/// What a reserve takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// That many units, the lowest free numbers.
    Quantity(u32),
    /// These very units, ascending, without repetition.
    Units(Vec<UnitNumber>),
}

/// One reserve: who wants what, and under which idempotency key.
#[derive(Debug, Clone)]
pub struct Reserve<'a> {
    /// The id the reservation gets if this call decides it.
    pub id: &'a ReservationId,
    /// Whose it will be.
    pub user: &'a UserId,
    /// Digest of user, operation and key.
    pub key_digest: [u8; 16],
    /// Digest of the request, to tell a replay from a key used twice.
    pub fingerprint: [u8; 8],
    /// What to take.
    pub wanted: &'a Wanted,
}

/// The text of the library with its own hash in the place of `@HASH@`, and that hash.
struct Library {
    hash: String,
    text: String,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    const TEXT: &str = include_str!("inventory.lua");
    let digest = Sha256::digest(TEXT.as_bytes());
    let hash: String = digest[..6].iter().map(|b| format!("{b:02x}")).collect();
    Library { text: TEXT.replace("@HASH@", &hash), hash }
});

/// The inventory library, called over one connection shared by all clones.
#[derive(Clone)]
pub struct Inventory {
    connection: Connection,
}

impl Inventory {
    /// Over `connection`. Nothing is sent.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Over a connection to where the settings say (see [`RedisConfig::from_env`]).
    pub fn from_env(env: &onsale_config::Env) -> Result<Self, onsale_config::ConfigError> {
        let connection = Connection::new(&RedisConfig::from_env(env)?).map_err(|_| {
            onsale_config::ConfigError::new("REDIS_URL", "must be an address such as redis://127.0.0.1:6379")
        })?;
        Ok(Self::new(connection))
    }

    /// Loads the library where it is absent; one that is there is never replaced. On every primary of a cluster.
    pub async fn load_library(&self) -> Result<(), InventoryError> {
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg(&LIBRARY.text);
        match self.connection.query(&load).await {
            Ok(_) => Ok(()),
            Err(e) if e.to_string().contains("already exists") => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Lays the stock of a new sale and opens it, at epoch 1. Only for the caller whose write made the sale
    /// new in the catalog, until `not_after` by the clock of Redis: on a Redis that lost a sale this would sell it
    /// again.
    pub async fn create(
        &self,
        sale: &SaleSettings,
        version: u64,
        not_after: Timestamp,
    ) -> Result<Created, InventoryError> {
        let keys = Keys::of(&sale.id);
        let mut call = call("create", &[&keys.sale, &keys.units]);
        call.arg(not_after.millis()).arg(sale.stock().capacity());
        settings(&mut call, sale, version);
        let reply = self.send(&sale.id, &call).await?;
        match reply.status()? {
            "created" => Ok(Created::Created),
            "exists" => Ok(Created::Exists),
            "late" => Ok(Created::Late),
            _ => Err(reply.unexpected()),
        }
    }

    /// Copies newer settings to a sale that is there. Its stock is not touched.
    pub async fn configure(&self, sale: &SaleSettings, version: u64) -> Result<Configured, InventoryError> {
        let keys = Keys::of(&sale.id);
        let mut call = call("configure", &[&keys.sale]);
        settings(&mut call, sale, version);
        let reply = self.send(&sale.id, &call).await?;
        match reply.status()? {
            "configured" => Ok(Configured::Configured),
            "older" => Ok(Configured::Older),
            _ => Err(reply.unexpected()),
        }
    }

    /// Takes units, or says why not.
    pub async fn reserve(&self, reserve: &Reserve<'_>) -> Result<Reserved, InventoryError> {
        let sale = &reserve.id.sale;
        let k = Keys::of(sale);
        let mut call = call(
            "reserve",
            &[&k.sale, &k.units, &k.holds, &k.users, &k.pending, &k.admitted, &k.idem[0], &k.idem[1], &k.idem[2]],
        );
        let (quantity, units) = match reserve.wanted {
            Wanted::Quantity(n) => (*n, Vec::new()),
            Wanted::Units(units) => (0, wire::pack_numbers(units)),
        };
        call.arg(reserve.id.uuid.as_bytes())
            .arg(reserve.user.as_str())
            .arg(&reserve.key_digest)
            .arg(&reserve.fingerprint)
            .arg(quantity)
            .arg(units);
        reply::reserved(self.send(sale, &call).await?, reserve.id)
    }

    /// Accepts the owner's wish to give a reservation up. `command` is the id it gets if it is new.
    pub async fn cancel(
        &self,
        id: &ReservationId,
        user: &UserId,
        command: CommandId,
    ) -> Result<Cancelled, InventoryError> {
        let k = Keys::of(&id.sale);
        let mut call = call("cancel", &[&k.sale, &k.holds, &k.pending]);
        call.arg(id.uuid.as_bytes()).arg(user.as_str()).arg(command.as_bytes());
        reply::cancelled(self.send(&id.sale, &call).await?, id)
    }

    /// A reservation as Redis has it, and whether the ledger is known to have it; `None` where Redis has none.
    pub async fn hold(&self, id: &ReservationId) -> Result<Option<(HoldRecord, bool)>, InventoryError> {
        let k = Keys::of(&id.sale);
        let mut call = call("hold", &[&k.sale, &k.holds, &k.pending]);
        call.arg(id.uuid.as_bytes());
        let reply = self.send(&id.sale, &call).await?;
        match reply.status()? {
            "unknown" => Ok(None),
            "found" => Ok(Some((HoldRecord::read(id, reply.text(2)?, reply.bytes(3)?)?, reply.int(1)? == 1))),
            _ => Err(reply.unexpected()),
        }
    }

    /// What is left of a sale, and its window.
    pub async fn stock(&self, sale: &SaleId) -> Result<StockNow, InventoryError> {
        let k = Keys::of(sale);
        reply::stock(self.send(sale, &call("stock", &[&k.sale])).await?)
    }

    /// Which units are taken.
    pub async fn seats(&self, sale: &SaleId) -> Result<Seats, InventoryError> {
        let k = Keys::of(sale);
        let reply = self.send(sale, &call("seats", &[&k.sale, &k.units])).await?;
        match reply.status()? {
            "seats" => Ok(Seats { free: reply.number(1)?, taken: reply.bytes(2)?.to_vec() }),
            _ => Err(reply.unexpected()),
        }
    }

    /// Takes commands off the pending list that the ledger has and that changed nothing Redis does not know.
    /// Returns how many were on it.
    pub async fn clear(&self, sale: &SaleId, commands: &[Command]) -> Result<u32, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("clear", &[&k.sale, &k.pending]);
        for command in commands {
            call.arg(command.member());
        }
        let reply = self.send(sale, &call).await?;
        if reply.status()? == "cleared" { reply.number(1) } else { Err(reply.unexpected()) }
    }

    /// Takes commands off the pending list and brings the records of their reservations to where the ledger has
    /// them. An older version never overwrites a newer one. Returns how many records changed.
    pub async fn settle(&self, sale: &SaleId, settlements: &[Settlement]) -> Result<u32, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("settle", &[&k.sale, &k.holds, &k.pending]);
        for s in settlements {
            call.arg(s.command.member()).arg(s.command.reservation().as_bytes()).arg(s.state.code()).arg(s.version);
        }
        let reply = self.send(sale, &call).await?;
        if reply.status()? == "settled" { reply.number(1) } else { Err(reply.unexpected()) }
    }

    /// Applies unit returns in the order of their journal. Those applied before are passed over; a gap in the
    /// numbers stops all of them.
    pub async fn give_back(&self, sale: &SaleId, returns: &[UnitReturn]) -> Result<GiveBack, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("give_back", &[&k.sale, &k.units, &k.users]);
        for r in returns {
            call.arg(r.seq).arg(r.reservation.as_bytes()).arg(r.user.as_str()).arg(wire::pack_numbers(&r.units));
        }
        let reply = self.send(sale, &call).await?;
        match reply.status()? {
            "returned" => {
                Ok(GiveBack::Applied { seq: reply.number(1)?, freed: reply.number(2)?, free_already: reply.number(3)? })
            }
            "gap" => Ok(GiveBack::Gap { seq: reply.number(1)? }),
            _ => Err(reply.unexpected()),
        }
    }

    /// Drops the records of reservations whose outcome can be read elsewhere. Returns how many there were.
    pub async fn forget(&self, sale: &SaleId, reservations: &[uuid::Uuid]) -> Result<u32, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("forget", &[&k.sale, &k.holds]);
        for id in reservations {
            call.arg(id.as_bytes());
        }
        let reply = self.send(sale, &call).await?;
        if reply.status()? == "forgotten" { reply.number(1) } else { Err(reply.unexpected()) }
    }

    /// Marks commands as dead letters: they stay pending and their units taken, but nobody writes them again. Returns
    /// how many were pending.
    pub async fn bury(&self, sale: &SaleId, commands: &[Command]) -> Result<u32, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("bury", &[&k.sale, &k.pending]);
        for command in commands {
            call.arg(command.member());
        }
        let reply = self.send(sale, &call).await?;
        if reply.status()? == "buried" { reply.number(1) } else { Err(reply.unexpected()) }
    }

    /// Commands that have been pending since `before` or longer, oldest first, `limit` at most.
    pub async fn overdue(&self, sale: &SaleId, before: Timestamp, limit: u32) -> Result<Vec<Overdue>, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("overdue", &[&k.sale, &k.holds, &k.pending]);
        call.arg(before.millis()).arg(limit);
        reply::overdue(self.send(sale, &call).await?, sale)
    }

    /// The whole stock at one moment. Answers also while the sale is fenced, and says whether it is.
    pub async fn inspect(&self, sale: &SaleId) -> Result<Inspection, InventoryError> {
        let k = Keys::of(sale);
        let call = call("inspect", &[&k.sale, &k.units, &k.holds, &k.users, &k.pending]);
        reply::inspection(self.send(sale, &call).await?)
    }

    /// Declares the state in Redis right, as epoch `to`, if `from` is what stands there.
    pub async fn bless(&self, sale: &SaleId, from: Epoch, to: Epoch) -> Result<Bless, InventoryError> {
        let k = Keys::of(sale);
        let mut call = call("bless", &[&k.sale]);
        call.arg(from).arg(to);
        let reply = self.send(sale, &call).await?;
        match reply.status()? {
            "blessed" => Ok(Bless::Blessed),
            "other" => Ok(Bless::Other(reply.number(1)?)),
            _ => Err(reply.unexpected()),
        }
    }

    /// Lays a sale anew from what the ledger knows: empties it, takes the units of `holds`, leaves it fenced at
    /// epoch `to` - 1. `bless(to - 1, to)` opens it.
    pub async fn restore(
        &self,
        sale: &SaleSettings,
        version: u64,
        to: Epoch,
        snapshot: &SaleSnapshot<'_>,
    ) -> Result<(), InventoryError> {
        /// Records in one call: some hundred microseconds in which Redis answers nobody else.
        const CHUNK: usize = 200;
        let k = Keys::of(&sale.id);
        let mut begin =
            call("restore", &[&k.sale, &k.units, &k.holds, &k.users, &k.pending, &k.idem[0], &k.idem[1], &k.idem[2]]);
        begin.arg(to).arg(sale.stock().capacity()).arg(snapshot.return_seq);
        settings(&mut begin, sale, version);
        let reply = self.send(&sale.id, &begin).await?;
        if reply.status()? != "restored" {
            return Err(reply.unexpected());
        }
        for chunk in snapshot.holds.chunks(CHUNK) {
            let mut call = call("restore_holds", &[&k.sale, &k.units, &k.holds, &k.users]);
            call.arg(to - 1);
            for hold in chunk {
                call.arg(hold.id.uuid.as_bytes()).arg(hold.write());
            }
            let reply = self.send(&sale.id, &call).await?;
            if reply.status()? != "restored" {
                return Err(reply.unexpected());
            }
        }
        Ok(())
    }

    /// Sends a call and takes the two refusals that every function may give.
    async fn send(&self, sale: &SaleId, call: &Cmd) -> Result<Reply, InventoryError> {
        let value = match self.connection.query(call).await {
            Ok(value) => value,
            // A Redis that came back empty has no library either. Nobody sells before the processor has
            // loaded it and blessed the sale.
            Err(e) if e.to_string().contains("Function not found") => {
                return Err(InventoryError::Fenced(sale.clone()));
            }
            Err(e) => return Err(e.into()),
        };
        let Value::Array(values) = value else { return Err(InventoryError::Unexpected(format!("{value:?}"))) };
        let reply = Reply(values);
        match reply.status()? {
            "fenced" => Err(InventoryError::Fenced(sale.clone())),
            "absent" => Err(InventoryError::Absent(sale.clone())),
            _ => Ok(reply),
        }
    }
}

/// `FCALL` of one function of the library, its keys declared.
fn call(function: &str, keys: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("FCALL");
    cmd.arg(format!("{function}_{}", LIBRARY.hash)).arg(keys.len());
    for key in keys {
        cmd.arg(*key);
    }
    cmd
}

/// The ten settings a decision needs, in the library's order.
fn settings(call: &mut Cmd, sale: &SaleSettings, version: u64) {
    let c = sale.config();
    let tiers: Vec<u8> =
        sale.tiers().iter().flat_map(|t| [&t.last.to_be_bytes()[..], &t.amount.to_be_bytes()[..]].concat()).collect();
    call.arg(version)
        .arg(c.per_user_limit)
        .arg(i64::from(c.hold_seconds) * 1000)
        .arg(c.opens_at.millis())
        .arg(c.closes_at.map_or(0, Timestamp::millis))
        .arg(0) // paused
        .arg(0) // waiting room
        .arg(i32::from(matches!(sale.stock(), Stock::Seats(_))))
        .arg(c.unit_price.currency.as_str())
        .arg(tiers);
}
