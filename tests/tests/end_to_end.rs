//! What a buyer can do over HTTP, through to the ledger.

use crate::{accepted, assert_recorded, general, id_of, on_sale, rush, seated};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::join_all;
use onsale_tests::{Stack, eventually, send, units_of};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn general_admission_from_the_first_look_to_the_returned_unit() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = stack.sale("life");
    let put = api.put_sale(&sale, &general(10, 4)).await.is(201);
    assert_eq!((&put["saleId"], &put["state"], &put["available"]), (&json!(sale), &json!("open"), &json!(10)));

    let looked = api.sale(&sale).await;
    assert_eq!(looked.is(200), put);
    assert_eq!(looked.header("cache-control"), Some("public, max-age=1"));

    let answer = api.reserve("alice", &sale, "k", &json!({"quantity": 2})).await;
    let held = answer.is(202);
    let id = id_of(&held);
    assert!(id.starts_with(&format!("{sale}.")), "{id}");
    assert_eq!(answer.header("location"), Some(format!("/v1/reservations/{id}").as_str()));
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(held["saleId"], json!(sale));
    assert_eq!(held["state"], "held");
    assert_eq!(held["units"], json!([{"number": 1}, {"number": 2}]));
    assert_eq!(held["amount"], json!({"amount": 10_000, "currency": "EUR"}));
    assert!(held["expiresAt"].as_str().is_some_and(|t| t.ends_with('Z')), "{held}");

    let mut recorded = stack.wait_recorded("alice", &id).await;
    assert_eq!(recorded.as_object_mut().unwrap().remove("recorded"), Some(json!(true)));
    assert_eq!(recorded, held, "GET answers the same fields");
    let rows = stack.reservations(&sale).await;
    assert_eq!((rows.len(), &rows[0].id, &rows[0].owns), (1, &id, &vec![1, 2]));
    stack.wait_available(&sale, 8).await;

    assert_eq!(api.cancel("alice", &id).await.is(202), Value::Null);
    let cancelled = stack.wait_state("alice", &id, "cancelled").await;
    assert_eq!(cancelled["units"], held["units"]);
    stack.wait_available(&sale, 10).await;
    let report = stack.wait_clean(&sale).await;
    assert_eq!((&report["sales"][0]["held"], &report["sales"][0]["free"]), (&json!(0), &json!(10)));
}

#[tokio::test]
async fn a_sale_can_be_sold_the_moment_its_put_answers() {
    let stack = Stack::shared().await;
    let api = stack.api();
    for n in 0..20 {
        let sale = on_sale(&stack, &api, &format!("fresh-{n}"), &general(1, 1)).await;
        api.reserve("alice", &sale, "k", &json!({"quantity": 1})).await.is(202);
    }
}

#[tokio::test]
async fn settings_change_and_stock_does_not() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "settings", &general(10, 1)).await;
    api.reserve("alice", &sale, "first", &json!({"quantity": 1})).await.is(202);
    api.reserve("alice", &sale, "second", &json!({"quantity": 1})).await.refuses(409, "limit-reached");

    let mut other = general(10, 3);
    other["title"] = json!("Sunlight");
    other["unitPrice"]["amount"] = json!(7000);
    let put = api.put_sale(&sale, &other).await.is(200);
    assert_eq!((&put["title"], &put["perUserLimit"], &put["available"]), (&json!("Sunlight"), &json!(3), &json!(9)));
    let held = api.reserve("alice", &sale, "second", &json!({"quantity": 1})).await.is(202);
    assert_eq!(held["amount"]["amount"], 7000);

    let mut dollars = other.clone();
    dollars["unitPrice"]["currency"] = json!("USD");
    for fixed in [general(11, 3), general(9, 3), seated(3), dollars] {
        api.put_sale(&sale, &fixed).await.refuses(409, "stock-fixed");
    }
    let report = stack.wait_clean(&sale).await;
    assert_eq!((&report["sales"][0]["capacity"], &report["sales"][0]["free"]), (&json!(10), &json!(8)));
}

#[tokio::test]
async fn of_puts_at_once_one_makes_the_sale() {
    let stack = Stack::shared().await;
    let (api, sale, config) = (stack.api(), stack.sale("puts"), general(5, 1));
    let mut statuses: Vec<_> = join_all((0..8).map(|_| api.put_sale(&sale, &config))).await;
    statuses.sort_by_key(|answer| answer.status);
    let created = statuses.pop().unwrap();
    assert_eq!(created.status, 201, "{created:?}");
    // Until the stock is laid the others may be told to try again.
    assert!(statuses.iter().all(|answer| answer.status == 200 || answer.status == 503), "{statuses:?}");
    api.put_sale(&sale, &config).await.is(200);
    assert_eq!(accepted(&rush(&api, &sale, 0..7).await).len(), 5);
}

