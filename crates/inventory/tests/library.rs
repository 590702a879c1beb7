//! The inventory library against real Redis, as a single server and as a cluster node.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use onsale_domain::{ReservationId, ReservationState, SaleConfig, SaleId, SaleSettings, Timestamp, UserId};
use onsale_inventory::{
    Bless, Cancelled, Command, Configured, Connection, Created, GiveBack, HoldRecord, Inventory, InventoryError,
    RedisConfig, Reserve, Reserved, SaleSnapshot, Settlement, UnitReturn, Wanted,
};
use onsale_testkit::{RedisServer, RedisSetup};
use proptest::prelude::*;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use uuid::Uuid;

struct Fixture {
    server: RedisServer,
    inventory: Inventory,
}

fn inventory(server: &RedisServer, cluster: bool) -> Inventory {
    let config = RedisConfig { url: server.url(), cluster, timeout: Duration::from_secs(5) };
    Inventory::new(Connection::new(&config).unwrap())
}

async fn fixture(cluster: bool) -> Fixture {
    let server = RedisServer::start(RedisSetup { cluster, durable: false }).unwrap();
    let inventory = inventory(&server, cluster);
    inventory.load_library().await.unwrap();
    inventory.load_library().await.unwrap();
    Fixture { server, inventory }
}

fn config() -> serde_json::Value {
    json!({
        "title": "t", "artist": "a", "opensAt": "2020-01-01T00:00:00Z", "capacity": 10,
        "unitPrice": {"amount": 100, "currency": "EUR"}, "perUserLimit": 4, "holdSeconds": 300
    })
}

fn settings(sale: &str, body: serde_json::Value) -> SaleSettings {
    let config: SaleConfig = serde_json::from_value(body).unwrap();
    SaleSettings::new(SaleId::parse("saleId", sale).unwrap(), config).unwrap()
}

fn seated() -> serde_json::Value {
    let mut body = config();
    body.as_object_mut().unwrap().remove("capacity");
    body["seats"] = json!([
        {"section": "A", "rows": 2, "seatsPerRow": 2, "unitPrice": {"amount": 500, "currency": "EUR"}},
        {"section": "B", "rows": 1, "seatsPerRow": 5}
    ]);
    body
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn soon() -> Timestamp {
    Timestamp::now().plus(Duration::from_secs(5))
}

fn digest(key: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..key.len()].copy_from_slice(key.as_bytes());
    bytes
}

impl Fixture {
    async fn sale(&self, name: &str, body: serde_json::Value) -> SaleSettings {
        let sale = settings(name, body);
        assert_eq!(self.inventory.create(&sale, 1, soon()).await.unwrap(), Created::Created);
        sale
    }

    async fn reserve(&self, sale: &SaleSettings, who: &str, key: &str, wanted: Wanted) -> Reserved {
        self.try_reserve(sale, who, key, wanted).await.unwrap()
    }

    async fn try_reserve(
        &self,
        sale: &SaleSettings,
        who: &str,
        key: &str,
        wanted: Wanted,
    ) -> Result<Reserved, InventoryError> {
        let fingerprint = match &wanted {
            Wanted::Quantity(n) => n.to_be_bytes().repeat(2),
            Wanted::Units(u) => u[0].to_le_bytes().repeat(2),
        };
        let id = ReservationId::generate(sale.id.clone());
        self.inventory
            .reserve(&Reserve {
                id: &id,
                user: &user(who),
                key_digest: digest(&format!("{who}/{key}")),
                fingerprint: fingerprint.try_into().unwrap(),
                wanted: &wanted,
            })
            .await
    }

    async fn taken(&self, sale: &SaleSettings) -> Vec<u32> {
        let i = self.inventory.inspect(&sale.id).await.unwrap();
        assert_eq!(i.taken_count + i.free, i.capacity);
        (1..=i.capacity).filter(|n| i.is_taken(*n)).collect()
    }
}

fn accepted(reserved: Reserved) -> onsale_inventory::Accepted {
    match reserved {
        Reserved::Accepted(a) => a,
        other => panic!("{other:?}"),
    }
}

