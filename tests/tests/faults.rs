//! What breaks must cost time only: nothing accepted is lost, nothing is sold twice, nothing leaks.

use crate::{accepted, assert_recorded, general, id_of, on_sale, rush};
use onsale_tests::{Answer, Options, Stack, eventually, units_of};
use serde_json::{Value, json};

/// Nobody listens there.
const NOWHERE: [(&str, &str); 3] =
    [("KAFKA_BROKERS", "127.0.0.1:1"), ("KAFKA_DELIVERY_TIMEOUT_MS", "500"), ("ONSALE_DEADLINE_MS", "10000")];

async fn recorded(stack: &Stack, sale: &str) -> usize {
    stack.reservations(sale).await.len()
}

async fn until_recorded(stack: &Stack, sale: &str, at_least: usize) {
    eventually("some are in the ledger", async || {
        let n = recorded(stack, sale).await;
        if n >= at_least { Ok(()) } else { Err(n) }
    })
    .await;
}

#[tokio::test]
async fn sales_go_on_while_the_processor_is_away() {
    let stack = Stack::start(Options::default()).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "away", &general(40, 1)).await;
    stack.stop_processor().await;

    let late = on_sale(&stack, &api, "late", &general(5, 5)).await;
    let lates = api.reserve("alice", &late, "k", &json!({"quantity": 5})).await.is(202);
    let mut accepted = accepted(&rush(&api, &sale, 0..60).await);
    assert_eq!(accepted.len(), 40);
    let (user, given_up) = accepted.pop_first().unwrap();
    api.give_up(&user, &id_of(&given_up)).await.is(202);
    let shown = api.reservation("alice", &id_of(&lates)).await.is(200);
    assert_eq!((&shown["state"], &shown["recorded"]), (&json!("held"), &json!(false)));
    assert_eq!(recorded(&stack, &sale).await, 0);

    stack.start_processor().await;
    stack.wait_recorded("alice", &id_of(&lates)).await;
    stack.wait_state(&user, &id_of(&given_up), "cancelled").await;
    stack.wait_available(&sale, 1).await;
    assert_recorded(&stack, &sale, &accepted).await;
    assert_recorded(&stack, &late, &[("alice".to_owned(), lates)].into()).await;
}

#[tokio::test]
async fn a_processor_killed_in_a_rush_loses_nothing_and_doubles_nothing() {
    let small_batches = Options { settings: vec![("BATCH_SIZE", "7")], ..Options::default() };
    let stack = Stack::start(small_batches).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "killed", &general(300, 1)).await;
    let crowd = tokio::spawn({
        let (api, sale) = (api.clone(), sale.clone());
        async move { rush(&api, &sale, 0..400).await }
    });
    until_recorded(&stack, &sale, 10).await;
    stack.kill_processor();
    stack.start_processor().await;
    let accepted = accepted(&crowd.await.unwrap());
    assert_eq!(accepted.len(), 300);
    assert_recorded(&stack, &sale, &accepted).await;
    let (code, report) = stack.audit_command(&["--json"]).await;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((code, &report["clean"], &report["lag"]), (0, &json!(true), &json!(0)), "{report}");
}

#[tokio::test]
async fn two_processors_share_the_work_and_apply_nothing_twice() {
    let stack = Stack::start(Options { settings: vec![("BATCH_SIZE", "7")], ..Options::default() }).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "two", &general(400, 1)).await;
    let crowd = tokio::spawn({
        let (api, sale) = (api.clone(), sale.clone());
        async move { rush(&api, &sale, 0..300).await }
    });
    until_recorded(&stack, &sale, 10).await;
    stack.start_processor().await;
    let mut bought = crowd.await.unwrap();
    // The first leaves in the midst of the next wave, and the second gets its partitions and its lead.
    let crowd = tokio::spawn({
        let (api, sale) = (api.clone(), sale.clone());
        async move { rush(&api, &sale, 300..450).await }
    });
    stack.stop_processor().await;
    bought.extend(crowd.await.unwrap());
    let mut accepted = accepted(&bought);
    assert_eq!(accepted.len(), 400);
    let (user, given_up) = accepted.pop_last().unwrap();
    api.give_up(&user, &id_of(&given_up)).await.is(202);
    stack.wait_state(&user, &id_of(&given_up), "cancelled").await;
    assert_recorded(&stack, &sale, &accepted).await;
    let dead = sqlx::query_scalar::<_, i64>("select count(*) from reservation where state = 4");
    assert_eq!(dead.fetch_one(&stack.ledger()).await.unwrap(), 0);
}