#[tokio::test]
async fn seats_are_sold_all_or_none_and_the_map_shows_it() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "seats", &seated(4)).await;
    // Highest bit first: seats 1 to 4 are A-1-1 A-1-2 A-2-1 A-2-2, 5 to 10 are B-1-1 … B-2-3.
    let empty = map_shows(&stack, &sale, &[0b0000_0000, 0b0000_0000]).await;
    assert_eq!(
        empty["sections"][0],
        json!({"section": "A", "firstNumber": 1, "rows": 2, "seatsPerRow": 2,
        "unitPrice": {"amount": 5000, "currency": "EUR"}})
    );
    assert_eq!(empty["sections"][1]["firstNumber"], 5);

    let pair = json!({"seats": ["B-1-1", "A-1-1"]});
    let held = api.reserve("alice", &sale, "k", &pair).await.is(202);
    assert_eq!(held["units"], json!([{"number": 1, "seat": "A-1-1"}, {"number": 5, "seat": "B-1-1"}]));
    assert_eq!(held["amount"], json!({"amount": 7000, "currency": "EUR"}));
    let taken = map_shows(&stack, &sale, &[0b1000_1000, 0b0000_0000]).await;
    assert_eq!((&taken["capacity"], &taken["available"]), (&json!(10), &json!(8)));

    let overlapping = json!({"seats": ["A-1-2", "A-1-1", "B-1-1"]});
    let refused = api.reserve("bob", &sale, "k", &overlapping).await.refuses(409, "seat-taken");
    assert_eq!(refused["seats"], json!(["A-1-1", "B-1-1"]));
    // The free one of the three stayed free.
    let single = api.reserve("carol", &sale, "k", &json!({"seats": ["A-1-2"]})).await.is(202);
    assert_eq!(units_of(&single), [2]);
    map_shows(&stack, &sale, &[0b1100_1000, 0b0000_0000]).await;

    let shown = stack.wait_recorded("alice", &id_of(&held)).await;
    assert_eq!(shown["units"], held["units"]);
    api.cancel("alice", &id_of(&held)).await.is(202);
    let cancelled = stack.wait_state("alice", &id_of(&held), "cancelled").await;
    assert_eq!(cancelled["units"], held["units"], "seats keep their names after the end");
    map_shows(&stack, &sale, &[0b0100_0000, 0b0000_0000]).await;
    stack.wait_clean(&sale).await;
}

async fn map_shows(stack: &Stack, sale: &str, taken: &[u8]) -> Value {
    let (api, taken) = (stack.api(), STANDARD.encode(taken));
    // A map may be a second old.
    eventually("the map shows what is taken", async || {
        let map = api.seats(sale).await.is(200);
        if map["taken"] == taken { Ok(map) } else { Err(map) }
    })
    .await
}

#[tokio::test]
async fn a_seat_map_that_has_not_changed_is_not_sent_again() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "etag", &seated(4)).await;
    let first = api.seats(&sale).await;
    first.is(200);
    assert_eq!(first.header("cache-control"), Some("public, max-age=1"));
    let tag = first.header("etag").unwrap().to_owned();
    let path = format!("/v1/sales/{sale}/seats");
    let ask = |tag: &str| send(api.request(Method::GET, &path).header("if-none-match", tag));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let unchanged = ask(&known).await;
        assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some(tag.as_str())), "{known}");
        assert!(unchanged.body.is_empty());
    }
    assert_eq!(ask("\"other\"").await.body, first.body);

    api.reserve("alice", &sale, "k", &json!({"seats": ["A-1-1"]})).await.is(202);
    let changed = eventually("the map has changed", async || {
        let answer = ask(&tag).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
}

#[tokio::test]
async fn several_at_once_or_none() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "several", &general(5, 4)).await;
    let held = api.reserve("alice", &sale, "k", &json!({"quantity": 3})).await.is(202);
    assert_eq!(units_of(&held), [1, 2, 3]);
    let refused = api.reserve("bob", &sale, "k", &json!({"quantity": 3})).await.refuses(409, "sold-out");
    assert_eq!(refused["available"], 2);
    let held = api.reserve("carol", &sale, "k", &json!({"quantity": 2})).await.is(202);
    assert_eq!(units_of(&held), [4, 5], "bob's refusal took nothing");
    let refused = api.reserve("bob", &sale, "k", &json!({"quantity": 1})).await.refuses(409, "sold-out");
    assert_eq!(refused["available"], 0);
}