async fn life_of_a_hold(cluster: bool) {
    let f = fixture(cluster).await;
    let sale = f.sale("s", config()).await;
    let first = accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(2)).await);
    assert_eq!((first.units.as_slice(), first.amount.amount, first.epoch), (&[1, 2][..], 200, 1));
    assert_eq!(first.expires_at.millis() - first.held_at.millis(), 300_000);

    // The same key: the same answer, not known to the ledger yet, and nothing more is taken.
    let replay = f.reserve(&sale, "alice", "k1", Wanted::Quantity(2)).await;
    assert_eq!(replay, Reserved::Replay { accepted: first.clone(), recorded: false });
    assert_eq!(f.reserve(&sale, "alice", "k1", Wanted::Quantity(1)).await, Reserved::KeyReused);

    let (record, recorded) = f.inventory.hold(&first.id).await.unwrap().unwrap();
    assert_eq!((record.state, recorded, record.units.as_slice()), (ReservationState::Held, false, &[1, 2][..]));
    assert_eq!(record.event(), first.event(&user("alice")));

    // The ledger has it.
    let hold = Command::Hold(first.id.uuid);
    assert_eq!(f.inventory.clear(&sale.id, &[hold]).await.unwrap(), 1);
    assert_eq!(f.inventory.clear(&sale.id, &[hold]).await.unwrap(), 0);
    assert!(f.inventory.hold(&first.id).await.unwrap().unwrap().1);
    match f.reserve(&sale, "alice", "k1", Wanted::Quantity(2)).await {
        Reserved::Replay { accepted, recorded: true } => {
            assert_eq!(
                (accepted.id, accepted.units, accepted.expires_at),
                (first.id.clone(), vec![1, 2], first.expires_at)
            )
        }
        other => panic!("{other:?}"),
    }

    // Another's cancel is unknown; the owner's is accepted, again with the same command.
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    assert_eq!(f.inventory.cancel(&first.id, &user("mallory"), one).await.unwrap(), Cancelled::Unknown);
    for id in [one, two] {
        match f.inventory.cancel(&first.id, &user("alice"), id).await.unwrap() {
            Cancelled::Accepted { command, recorded: false, hold_recorded: true, .. } => assert_eq!(command, one),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(f.taken(&sale).await, [1, 2], "units stay taken until the ledger has freed them");

    let cancel = Command::Cancel { command: one, reservation: first.id.uuid };
    let settlement = Settlement { command: cancel, state: ReservationState::Cancelled, version: 2 };
    assert_eq!(f.inventory.settle(&sale.id, &[settlement]).await.unwrap(), 1);
    assert_eq!(f.inventory.settle(&sale.id, &[settlement]).await.unwrap(), 0);
    let older = Settlement { command: hold, state: ReservationState::Held, version: 1 };
    assert_eq!(f.inventory.settle(&sale.id, &[older]).await.unwrap(), 0, "an older version never wins");
    assert!(matches!(f.inventory.cancel(&first.id, &user("alice"), two).await.unwrap(), Cancelled::Ended(_)));

    let unit_return = UnitReturn { seq: 1, reservation: first.id.uuid, user: user("alice"), units: vec![1, 2] };
    let gap = UnitReturn { seq: 3, ..unit_return.clone() };
    assert_eq!(f.inventory.give_back(&sale.id, &[gap]).await.unwrap(), GiveBack::Gap { seq: 0 });
    for freed in [2, 0] {
        assert_eq!(
            f.inventory.give_back(&sale.id, std::slice::from_ref(&unit_return)).await.unwrap(),
            GiveBack::Applied { seq: 1, freed, free_already: 0 }
        );
    }
    assert_eq!(f.taken(&sale).await, Vec::<u32>::new());
    assert_eq!(f.inventory.forget(&sale.id, &[first.id.uuid]).await.unwrap(), 1);
    assert_eq!(f.inventory.hold(&first.id).await.unwrap(), None);

    // Freed units go first, and alice may take her full limit again.
    let again = accepted(f.reserve(&sale, "alice", "k2", Wanted::Quantity(4)).await);
    assert_eq!(again.units, [1, 2, 3, 4]);
}

#[tokio::test]
async fn life_of_a_hold_on_a_single_server() {
    life_of_a_hold(false).await;
}

#[tokio::test]
async fn life_of_a_hold_on_a_cluster() {
    life_of_a_hold(true).await;
}

#[tokio::test]
async fn refusals_change_nothing() {
    let f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    let mine = accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(3)).await);
    match f.reserve(&sale, "alice", "k2", Wanted::Quantity(2)).await {
        Reserved::LimitReached { limit: 4, holds } => {
            assert_eq!(holds.len(), 1);
            assert_eq!((holds[0].reservation_id.clone(), holds[0].quantity), (mine.id.to_string(), 3));
        }
        other => panic!("{other:?}"),
    }
    accepted(f.reserve(&sale, "bob", "k1", Wanted::Quantity(4)).await);
    assert_eq!(f.reserve(&sale, "carol", "k1", Wanted::Quantity(4)).await, Reserved::SoldOut { free: 3 });
    assert_eq!(accepted(f.reserve(&sale, "carol", "k1", Wanted::Quantity(3)).await).units, [8, 9, 10]);
    assert_eq!(f.reserve(&sale, "dave", "k1", Wanted::Quantity(1)).await, Reserved::SoldOut { free: 0 });
    assert_eq!(f.taken(&sale).await.len(), 10);

    for (name, change, expected) in [
        ("later", ("opensAt", json!("2999-01-01T00:00:00Z")), "NotOpen"),
        ("over", ("closesAt", json!("2020-01-02T00:00:00Z")), "Closed"),
    ] {
        let mut body = config();
        body[change.0] = change.1;
        let sale = f.sale(name, body).await;
        let refusal = f.reserve(&sale, "alice", "k", Wanted::Quantity(1)).await;
        assert!(format!("{refusal:?}").starts_with(expected), "{refusal:?}");
        assert!(f.taken(&sale).await.is_empty());
    }
}