#[tokio::test]
async fn what_the_log_does_not_take_is_not_promised_and_not_given_back() {
    let stack = Stack::shared().await;
    let (good, bad) = (stack.api(), stack.gateway(&NOWHERE).await);
    let sale = on_sale(&stack, &good, "no-log", &general(10, 4)).await;
    let wish = json!({"quantity": 2});
    for _ in 0..2 {
        let answer = bad.api().reserve("alice", &sale, "k", &wish).await;
        answer.refuses(503, "try-again");
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{answer:?}");
    }
    // Taken once, and on its way: pending, or held where the relay was there first.
    let report = stack.audit(&sale).await;
    let of_sale = &report["sales"][0];
    assert_eq!(of_sale["free"], 8, "{report}");
    assert_eq!(of_sale["pending"].as_u64().unwrap() + of_sale["held"].as_u64().unwrap(), 2, "{report}");

    let held = good.reserve("alice", &sale, "k", &wish).await.is(202);
    assert_eq!(units_of(&held), [1, 2]);
    assert_eq!(good.reserve("alice", &sale, "k", &wish).await.is(202), held);
    stack.wait_recorded("alice", &id_of(&held)).await;
    assert_recorded(&stack, &sale, &[("alice".to_owned(), held)].into()).await;
}

#[tokio::test]
async fn what_nobody_sends_again_is_finished_by_the_relay() {
    let stack = Stack::start(Options::impatient()).await;
    let (good, bad) = (stack.api(), stack.gateway(&NOWHERE).await);
    let sale = on_sale(&stack, &good, "relay", &general(10, 4)).await;
    bad.api().reserve("alice", &sale, "k", &json!({"quantity": 3})).await.refuses(503, "try-again");
    until_recorded(&stack, &sale, 1).await;
    let rows = stack.reservations(&sale).await;
    assert_eq!((rows.len(), rows[0].user.as_str(), &rows[0].owns), (1, "alice", &vec![1, 2, 3]));
    stack.wait_recorded("alice", &rows[0].id).await;
    // The client comes after all.
    let held = good.buy("alice", &sale, "k", &json!({"quantity": 3})).await.is(202);
    assert_eq!(id_of(&held), rows[0].id);

    // The same with a cancel, and with a cancel of a hold that is not in the log either.
    bad.api().cancel("alice", &rows[0].id).await.refuses(503, "try-again");
    bad.api().reserve("bob", &sale, "k", &json!({"quantity": 2})).await.refuses(503, "try-again");
    let live: Vec<Vec<u8>> =
        redis::cmd("HKEYS").arg(format!("onsale:{{{sale}}}:holds")).query(&mut stack.redis()).unwrap();
    let mut live = live.iter().map(|id| format!("{sale}.{}", uuid::Uuid::from_slice(id).unwrap()));
    let bobs = live.find(|id| *id != rows[0].id).unwrap();
    bad.api().cancel("bob", &bobs).await.refuses(503, "try-again");
    for (user, id) in [("alice", &rows[0].id), ("bob", &bobs)] {
        stack.wait_state(user, id, "cancelled").await;
    }
    stack.wait_available(&sale, 10).await;
    stack.wait_clean(&sale).await;
}

