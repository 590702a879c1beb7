//! The compiled functions, asked as API Gateway and AWS Lambda ask them.

use base64::{Engine, engine::general_purpose::STANDARD};
use onsale_tests::{Stack, eventually, runtime_api::Function, token, units_of};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// An event of `events/`, asked by `user` about `id` (a sale or a reservation).
fn event(name: &str, user: &str, id: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../events/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut event: Value = serde_json::from_str(&text).unwrap();
    let parameter = if event.pointer("/pathParameters/id").is_some() { "id" } else { "saleId" };
    let captured = event["pathParameters"][parameter].as_str().unwrap().to_owned();
    for pointer in ["/path", "/requestContext/path"] {
        let path = event.pointer(pointer).unwrap().as_str().unwrap().replace(&captured, id);
        set(&mut event, pointer, json!(path));
    }
    set(&mut event, &format!("/pathParameters/{parameter}"), json!(id));
    if event.pointer("/headers/Authorization").is_some() {
        header(&mut event, "Authorization", &format!("Bearer {}", token(user, user == "admin")));
    }
    event
}

/// Replaces what is there.
fn set(event: &mut Value, pointer: &str, value: Value) {
    *event.pointer_mut(pointer).unwrap_or_else(|| panic!("the event has no {pointer}")) = value;
}

fn header(event: &mut Value, name: &str, value: &str) {
    event["headers"][name] = json!(value);
    event["multiValueHeaders"][name] = json!([value]);
}