#[tokio::test]
async fn seats_are_taken_all_or_none() {
    let f = fixture(false).await;
    let sale = f.sale("seats", seated()).await;
    let a = accepted(f.reserve(&sale, "alice", "k1", Wanted::Units(vec![4, 5])).await);
    assert_eq!((a.units, a.amount.amount), (vec![4, 5], 600), "the dearer tier ends with unit 4");
    assert_eq!(
        f.reserve(&sale, "bob", "k1", Wanted::Units(vec![3, 4, 5, 6])).await,
        Reserved::Taken(vec![4, 5]),
        "the taken ones are named"
    );
    assert_eq!(f.taken(&sale).await, [4, 5]);
    assert_eq!(f.reserve(&sale, "bob", "k1", Wanted::Units(vec![10])).await, Reserved::NoSuchUnit);
    assert_eq!(f.reserve(&sale, "bob", "k1", Wanted::Quantity(1)).await, Reserved::Seated);
    let seats = f.inventory.seats(&sale.id).await.unwrap();
    assert_eq!((seats.free, seats.taken), (7, vec![0b0001_1000, 0]));
}

#[tokio::test]
async fn a_waiting_room_lets_only_the_admitted_in() {
    let f = fixture(false).await;
    let sale = f.sale("room", config()).await;
    let mut redis = f.server.client().unwrap();
    redis::cmd("HSET").arg("onsale:{room}:sale").arg("room").arg(1).exec(&mut redis).unwrap();
    assert_eq!(f.reserve(&sale, "alice", "k", Wanted::Quantity(1)).await, Reserved::NotAdmitted);
    let mut admit = |till: i64| {
        redis::cmd("ZADD").arg("onsale:{room}:admitted").arg(till).arg("alice").exec(&mut redis).unwrap();
    };
    admit(Timestamp::now().millis() - 1);
    assert_eq!(f.reserve(&sale, "alice", "k", Wanted::Quantity(1)).await, Reserved::NotAdmitted);
    admit(Timestamp::now().millis() + 60_000);
    accepted(f.reserve(&sale, "alice", "k", Wanted::Quantity(1)).await);
}