#[tokio::test]
async fn the_limit_counts_live_holds_and_lists_them() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "limit", &general(20, 4)).await;
    let reserve = |key: &'static str, n: u32| {
        let (api, sale) = (api.clone(), sale.clone());
        async move { api.reserve("alice", &sale, key, &json!({"quantity": n})).await }
    };
    api.reserve("bob", &sale, "b", &json!({"quantity": 5})).await.refuses(409, "limit-reached");
    let two = id_of(&reserve("a", 2).await.is(202));
    let one = id_of(&reserve("b", 1).await.is(202));
    let refused = reserve("c", 2).await.refuses(409, "limit-reached");
    assert_eq!(refused["holds"], json!([{"reservationId": two, "quantity": 2}, {"reservationId": one, "quantity": 1}]));
    let last = id_of(&reserve("d", 1).await.is(202));

    // What was cancelled counts no longer, once its units are back.
    api.cancel("alice", &two).await.is(202);
    let again = eventually("alice may take two again", async || {
        let answer = reserve("c", 2).await;
        if answer.status == 202 { Ok(answer) } else { Err(answer) }
    })
    .await;
    let refused = reserve("e", 1).await.refuses(409, "limit-reached");
    let holds: Vec<_> = refused["holds"].as_array().unwrap().iter().map(id_of).collect();
    assert_eq!(holds, [one, last, id_of(&again.json())]);
    stack.wait_clean(&sale).await;
}

#[tokio::test]
async fn one_key_is_one_answer() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "keys", &general(20, 10)).await;
    let wish = json!({"quantity": 2});
    let first = api.reserve("alice", &sale, "key-1", &wish).await;
    let id = id_of(&first.is(202));

    let replay = async |key: &str, body: &'static str| {
        let request = api.reserve_request("alice", &sale, key).header("content-type", "application/json");
        let answer = send(request.body(body)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.body, first.body, "byte for byte");
        assert_eq!(answer.header("idempotent-replayed"), Some("true"));
        assert_eq!(answer.header("location"), first.header("location"));
    };
    replay("key-1", r#"{"quantity":2}"#).await;
    replay("\"key-1\"", "  {\n\"quantity\" : 2, \"seats\": null }").await;
    stack.wait_recorded("alice", &id).await;
    replay("key-1", r#"{"quantity":2}"#).await;

    for other in [json!({"quantity": 1}), json!({"quantity": 3})] {
        api.reserve("alice", &sale, "key-1", &other).await.refuses(422, "idempotency-key-reused");
    }
    // The key is the user's own, and another key is another wish.
    let bobs = api.reserve("bob", &sale, "key-1", &wish).await;
    assert_eq!((units_of(&bobs.is(202)), bobs.header("idempotent-replayed")), (vec![3, 4], None));
    assert_eq!(units_of(&api.reserve("alice", &sale, "key-2", &wish).await.is(202)), [5, 6]);

    // Also after the end of the reservation.
    api.cancel("alice", &id).await.is(202);
    stack.wait_state("alice", &id, "cancelled").await;
    replay("key-1", r#"{"quantity":2}"#).await;
    stack.wait_clean(&sale).await;
    assert_eq!(stack.reservations(&sale).await.len(), 3);
}

#[tokio::test]
async fn fifty_requests_at_once_with_one_key_are_one_reservation() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "one-key", &general(100, 100)).await;
    let wish = json!({"quantity": 2});
    let answers = join_all((0..50).map(|_| api.buy("alice", &sale, "k", &wish))).await;
    let first = answers[0].is(202);
    for answer in &answers {
        answer.is(202);
        assert_eq!(answer.body, answers[0].body, "byte for byte");
    }
    assert!(answers.iter().filter(|a| a.header("idempotent-replayed").is_none()).count() <= 1);
    assert_recorded(&stack, &sale, &[("alice".to_owned(), first)].into()).await;
    let report = stack.audit(&sale).await;
    assert_eq!(report["sales"][0]["free"], 98);
}