#[tokio::test]
async fn a_gateway_killed_in_a_rush_leaves_nothing_half_done() {
    let stack = Stack::start(Options::impatient()).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "crashed", &general(150, 1)).await;
    let mut doomed = stack.gateway(&[]).await;
    let crowd: Vec<_> = (0..200)
        .map(|n| {
            let (doomed, api, sale, user) = (doomed.api(), api.clone(), sale.clone(), format!("buyer-{n}"));
            tokio::spawn(async move {
                let wish = json!({"quantity": 1});
                let first = doomed.try_reserve(&user, &sale, "one-each", &wish).await;
                // Silence and 503 are met with the same key, elsewhere.
                let answer = match first {
                    Ok(answer) if answer.status != 503 => answer,
                    _ => api.buy(&user, &sale, "one-each", &wish).await,
                };
                (user, answer)
            })
        })
        .collect();
    until_recorded(&stack, &sale, 10).await;
    doomed.process.kill();
    let mut bought = Vec::new();
    for buyer in crowd {
        bought.push(buyer.await.unwrap());
    }
    let accepted = accepted(&bought);
    assert_eq!(accepted.len(), 150);
    assert_recorded(&stack, &sale, &accepted).await;
}

#[tokio::test]
async fn what_redis_should_not_have_sold_is_rejected_for_all_to_see() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "rejected", &general(3, 2)).await;
    // The ledger learns of an owner of unit 1 whom Redis does not know.
    let uuid = uuid::Uuid::now_v7();
    let rival = format!("{sale}.{uuid}");
    let event = json!({
        "type": "reservation.hold", "version": 1, "id": uuid, "epoch": 1, "occurredAt": "2020-01-01T00:00:00Z",
        "reservationId": rival, "userId": "rival", "units": [1], "amount": {"amount": 1, "currency": "EUR"},
        "expiresAt": "2020-01-01T01:00:00Z",
    });
    stack.write_to_log("reservation", &[(Some(&rival), event.to_string().as_bytes())]).await;
    until_recorded(&stack, &sale, 1).await;

    let held = api.reserve("alice", &sale, "k", &json!({"quantity": 2})).await.is(202);
    assert_eq!(units_of(&held), [1, 2]);
    let id = id_of(&held);
    let rejected = stack.wait_state("alice", &id, "rejected").await;
    assert_eq!(rejected["units"], held["units"]);
    api.cancel("alice", &id).await.refuses(410, "expired");
    let report = stack.wait_clean(&sale).await;
    let of_sale = &report["sales"][0];
    assert_eq!((&of_sale["rejected"], &of_sale["held"], &of_sale["free"]), (&json!(1), &json!(1), &json!(2)));

    // Of the two units the one without another owner came back, and her limit with it.
    let again = api.reserve("alice", &sale, "again", &json!({"quantity": 2})).await.is(202);
    assert_eq!(units_of(&again), [2, 3]);
    stack.wait_clean(&sale).await;
    let owners: Vec<_> = stack.reservations(&sale).await.into_iter().map(|row| (row.id, row.owns)).collect();
    assert_eq!(owners.iter().filter(|(owner, _)| *owner == rival).map(|(_, owns)| owns).collect::<Vec<_>>(), [&[1]]);
    assert!(owners.contains(&(id, Vec::new())) && owners.contains(&(id_of(&again), vec![2, 3])), "{owners:?}");
}

#[tokio::test]
async fn a_sale_whose_redis_died_sells_again_by_itself() {
    let stack = Stack::start(Options { own_redis: true, ..Options::impatient() }).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "died", &general(20, 1)).await;
    let mut bought = rush(&api, &sale, 0..10).await;
    // With nobody there to bless it again it must stay shut.
    stack.stop_processor().await;
    bought.extend(rush(&api, &sale, 10..15).await);
    stack.own_redis().kill().unwrap();
    let wish = json!({"quantity": 1});
    let answer = api.reserve("late", &sale, "k", &wish).await;
    answer.refuses(503, "try-again");
    stack.own_redis().run().unwrap();
    for _ in 0..3 {
        let answer = api.reserve("late", &sale, "k", &wish).await;
        answer.refuses(503, "try-again");
        assert!(answer.header("retry-after").is_some());
    }
    api.sale(&sale).await.refuses(503, "try-again");

    stack.start_processor().await;
    bought.extend(rush(&api, &sale, 15..30).await);
    let accepted = accepted(&bought);
    assert_eq!(accepted.len(), 20);
    assert_recorded(&stack, &sale, &accepted).await;
    let report = stack.audit(&sale).await;
    assert_eq!((&report["sales"][0]["blessed"], &report["sales"][0]["epoch"]), (&json!(true), &json!(2)), "{report}");
}