#[tokio::test]
async fn settings_are_replaced_by_newer_ones_only() {
    let f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    let mut body = config();
    body["unitPrice"]["amount"] = json!(250);
    let dearer = settings("s", body);
    assert_eq!(f.inventory.create(&dearer, 2, soon()).await.unwrap(), Created::Exists);
    assert_eq!(f.inventory.configure(&dearer, 1).await.unwrap(), Configured::Older);
    assert_eq!(f.inventory.configure(&dearer, 3).await.unwrap(), Configured::Configured);
    assert_eq!(f.inventory.configure(&sale, 2).await.unwrap(), Configured::Older);
    assert_eq!(accepted(f.reserve(&sale, "alice", "k", Wanted::Quantity(1)).await).amount.amount, 250);
}

#[tokio::test]
async fn a_create_that_was_frozen_on_its_way_comes_too_late() {
    let f = fixture(false).await;
    let sale = settings("s", config());
    let past = Timestamp::from_millis(Timestamp::now().millis() - 1).unwrap();
    assert_eq!(f.inventory.create(&sale, 1, past).await.unwrap(), Created::Late);
    assert!(matches!(f.inventory.stock(&sale.id).await, Err(InventoryError::Absent(_))));
}

#[tokio::test]
async fn overdue_commands_can_be_written_again() {
    let f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    let a = accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(1)).await);
    let cancel = Uuid::now_v7();
    match f.inventory.cancel(&a.id, &user("alice"), cancel).await.unwrap() {
        Cancelled::Accepted { hold_recorded: false, .. } => {}
        other => panic!("the hold is not in the ledger yet: {other:?}"),
    }
    let none =
        f.inventory.overdue(&sale.id, Timestamp::from_millis(a.held_at.millis() - 1).unwrap(), 10).await.unwrap();
    assert!(none.is_empty());
    let all = f.inventory.overdue(&sale.id, Timestamp::now().plus(Duration::from_secs(5)), 10).await.unwrap();
    assert_eq!(
        all.iter().map(|o| o.command).collect::<HashSet<_>>(),
        HashSet::from([Command::Hold(a.id.uuid), Command::Cancel { command: cancel, reservation: a.id.uuid }])
    );
    let hold = Command::Hold(a.id.uuid);
    assert_eq!(f.inventory.bury(&sale.id, &[hold, Command::Hold(Uuid::now_v7())]).await.unwrap(), 1);
    let left = f.inventory.overdue(&sale.id, Timestamp::now().plus(Duration::from_secs(5)), 10).await.unwrap();
    assert!(left.iter().all(|o| o.command != hold), "a dead letter is not written again");
    let seen = f.inventory.inspect(&sale.id).await.unwrap();
    assert_eq!((seen.pending, seen.buried, seen.taken_count), (2, 1, 1));
    assert!(all.iter().all(|o| o.hold.as_ref().is_some_and(|h| h.event() == a.event(&user("alice")))));
}