fn id_of(reservation: &Value) -> String {
    reservation["reservationId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_whole_life_of_a_reservation() {
    let stack = Stack::shared().await;
    let (configure, browse) = (Function::start(&stack, "configure").await, Function::start(&stack, "browse").await);
    let (reserve, status) = (Function::start(&stack, "reserve").await, Function::start(&stack, "status").await);
    let cancel = Function::start(&stack, "cancel").await;
    let sale = stack.sale("lambda");

    let put = configure.invoke(&event("configure-sale", "admin", &sale)).await;
    let created = put.is(201);
    assert_eq!((&created["saleId"], &created["available"]), (&json!(sale), &json!(3)));
    assert_eq!(configure.invoke(&event("configure-sale", "admin", &sale)).await.status(), 200);
    configure.invoke(&event("configure-sale", "alice", &sale)).await.refuses(403, "forbidden");

    let look = event("get-sale", "", &sale);
    let looked = browse.invoke(&look).await;
    assert_eq!(looked.is(200), created);
    assert_eq!(looked.header("cache-control"), Some("public, max-age=1"));

    let wish = event("reserve", "alice", &sale);
    let first = reserve.invoke(&wish).await;
    let held = first.is(202);
    let id = id_of(&held);
    assert_eq!((&held["state"], units_of(&held)), (&json!("held"), vec![1, 2]));
    assert_eq!(held["amount"], json!({"amount": 264_000, "currency": "KRW"}));
    assert_eq!(first.header("location"), Some(format!("/v1/reservations/{id}").as_str()));
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("idempotent-replayed"), None);

    let replay = reserve.invoke(&wish).await;
    assert_eq!((replay.status(), replay.text()), (202, first.text()), "byte for byte");
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));

    let refused = reserve.invoke(&event("reserve", "bob", &sale)).await.refuses(409, "sold-out");
    assert_eq!(refused["available"], 1);

    let ask = event("get-reservation", "alice", &id);
    let recorded = eventually("the status function says recorded", async || {
        let answer = status.invoke(&ask).await.is(200);
        if answer["recorded"] == true { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!((&recorded["state"], &recorded["units"]), (&json!("held"), &held["units"]));
    status.invoke(&event("get-reservation", "bob", &id)).await.refuses(404, "not-found");

    cancel.invoke(&event("cancel", "bob", &id)).await.refuses(404, "not-found");
    assert_eq!(cancel.invoke(&event("cancel", "alice", &id)).await.is(202), Value::Null);
    eventually("the status function says cancelled", async || {
        let answer = status.invoke(&ask).await.is(200);
        if answer["state"] == "cancelled" { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(cancel.invoke(&event("cancel", "alice", &id)).await.status(), 202);
    stack.wait_available(&sale, 3).await;
    eventually("the browse function says so too", async || {
        let answer = browse.invoke(&look).await.is(200);
        if answer["available"] == 3 { Ok(()) } else { Err(answer) }
    })
    .await;
    reserve.invoke(&event("reserve", "bob", &sale)).await.is(202);
    stack.wait_clean(&sale).await;
}

#[tokio::test]
async fn seats_and_their_map() {
    let stack = Stack::shared().await;
    let (configure, browse) = (Function::start(&stack, "configure").await, Function::start(&stack, "browse").await);
    let reserve = Function::start(&stack, "reserve").await;
    let sale = stack.sale("lambda-seats");
    configure.invoke(&event("configure-seats", "admin", &sale)).await.is(201);
    let held = reserve.invoke(&event("reserve-seats", "alice", &sale)).await.is(202);
    assert_eq!(held["units"], json!([{"number": 1, "seat": "A-1-1"}, {"number": 2, "seat": "A-1-2"}]));
    let refused = reserve.invoke(&event("reserve-seats", "bob", &sale)).await.refuses(409, "seat-taken");
    assert_eq!(refused["seats"], json!(["A-1-1", "A-1-2"]));

    let mut look = event("get-seats", "", &sale);
    let (map, tag) = eventually("the map shows the two", async || {
        let answer = browse.invoke(&look).await;
        let map = answer.is(200);
        let tag = answer.header("etag").unwrap().to_owned();
        if map["taken"] == STANDARD.encode([0b1100_0000, 0]) { Ok((map, tag)) } else { Err(map) }
    })
    .await;
    assert_eq!((&map["capacity"], &map["available"]), (&json!(10), &json!(8)));
    header(&mut look, "If-None-Match", &tag);
    let unchanged = browse.invoke(&look).await;
    assert_eq!((unchanged.status(), unchanged.text()), (304, ""));
    stack.wait_clean(&sale).await;
}

#[tokio::test]
async fn odd_events_are_answered() {
    let stack = Stack::shared().await;
    let (configure, reserve) = (Function::start(&stack, "configure").await, Function::start(&stack, "reserve").await);
    let sale = stack.sale("lambda-odd");
    let mut put = event("configure-sale", "admin", &sale);
    // API Gateway encodes bodies of types it is told are binary.
    let body = put["body"].as_str().unwrap().replace("\"capacity\":3", "\"capacity\":100");
    set(&mut put, "/body", json!(STANDARD.encode(body)));
    set(&mut put, "/isBase64Encoded", json!(true));
    configure.invoke(&put).await.is(201);

    let wish = event("reserve", "alice", &sale);
    let mut encoded = wish.clone();
    set(&mut encoded, "/body", json!(STANDARD.encode(r#"{"quantity":2}"#)));
    set(&mut encoded, "/isBase64Encoded", json!(true));
    let held = reserve.invoke(&encoded).await.is(202);
    let plain = reserve.invoke(&wish).await;
    assert_eq!(
        (plain.is(202), plain.header("idempotent-replayed")),
        (held, Some("true")),
        "encoded or not is one wish"
    );

    // All values of a header count, not only the last one.
    let mut twice = event("reserve", "bob", &sale);
    twice["multiValueHeaders"]["Idempotency-Key"] = json!(["a", "b"]);
    assert_eq!(reserve.invoke(&twice).await.refuses(400, "malformed")["field"], "Idempotency-Key");
    // Headers may come in one of the two members alone, in any case.
    let mut only_multi = event("reserve", "bob", &sale);
    set(&mut only_multi, "/headers", json!(null));
    reserve.invoke(&only_multi).await.is(202);
    let mut only_single = event("reserve", "carol", &sale);
    set(&mut only_single, "/multiValueHeaders", json!(null));
    let headers = only_single["headers"].as_object().unwrap();
    let lower = headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
    only_single["headers"] = Value::Object(lower.collect());
    reserve.invoke(&only_single).await.is(202);

    // No stage, another stage, a custom domain with a base path: the route is the same.
    for (user, stage, path) in
        [("dave", json!(null), ""), ("erin", json!("v1"), "/v1"), ("fred", json!("prod"), "/shop")]
    {
        let mut staged = event("reserve", user, &sale);
        set(&mut staged, "/requestContext/stage", stage);
        let full = format!("{path}{}", staged["path"].as_str().unwrap());
        set(&mut staged, "/requestContext/path", json!(full));
        set(&mut staged, "/headers/Host", json!("tickets.example.com"));
        reserve.invoke(&staged).await.is(202);
    }

    for (what, change) in
        [("no body", json!(null)), ("empty body", json!("")), ("no JSON", json!("{")), ("no base64", json!("!!!"))]
    {
        let mut odd = event("reserve", "gina", &sale);
        set(&mut odd, "/body", change);
        let problem = reserve.invoke(&odd).await;
        assert_eq!(problem.status(), 400, "{what}: {problem:?}");
        problem.refuses(400, "malformed");
    }
    for (method, path, status, kind) in [
        ("DELETE", format!("/v1/sales/{sale}/reservations"), 405, "method-not-allowed"),
        ("POST", "/v1/nothing".to_owned(), 404, "not-found"),
        ("POST", "/v1/sales/NOT AN ID/reservations".to_owned(), 400, "malformed"),
    ] {
        let mut odd = event("reserve", "gina", &sale);
        set(&mut odd, "/httpMethod", json!(method));
        set(&mut odd, "/requestContext/httpMethod", json!(method));
        set(&mut odd, "/path", json!(path));
        reserve.invoke(&odd).await.refuses(status, kind);
    }
    for no_request in [json!({}), json!({"Records": []}), json!([]), json!("warm"), json!(null)] {
        reserve.invoke(&no_request).await.refuses(400, "malformed");
    }
    // Nothing of that hurt the process.
    reserve.invoke(&event("reserve", "gina", &sale)).await.is(202);
    stack.wait_clean(&sale).await;
    let users: Vec<_> = stack.reservations(&sale).await.into_iter().map(|row| row.user).collect();
    assert_eq!(users, ["alice", "bob", "carol", "dave", "erin", "fred", "gina"]);
}

#[tokio::test]
async fn a_function_out_of_time_promises_nothing() {
    let stack = Stack::shared().await;
    let (configure, reserve) = (Function::start(&stack, "configure").await, Function::start(&stack, "reserve").await);
    let sale = stack.sale("lambda-time");
    configure.invoke(&event("configure-sale", "admin", &sale)).await.is(201);
    let wish = event("reserve", "alice", &sale);
    let late = reserve.invoke_within(&wish, Duration::ZERO).await;
    late.refuses(503, "try-again");
    assert_eq!(late.header("retry-after"), Some("1"));
    // The same key finds what was taken then; nothing is taken a second time.
    let held = reserve.invoke(&wish).await.is(202);
    assert_eq!(units_of(&held), [1, 2]);
    stack.wait_clean(&sale).await;
    let rows = stack.reservations(&sale).await;
    assert_eq!((rows.len(), rows[0].id.clone()), (1, id_of(&held)));
}