#[tokio::test]
async fn redis_killed_and_emptied_in_a_rush_sells_no_unit_twice() {
    let stack = Stack::start(Options { own_redis: true, ..Options::impatient() }).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "emptied", &general(200, 1)).await;
    let mut bought = Vec::new();
    let crowds = [0..80, 80..160, 160..260];
    for (wave, crowd) in crowds.into_iter().enumerate() {
        let crowd = tokio::spawn({
            let (api, sale) = (api.clone(), sale.clone());
            async move { rush(&api, &sale, crowd).await }
        });
        until_recorded(&stack, &sale, wave * 80 + 10).await;
        match wave {
            0 => redis::cmd("FLUSHALL").exec(&mut stack.redis()).unwrap(),
            1 => {
                stack.own_redis().kill().unwrap();
                stack.own_redis().run().unwrap();
            }
            _ => {}
        }
        bought.extend(crowd.await.unwrap());
    }
    // Whose answer was lost and whose key Redis lost after it, holds what was taken then: the limit tells.
    let is_limit = |answer: &Answer| answer.status == 409 && answer.json()["holds"].is_array();
    let (held_already, bought): (Vec<_>, Vec<_>) = bought.into_iter().partition(|(_, answer)| is_limit(answer));
    let mut accepted = accepted(&bought);
    for (user, answer) in held_already {
        let id = id_of(&answer.json()["holds"][0]);
        let held = api.reservation(&user, &id).await.is(200);
        accepted.insert(user, held);
    }
    assert_eq!(accepted.len(), 200);
    assert_recorded(&stack, &sale, &accepted).await;
    // Also what finished before and after can be given back.
    let (user, given_up) = accepted.first_key_value().unwrap();
    api.give_up(user, &id_of(given_up)).await.is(202);
    stack.wait_state(user, &id_of(given_up), "cancelled").await;
    stack.wait_available(&sale, 1).await;
    stack.wait_clean(&sale).await;
}

#[tokio::test]
async fn a_record_that_cannot_be_applied_goes_to_the_dead_letters_alone() {
    let stack = Stack::start(Options::default()).await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "dead", &general(10, 4)).await;
    let hold = |version: u32, sale: &str, units: &[u32]| {
        let uuid = uuid::Uuid::now_v7();
        let id = format!("{sale}.{uuid}");
        let event = json!({
            "type": "reservation.hold", "version": version, "id": uuid, "epoch": 1,
            "occurredAt": "2026-11-01T00:00:00Z", "reservationId": id, "userId": "mallory", "units": units,
            "amount": {"amount": 1, "currency": "EUR"}, "expiresAt": "2026-11-01T01:00:00Z",
        });
        (id, event.to_string().into_bytes())
    };
    let nobody = stack.sale("nobodys");
    let bad = [
        (None, b"{".to_vec(), "unreadable"),
        (Some("not an id".to_owned()), vec![0xff, 0xfe, 0x00], "unreadable"),
        (None, Vec::new(), "unreadable"),
    ]
    .into_iter()
    .chain(
        [
            ("version 2 ", 2, sale.as_str(), [1_u32]),
            ("unknown-sale", 1, &nobody, [1]),
            ("units-out-of-range", 1, &sale, [11]),
        ]
        .map(|(reason, version, sale, units)| {
            let (id, event) = hold(version, sale, &units);
            (Some(id), event, reason)
        }),
    )
    .collect::<Vec<_>>();
    let records: Vec<_> = bad.iter().map(|(key, payload, _)| (key.as_deref(), payload.as_slice())).collect();
    let places = stack.write_to_log("reservation", &records).await;
    // Whatever the partition, records behind them are applied.
    let accepted = accepted(&rush(&api, &sale, 0..10).await);
    assert_recorded(&stack, &sale, &accepted).await;

    let letters = stack.dead_letters("reservation", |letters| letters.len() >= bad.len()).await;
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    for ((key, payload, reason), (partition, offset)) in bad.iter().zip(places) {
        let place = (partition.to_string(), offset.to_string());
        let letter = letters
            .iter()
            .find(|l| (&l.headers["origin-partition"], &l.headers["origin-offset"]) == (&place.0, &place.1))
            .unwrap_or_else(|| panic!("{reason}: not among {letters:?}"));
        assert_eq!(letter.payload.as_deref().unwrap_or_default(), payload, "byte for byte");
        assert_eq!(letter.key.as_deref(), key.as_deref().map(str::as_bytes));
        assert_eq!(letter.headers["origin-topic"], stack.topic("reservation"));
        assert!(letter.headers["reason"].contains(reason), "{reason}: {letter:?}");
        assert!(letter.headers["dead-lettered-at"].ends_with('Z'), "{letter:?}");
    }
}