/// The fence, on which everything else stands: measured, not documented by Redis, so it is pinned here.
#[tokio::test]
async fn a_restart_fences_the_sale_until_it_is_blessed() {
    let mut f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    let held = accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(1)).await);
    tokio::time::sleep(Duration::from_millis(1_200)).await; // appendfsync everysec
    f.server.kill().unwrap();
    f.server.run().unwrap();
    let i = inventory(&f.server, false);
    f.inventory = i.clone();
    assert!(matches!(f.try_reserve(&sale, "bob", "k1", Wanted::Quantity(1)).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.stock(&sale.id).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.seats(&sale.id).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.hold(&held.id).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.cancel(&held.id, &user("alice"), Uuid::now_v7()).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.clear(&sale.id, &[Command::Hold(held.id.uuid)]).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.settle(&sale.id, &[]).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.give_back(&sale.id, &[]).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.forget(&sale.id, &[held.id.uuid]).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.overdue(&sale.id, Timestamp::now(), 1).await, Err(InventoryError::Fenced(_))));
    assert!(matches!(i.configure(&sale, 9).await, Err(InventoryError::Fenced(_))));
    assert_eq!(i.create(&sale, 9, soon()).await.unwrap(), Created::Exists);

    let seen = i.inspect(&sale.id).await.unwrap();
    assert_eq!((seen.epoch, seen.blessed, seen.taken_count), (1, false, 1));
    assert_eq!(i.bless(&sale.id, 2, 3).await.unwrap(), Bless::Other(1));
    assert_eq!(i.bless(&sale.id, 1, 1).await.unwrap(), Bless::Other(1), "an epoch is never blessed twice");
    assert_eq!(i.bless(&sale.id, 1, 2).await.unwrap(), Bless::Blessed);
    let next = accepted(f.reserve(&sale, "bob", "k1", Wanted::Quantity(1)).await);
    assert_eq!((next.units.as_slice(), next.epoch), (&[2][..], 2));
}

#[tokio::test]
async fn an_emptied_redis_never_sells() {
    let f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(1)).await);
    let mut redis = f.server.client().unwrap();
    redis::cmd("FLUSHALL").exec(&mut redis).unwrap();
    assert!(matches!(f.try_reserve(&sale, "bob", "k", Wanted::Quantity(1)).await, Err(InventoryError::Fenced(_))));
    assert_eq!(
        f.inventory.create(&sale, 9, soon()).await.unwrap(),
        Created::Exists,
        "a second create must not sell it again"
    );
    // Also without the library: nobody but the processor brings the sale back.
    redis::cmd("FUNCTION").arg("FLUSH").exec(&mut redis).unwrap();
    assert!(matches!(f.try_reserve(&sale, "bob", "k", Wanted::Quantity(1)).await, Err(InventoryError::Fenced(_))));
    f.inventory.load_library().await.unwrap();
    assert!(matches!(f.try_reserve(&sale, "bob", "k", Wanted::Quantity(1)).await, Err(InventoryError::Absent(_))));
}

#[tokio::test]
async fn a_promoted_replica_is_fenced_and_a_returning_primary_does_not_match() {
    let f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    let replica = RedisServer::start(RedisSetup::default()).unwrap();
    let replica_of = |server: &RedisServer, of: Option<u16>| {
        let mut c = server.client().unwrap();
        let mut cmd = redis::cmd("REPLICAOF");
        match of {
            Some(port) => cmd.arg("127.0.0.1").arg(port),
            None => cmd.arg("NO").arg("ONE"),
        };
        cmd.exec(&mut c).unwrap();
    };
    let synced = |from: &RedisServer, to: &RedisServer| {
        for _ in 0..500 {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut to.client().unwrap()).unwrap();
            let offset =
                |text: &str, name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
            let primary: String = redis::cmd("INFO").arg("replication").query(&mut from.client().unwrap()).unwrap();
            if info.contains("master_link_status:up")
                && offset(&info, "slave_repl_offset:") == offset(&primary, "master_repl_offset:")
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the replica did not catch up");
    };
    replica_of(&replica, Some(f.server.port()));
    synced(&f.server, &replica);
    accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(1)).await);
    synced(&f.server, &replica);

    // The replica is promoted: it has the library and the data, and no blessing.
    replica_of(&replica, None);
    let promoted = Fixture { inventory: inventory(&replica, false), server: replica };
    let refused = promoted.try_reserve(&sale, "bob", "k", Wanted::Quantity(1)).await;
    assert!(matches!(refused, Err(InventoryError::Fenced(_))));
    assert_eq!(promoted.inventory.bless(&sale.id, 1, 2).await.unwrap(), Bless::Blessed);
    accepted(promoted.reserve(&sale, "bob", "k", Wanted::Quantity(1)).await);

    // The former primary comes back by partial resync, its old table still in memory, and is promoted again.
    replica_of(&f.server, Some(promoted.server.port()));
    synced(&promoted.server, &f.server);
    replica_of(&f.server, None);
    let refused = f.try_reserve(&sale, "carol", "k", Wanted::Quantity(1)).await;
    assert!(matches!(refused, Err(InventoryError::Fenced(_))), "{refused:?}");
}