#[tokio::test]
async fn nothing_is_sold_before_the_opening_and_after_the_close() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let mut config = general(10, 4);
    config["opensAt"] = json!("2999-12-01T20:00:00+09:00");
    let sale = on_sale(&stack, &api, "window", &config).await;
    assert_eq!(api.sale(&sale).await.is(200)["state"], "scheduled");
    let wish = json!({"quantity": 1});
    let refused = api.reserve("alice", &sale, "k", &wish).await.refuses(409, "not-open");
    assert_eq!(refused["opensAt"], "2999-12-01T11:00:00.000Z");

    config["opensAt"] = json!("2020-01-01T00:00:00Z");
    api.put_sale(&sale, &config).await.is(200);
    // The refusal was not stored as the key's answer.
    let held = api.reserve("alice", &sale, "k", &wish).await.is(202);

    config["closesAt"] = json!("2020-01-02T00:00:00Z");
    assert_eq!(api.put_sale(&sale, &config).await.is(200)["state"], "closed");
    api.reserve("bob", &sale, "k", &wish).await.refuses(409, "not-open");
    // What was held is still there, and can still be given up.
    assert_eq!(api.reservation("alice", &id_of(&held)).await.is(200)["state"], "held");
    api.cancel("alice", &id_of(&held)).await.is(202);
    stack.wait_state("alice", &id_of(&held), "cancelled").await;
}

#[tokio::test]
async fn a_reservation_is_its_owners_alone() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "owner", &general(10, 4)).await;
    let id = id_of(&api.reserve("alice", &sale, "k", &json!({"quantity": 1})).await.is(202));
    let nobodys = format!("{sale}.019aa5f4-7b1a-7c3e-9f00-0123456789ab");
    let not_theirs = async || {
        let mallory = api.reservation("mallory", &id).await;
        mallory.refuses(404, "not-found");
        assert_eq!(mallory.body, api.reservation("mallory", &nobodys).await.body, "ids cannot be tried out");
        let mallory = api.cancel("mallory", &id).await;
        mallory.refuses(404, "not-found");
        assert_eq!(mallory.body, api.cancel("mallory", &nobodys).await.body);
    };
    not_theirs().await;
    assert_eq!(stack.wait_recorded("alice", &id).await["state"], "held");
    api.cancel("alice", &id).await.is(202);
    stack.wait_state("alice", &id, "cancelled").await;
    not_theirs().await;
}

#[tokio::test]
async fn a_cancel_gives_units_back_once_however_often_it_is_sent() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "cancel", &general(3, 3)).await;
    let id = id_of(&api.reserve("alice", &sale, "k", &json!({"quantity": 2})).await.is(202));
    for answer in join_all((0..10).map(|_| api.cancel("alice", &id))).await {
        answer.is(202);
    }
    let cancelled = stack.wait_state("alice", &id, "cancelled").await;
    stack.wait_clean(&sale).await;

    // Redis forgets it; whoever asks is told all the same.
    let uuid: uuid::Uuid = id.rsplit_once('.').unwrap().1.parse().unwrap();
    let mut redis = stack.redis();
    eventually("redis has forgotten the reservation", async || {
        let mut ask = redis::cmd("HEXISTS");
        let known: bool = ask.arg(format!("onsale:{{{sale}}}:holds")).arg(uuid.as_bytes()).query(&mut redis).unwrap();
        if known { Err("it is there") } else { Ok(()) }
    })
    .await;
    assert_eq!(api.reservation("alice", &id).await.is(200), cancelled);
    api.cancel("alice", &id).await.is(202);

    stack.wait_available(&sale, 3).await;
    let returns: i64 = sqlx::query_scalar("select count(*) from unit_return where sale_id = $1")
        .bind(&sale)
        .fetch_one(&stack.ledger())
        .await
        .unwrap();
    assert_eq!(returns, 1);
    // All three can be sold again, and no fourth.
    assert_eq!(accepted(&rush(&api, &sale, 0..6).await).len(), 3);
    stack.wait_clean(&sale).await;
}

#[tokio::test]
async fn six_hundred_buyers_for_three_hundred_units() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "rush", &general(300, 1)).await;
    let answers = rush(&api, &sale, 0..600).await;
    let accepted = accepted(&answers);
    assert_eq!((accepted.len(), answers.len()), (300, 600));
    assert_recorded(&stack, &sale, &accepted).await;
    let report = stack.audit(&sale).await;
    let of_sale = &report["sales"][0];
    assert_eq!((&of_sale["held"], &of_sale["free"], &of_sale["rejected"]), (&json!(300), &json!(0), &json!(0)));
    let (user, reservation) = accepted.first_key_value().unwrap();
    stack.wait_recorded(user, &id_of(reservation)).await;
}