#[tokio::test]
async fn the_audit_finds_what_was_broken_by_hand() {
    let stack = Stack::start(Options::default()).await;
    let api = stack.api();
    let quiet = on_sale(&stack, &api, "quiet", &general(10, 4)).await;
    let sale = on_sale(&stack, &api, "broken", &general(40, 4)).await;
    let held = api.reserve("alice", &sale, "k", &json!({"quantity": 3})).await.is(202);
    let id = id_of(&held);
    stack.wait_recorded("alice", &id).await;
    stack.wait_clean(&sale).await;
    let (code, text) = stack.audit_command(&[]).await;
    assert!(code == 0 && text.contains("audit clean"), "{text}");

    let (ledger, mut redis) = (stack.ledger(), stack.redis());
    let units = format!("onsale:{{{sale}}}:units");
    let mut set_bit = |unit: u32, bit: u32| {
        redis::cmd("SETBIT").arg(&units).arg(unit - 1).arg(bit).exec(&mut redis).unwrap();
    };
    let findings = async |words: &[&str]| {
        let (code, report) = stack.audit_command(&["--json"]).await;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((code, &report["clean"]), (1, &json!(false)), "{report}");
        let found: Vec<_> = report["findings"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
        for words in words {
            assert!(found.iter().any(|f| f.contains(&sale) && f.contains(words)), "{words}: {found:?}");
        }
        assert!(!found.iter().any(|f| f.contains(&quiet)), "{found:?}");
        let (code, one) = stack.audit_command(&["--sale", &quiet]).await;
        assert_eq!(code, 0, "{one}");
    };

    // A bit nobody took: the unit can never be sold.
    set_bit(33, 1);
    findings(&["G3: 1 units taken in redis, but owned by nobody: [33]", "37 free and 4 taken"]).await;
    set_bit(33, 0);
    // A bit lost: the unit would be sold twice.
    set_bit(2, 0);
    findings(&["G1: 1 units owned in the ledger or pending, but free in redis: [2]"]).await;
    set_bit(2, 1);
    // An owner lost.
    sqlx::query("delete from unit where sale_id = $1 and number = 3").bind(&sale).execute(&ledger).await.unwrap();
    let uuid = id.rsplit_once('.').unwrap().1;
    findings(&["owned by nobody: [3]", uuid]).await;
    // An owner who does not own.
    let stray = sqlx::query("insert into unit (sale_id, number, reservation_id) values ($1, 3, $2), ($1, 7, $2)");
    stray.bind(&sale).bind(uuid::Uuid::parse_str(uuid).unwrap()).execute(&ledger).await.unwrap();
    findings(&["1 units whose owner does not own them: 7 of", "free in redis: [7]"]).await;
    sqlx::query("delete from unit where sale_id = $1 and number = 7").bind(&sale).execute(&ledger).await.unwrap();
    stack.wait_clean(&sale).await;
    assert_eq!(stack.audit_command(&["--sale", "no-such-sale"]).await.0, 1);
}