#[tokio::test]
async fn a_sale_is_laid_anew_from_what_the_ledger_knows() {
    let f = fixture(false).await;
    let sale = f.sale("s", config()).await;
    let a = accepted(f.reserve(&sale, "alice", "k1", Wanted::Quantity(2)).await);
    let (record, _) = f.inventory.hold(&a.id).await.unwrap().unwrap();
    let snapshot = SaleSnapshot { return_seq: 7, holds: std::slice::from_ref(&record) };
    assert!(f.inventory.restore(&sale, 1, 3, &snapshot).await.is_err(), "a blessed sale is not touched");
    redis::cmd("FLUSHALL").exec(&mut f.server.client().unwrap()).unwrap();
    f.inventory.restore(&sale, 1, 3, &snapshot).await.unwrap();
    let half_built = f.try_reserve(&sale, "bob", "k", Wanted::Quantity(1)).await;
    assert!(matches!(half_built, Err(InventoryError::Fenced(_))));
    assert_eq!(f.inventory.bless(&sale.id, 2, 3).await.unwrap(), Bless::Blessed);
    assert_eq!(f.inventory.hold(&a.id).await.unwrap(), Some((record.clone(), true)));
    let i = f.inventory.inspect(&sale.id).await.unwrap();
    assert_eq!((i.free, i.return_seq, i.pending), (8, 7, 0));
    assert!(matches!(f.reserve(&sale, "alice", "k9", Wanted::Quantity(3)).await, Reserved::LimitReached { .. }));
    assert_eq!(accepted(f.reserve(&sale, "bob", "k", Wanted::Quantity(1)).await).units, [3]);

    let twice: Vec<HoldRecord> =
        [record.clone(), HoldRecord { id: ReservationId::generate(sale.id.clone()), ..record }].into();
    redis::cmd("FLUSHALL").exec(&mut f.server.client().unwrap()).unwrap();
    let overlap = SaleSnapshot { return_seq: 7, holds: &twice };
    assert!(f.inventory.restore(&sale, 1, 5, &overlap).await.is_err(), "two owners of one unit are not restored");
}

#[tokio::test]
async fn a_thousand_at_once_take_exactly_the_stock() {
    let f = std::sync::Arc::new(fixture(false).await);
    let mut body = config();
    body["capacity"] = json!(500);
    let sale = f.sale("crowd", body).await;
    let calls: Vec<_> = (0..1000)
        .map(|i| {
            let (f, sale) = (f.clone(), sale.clone());
            tokio::spawn(async move { f.reserve(&sale, &format!("user-{i}"), "k", Wanted::Quantity(1)).await })
        })
        .collect();
    let mut units = HashSet::new();
    for call in calls {
        match call.await.unwrap() {
            Reserved::Accepted(a) => assert!(units.insert(a.units[0]), "a unit sold twice"),
            Reserved::SoldOut { free: 0 } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(units.len(), 500);
}

/// What may happen to a sale, as far as the library sees it.
#[derive(Debug, Clone)]
enum Op {
    Reserve { user: u8, key: u8, quantity: u32 },
    ReserveSeats { user: u8, key: u8, seats: Vec<u32> },
    Cancel { nth: usize },
    Record { nth: usize },
    Free { nth: usize, again: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4u8, 0..6u8, 1..5u32).prop_map(|(user, key, quantity)| Op::Reserve { user, key, quantity }),
        4 => (0..4u8, 0..6u8, proptest::collection::btree_set(1..12u32, 1..5))
            .prop_map(|(user, key, seats)| Op::ReserveSeats { user, key, seats: seats.into_iter().collect() }),
        2 => (0..20usize).prop_map(|nth| Op::Cancel { nth }),
        2 => (0..20usize).prop_map(|nth| Op::Record { nth }),
        3 => (0..20usize, any::<bool>()).prop_map(|(nth, again)| Op::Free { nth, again }),
    ]
}

#[derive(Debug, Clone)]
struct ModelHold {
    id: ReservationId,
    user: u8,
    units: Vec<u32>,
    cancel: Option<Uuid>,
    recorded: bool,
    freed: bool,
}

#[derive(Default)]
struct Model {
    holds: Vec<ModelHold>,
    answers: HashMap<(u8, u8), (Wanted, usize)>,
    seq: i64,
}

impl Model {
    fn owner(&self, unit: u32) -> Option<&ModelHold> {
        self.holds.iter().find(|h| !h.freed && h.units.contains(&unit))
    }

    fn live(&self, user: u8) -> u32 {
        self.holds.iter().filter(|h| h.user == user && !h.freed).map(|h| h.units.len() as u32).sum()
    }

    fn free(&self, capacity: u32) -> u32 {
        capacity - self.holds.iter().filter(|h| !h.freed).map(|h| h.units.len() as u32).sum::<u32>()
    }
}

async fn step(f: &Fixture, sale: &SaleSettings, model: &mut Model, op: Op) -> Result<(), TestCaseError> {
    let (capacity, limit) = (sale.stock().capacity(), sale.config().per_user_limit);
    match op {
        Op::Reserve { user, key, quantity } => {
            reserve_step(f, sale, model, user, key, Wanted::Quantity(quantity), capacity, limit).await?;
        }
        Op::ReserveSeats { user, key, seats } => {
            reserve_step(f, sale, model, user, key, Wanted::Units(seats), capacity, limit).await?;
        }
        Op::Cancel { nth } => {
            let Some(h) = model.holds.get_mut(nth) else { return Ok(()) };
            let command = Uuid::now_v7();
            match f.inventory.cancel(&h.id, &user(&format!("u{}", h.user)), command).await.unwrap() {
                Cancelled::Accepted { command: c, .. } => {
                    prop_assert!(!h.freed);
                    prop_assert_eq!(c, h.cancel.unwrap_or(command));
                    h.cancel = Some(c);
                }
                Cancelled::Ended(_) => prop_assert!(h.freed),
                Cancelled::Unknown => prop_assert!(false, "a hold was lost"),
            }
        }
        Op::Record { nth } => {
            let Some(h) = model.holds.get_mut(nth) else { return Ok(()) };
            f.inventory.clear(&sale.id, &[Command::Hold(h.id.uuid)]).await.unwrap();
            h.recorded = true;
        }
        Op::Free { nth, again } => {
            let Some(h) = model.holds.get_mut(nth) else { return Ok(()) };
            let Some(command) = h.cancel.filter(|_| !h.freed) else { return Ok(()) };
            let hold = Command::Hold(h.id.uuid);
            let cancel = Command::Cancel { command, reservation: h.id.uuid };
            f.inventory.clear(&sale.id, &[hold]).await.unwrap();
            let settlement = Settlement { command: cancel, state: ReservationState::Cancelled, version: 2 };
            f.inventory.settle(&sale.id, &[settlement]).await.unwrap();
            model.seq += 1;
            let owner = user(&format!("u{}", h.user));
            let give = UnitReturn { seq: model.seq, reservation: h.id.uuid, user: owner, units: h.units.clone() };
            for _ in 0..=usize::from(again) {
                let done = f.inventory.give_back(&sale.id, std::slice::from_ref(&give)).await.unwrap();
                let ok = matches!(done, GiveBack::Applied { seq, free_already: 0, .. } if seq == model.seq);
                prop_assert!(ok, "{:?}", done);
            }
            h.freed = true;
            h.recorded = true;
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
async fn reserve_step(
    f: &Fixture,
    sale: &SaleSettings,
    model: &mut Model,
    user: u8,
    key: u8,
    wanted: Wanted,
    capacity: u32,
    limit: u32,
) -> Result<(), TestCaseError> {
    let reply = f.reserve(sale, &format!("u{user}"), &format!("k{key}"), wanted.clone()).await;
    let quantity = match &wanted {
        Wanted::Quantity(n) => *n,
        Wanted::Units(units) => units.len() as u32,
    };
    if let Some((before, nth)) = model.answers.get(&(user, key)) {
        let same = match (before, &wanted) {
            (Wanted::Units(a), Wanted::Units(b)) => a[0] == b[0],
            (a, b) => a == b,
        };
        let h = &model.holds[*nth];
        match reply {
            Reserved::Replay { accepted, recorded } => {
                prop_assert!(same);
                prop_assert_eq!((&accepted.id, &accepted.units, recorded), (&h.id, &h.units, h.recorded));
            }
            Reserved::KeyReused => prop_assert!(!same),
            other => prop_assert!(false, "{:?}", other),
        }
        return Ok(());
    }
    let free = model.free(capacity);
    match reply {
        Reserved::Accepted(a) => {
            prop_assert_eq!(a.units.len() as u32, quantity, "all or nothing");
            prop_assert!(a.units.iter().all(|u| (1..=capacity).contains(u) && model.owner(*u).is_none()));
            prop_assert!(model.live(user) + quantity <= limit);
            match &wanted {
                Wanted::Units(units) => prop_assert_eq!(&a.units, units),
                Wanted::Quantity(n) => {
                    let lowest: Vec<u32> =
                        (1..=capacity).filter(|u| model.owner(*u).is_none()).take(*n as usize).collect();
                    prop_assert_eq!(&a.units, &lowest, "the lowest free numbers go first");
                }
            }
            model.answers.insert((user, key), (wanted, model.holds.len()));
            model.holds.push(ModelHold { id: a.id, user, units: a.units, cancel: None, recorded: false, freed: false });
        }
        Reserved::LimitReached { holds, .. } => {
            prop_assert!(model.live(user) + quantity > limit);
            prop_assert_eq!(holds.iter().map(|h| h.quantity).sum::<u32>(), model.live(user));
        }
        Reserved::SoldOut { free: said } => prop_assert!(said == free && (free == 0 || quantity > free)),
        Reserved::Taken(taken) => {
            prop_assert!(!taken.is_empty() && taken.iter().all(|u| model.owner(*u).is_some()));
        }
        Reserved::NoSuchUnit => {
            prop_assert!(matches!(wanted, Wanted::Units(u) if u.iter().any(|u| *u > capacity)));
        }
        Reserved::Seated => prop_assert!(matches!(wanted, Wanted::Quantity(_)) && sale.seating().is_some()),
        other => prop_assert!(false, "{:?}", other),
    }
    Ok(())
}

static CASE: AtomicU64 = AtomicU64::new(0);

/// Any sequence of reserves, retries, cancels, recordings and returns, some of them applied twice: never below zero,
/// the sum conserved, no unit with two owners, replays change nothing, no partial seats, the limit kept.
#[test]
fn any_sequence_keeps_the_stock_whole() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let f = runtime.block_on(fixture(false));
    proptest!(ProptestConfig { cases: 200, ..ProptestConfig::default() }, |(
        ops in proptest::collection::vec(op(), 1..60),
        capacity in 1..12u32,
        with_seats in any::<bool>(),
    )| {
        runtime.block_on(async {
            let name = format!("case-{}", CASE.fetch_add(1, Ordering::Relaxed));
            let mut body = if with_seats { seated() } else { config() };
            if !with_seats { body["capacity"] = json!(capacity) }
            let sale = f.sale(&name, body).await;
            let mut model = Model::default();
            for op in ops {
                step(&f, &sale, &mut model, op).await?;
                let seen = f.inventory.inspect(&sale.id).await.unwrap();
                prop_assert_eq!(seen.free, model.free(seen.capacity));
                prop_assert_eq!(seen.free + seen.taken_count, seen.capacity);
                let owners: BTreeMap<u32, bool> =
                    (1..=seen.capacity).map(|n| (n, model.owner(n).is_some())).collect();
                for (unit, owned) in owners {
                    prop_assert_eq!(seen.is_taken(unit), owned, "unit {}", unit);
                }
            }
            Ok::<_, TestCaseError>(())
        })?;
    });
}
