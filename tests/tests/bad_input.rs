//! Every refusal of the contract: the right status and type, the field at fault, nothing changed, and never a 5xx.

use crate::{general, id_of, on_sale, seated};
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use onsale_tests::{Answer, Api, Stack, send, settings, token};
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    time::{SystemTime, UNIX_EPOCH},
};

/// A reservation that nobody has, of a sale that nobody has.
const NOBODYS: &str = "no-such-sale.019aa5f4-7b1a-7c3e-9f00-0123456789ab";

/// Fails the test unless all of the sale's units are free, by Redis' own count.
async fn nothing_taken(stack: &Stack, sale: &str) {
    let report = stack.audit(sale).await;
    let of_sale = &report["sales"][0];
    assert_eq!(of_sale["free"], of_sale["capacity"], "{report}");
    assert_eq!((&of_sale["pendingCommands"], &report["clean"]), (&json!(0), &json!(true)), "{report}");
}

/// Fails the test, naming the request, unless it is refused as malformed with this field (none: not about a field).
fn malformed(what: &str, answer: &Answer, field: Option<&str>) {
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    let problem = answer.refuses(400, "malformed");
    assert_eq!(problem["field"].as_str(), field, "{what}: {problem}");
}

async fn raw(request: RequestBuilder, body: impl Into<reqwest::Body>) -> Answer {
    send(request.header("content-type", "application/json").body(body)).await
}

#[tokio::test]
async fn bodies_of_a_reserve() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let units = on_sale(&stack, &api, "bad-units", &general(10, 4)).await;
    let seats = on_sale(&stack, &api, "bad-seats", &seated(4)).await;

    let too_many = json!({"seats": (0..101).map(|n| format!("A-1-{n}")).collect::<Vec<_>>()}).to_string();
    let deep = format!("{{\"quantity\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    for (sale, body, field) in [
        (&units, r#"{}"#, Some("quantity")),
        (&units, r#"{"quantity":null}"#, Some("quantity")),
        (&units, r#"{"quantity":0}"#, Some("quantity")),
        (&units, r#"{"quantity":101}"#, Some("quantity")),
        (&units, r#"{"quantity":-1}"#, Some("quantity")),
        (&units, r#"{"quantity":4294967297}"#, Some("quantity")),
        (&units, r#"{"quantity":99999999999999999999999}"#, Some("quantity")),
        (&units, r#"{"quantity":1.5}"#, Some("quantity")),
        (&units, r#"{"quantity":1.0}"#, Some("quantity")),
        (&units, r#"{"quantity":1e2}"#, Some("quantity")),
        (&units, r#"{"quantity":"1"}"#, Some("quantity")),
        (&units, r#"{"quantity":true}"#, Some("quantity")),
        (&units, r#"{"quantity":[1]}"#, Some("quantity")),
        (&units, r#"{"quantity":{"n":1}}"#, Some("quantity")),
        (&units, r#"{"quantity":1,"quantity":1}"#, Some("quantity")),
        (&units, r#"{"quantity":1,"colour":"red"}"#, Some("colour")),
        (&units, r#"{"Quantity":1}"#, Some("Quantity")),
        (&units, r#"{"quantity":1,"seats":["A-1-1"]}"#, Some("seats")),
        (&units, r#"{"quantity":1,"seats":[]}"#, Some("seats")),
        (&units, r#"{"seats":["A-1-1"]}"#, Some("seats")),
        (&units, deep.as_str(), Some("quantity")),
        (&seats, r#"{"quantity":1}"#, Some("quantity")),
        (&seats, r#"{"seats":[]}"#, Some("seats")),
        (&seats, r#"{"seats":"A-1-1"}"#, Some("seats")),
        (&seats, r#"{"seats":{"0":"A-1-1"}}"#, Some("seats")),
        (&seats, r#"{"seats":[1]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-1-1",null]}"#, Some("seats[1]")),
        (&seats, r#"{"seats":["A-1-1","A-1-1"]}"#, Some("seats")),
        (&seats, r#"{"seats":["A-1-1","A-1-2","A-1-1"]}"#, Some("seats")),
        (&seats, r#"{"seats":["C-1-1"]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-1-1","A-1-3"]}"#, Some("seats[1]")),
        (&seats, r#"{"seats":["a-1-1"]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-01-1"]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-0-1"]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-1-99999999999"]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-1"]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":[""]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["A-1-1 "]}"#, Some("seats[0]")),
        (&seats, r#"{"seats":["🪑"]}"#, Some("seats[0]")),
        (&seats, too_many.as_str(), Some("seats")),
        (&units, "", None),
        (&units, " \n ", None),
        (&units, "null", None),
        (&units, "7", None),
        (&units, "\"quantity\"", None),
        (&units, "[1]", None),
        (&units, r#"[{"quantity":1}]"#, None),
        (&units, "{", None),
        (&units, r#"{"quantity":1"#, None),
        (&units, r#"{"quantity":1}x"#, None),
        (&units, r#"{"quantity":1}{"quantity":1}"#, None),
        (&units, r#"{"quantity":NaN}"#, None),
        (&units, r#"{"quantity":01}"#, None),
        (&units, r#"{quantity:1}"#, None),
        (&units, "\u{feff}{\"quantity\":1}", None),
        (&units, "quantity=1", None),
    ] {
        let answer = raw(api.reserve_request("alice", sale, "k"), body.to_owned()).await;
        let shown = &body[..body.len().min(80)];
        if field == Some("quantity") && shown.starts_with("{\"quantity\":[[") {
            answer.refuses(400, "malformed"); // where the nesting gets too deep is nobody's field
        } else {
            malformed(shown, &answer, field);
        }
        assert!(answer.body.len() < 4096, "{shown}: what was sent is not sent back in full");
    }
    let binary: [&[u8]; 3] = [b"\xff\xfe", b"{\"quantity\":1,\"\xff\":1}", b"\0"];
    for body in binary {
        raw(api.reserve_request("alice", &units, "k"), body).await.refuses(400, "malformed");
    }
    nothing_taken(&stack, &units).await;
    nothing_taken(&stack, &seats).await;
}

#[tokio::test]
async fn bodies_of_a_sale() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "bad-sale", &general(10, 4)).await;
    let before = api.sale(&sale).await.is(200);

    type Change = fn(&mut Value);
    let cases: &[(&str, Change)] = &[
        ("title", |b| b["title"] = json!("")),
        ("title", |b| b["title"] = json!("   ")),
        ("title", |b| b["title"] = json!("a\u{7}")),
        ("title", |b| b["title"] = json!("x".repeat(201))),
        ("title", |b| b["title"] = json!(7)),
        ("title", |b| drop(b.as_object_mut().unwrap().remove("title"))),
        ("artist", |b| b["artist"] = json!(null)),
        ("artist", |b| drop(b.as_object_mut().unwrap().remove("artist"))),
        ("concertId", |b| b["concertId"] = json!("A B")),
        ("concertId", |b| b["concertId"] = json!(["a"])),
        ("opensAt", |b| b["opensAt"] = json!("tomorrow")),
        ("opensAt", |b| b["opensAt"] = json!("2026-12-01")),
        ("opensAt", |b| b["opensAt"] = json!("2026-02-30T00:00:00Z")),
        ("opensAt", |b| b["opensAt"] = json!(1_790_000_000)),
        ("opensAt", |b| drop(b.as_object_mut().unwrap().remove("opensAt"))),
        ("closesAt", |b| b["closesAt"] = json!("2019-01-01T00:00:00Z")),
        ("closesAt", |b| b["closesAt"] = b["opensAt"].clone()),
        ("unitPrice", |b| b["unitPrice"] = json!(5000)),
        ("unitPrice", |b| drop(b.as_object_mut().unwrap().remove("unitPrice"))),
        ("unitPrice.amount", |b| b["unitPrice"]["amount"] = json!(-1)),
        ("unitPrice.amount", |b| b["unitPrice"]["amount"] = json!(1.5)),
        ("unitPrice.amount", |b| b["unitPrice"]["amount"] = json!("5000")),
        ("unitPrice.amount", |b| b["unitPrice"]["amount"] = json!(9_007_199_254_740_992_i64)),
        ("unitPrice.amount", |b| b["unitPrice"]["amount"] = json!(u64::MAX)),
        ("unitPrice.amount", |b| b["unitPrice"]["amount"] = json!(9_007_199_254_740_991_i64)), // times 10 units
        ("unitPrice.currency", |b| b["unitPrice"]["currency"] = json!("eur")),
        ("unitPrice.currency", |b| b["unitPrice"]["currency"] = json!("EURO")),
        ("unitPrice.currency", |b| drop(b["unitPrice"].as_object_mut().unwrap().remove("currency"))),
        ("unitPrice.cents", |b| b["unitPrice"]["cents"] = json!(1)),
        ("capacity", |b| b["capacity"] = json!(0)),
        ("capacity", |b| b["capacity"] = json!(-10)),
        ("capacity", |b| b["capacity"] = json!(10_000_001)),
        ("capacity", |b| b["capacity"] = json!(4_294_967_306_u64)), // 10 in 32 bits
        ("capacity", |b| b["capacity"] = json!(10.0)),
        ("capacity", |b| b["capacity"] = json!(null)),
        ("capacity", |b| b["seats"] = json!([{"section": "A", "rows": 1, "seatsPerRow": 10}])),
        ("perUserLimit", |b| b["perUserLimit"] = json!(0)),
        ("perUserLimit", |b| b["perUserLimit"] = json!(101)),
        ("perUserLimit", |b| drop(b.as_object_mut().unwrap().remove("perUserLimit"))),
        ("holdSeconds", |b| b["holdSeconds"] = json!(0)),
        ("holdSeconds", |b| b["holdSeconds"] = json!(86_401)),
        ("holdSeconds", |b| b["holdSeconds"] = json!("600")),
        ("discount", |b| b["discount"] = json!(1)),
        ("seats", |b| seats(b, json!([]))),
        ("seats", |b| seats(b, json!("A"))),
        ("seats", |b| seats(b, json!([{"section": "A", "rows": 1_000_000, "seatsPerRow": 1_000_000}]))),
        ("seats[0]", |b| seats(b, json!([7]))),
        ("seats[0].section", |b| seats(b, json!([{"section": "A-1", "rows": 1, "seatsPerRow": 1}]))),
        ("seats[0].section", |b| seats(b, json!([{"rows": 1, "seatsPerRow": 1}]))),
        ("seats[1].section", |b| {
            seats(
                b,
                json!([{"section": "A", "rows": 1, "seatsPerRow": 1}, {"section": "A", "rows": 1, "seatsPerRow": 1}]),
            );
        }),
        ("seats[0].rows", |b| seats(b, json!([{"section": "A", "rows": 0, "seatsPerRow": 1}]))),
        ("seats[0].rows", |b| seats(b, json!([{"section": "A", "rows": -1, "seatsPerRow": 1}]))),
        ("seats[0].seatsPerRow", |b| seats(b, json!([{"section": "A", "rows": 1, "seatsPerRow": 1_000_001}]))),
        ("seats[0].view", |b| seats(b, json!([{"section": "A", "rows": 1, "seatsPerRow": 1, "view": "good"}]))),
        ("seats[0].unitPrice.currency", |b| {
            let dollars = json!({"amount": 1, "currency": "USD"});
            seats(b, json!([{"section": "A", "rows": 1, "seatsPerRow": 1, "unitPrice": dollars}]));
        }),
    ];
    for (field, change) in cases {
        let mut body = general(10, 4);
        body["title"] = json!("must not come in force");
        change(&mut body);
        malformed(&body.to_string(), &api.put_sale(&sale, &body).await, Some(field));
        // The same of a sale that is not there: it does not come to be.
        malformed(&body.to_string(), &api.put_sale(&stack.sale("bad-new"), &body).await, Some(field));
    }
    api.sale(&stack.sale("bad-new")).await.refuses(404, "not-found");
    assert_eq!(api.sale(&sale).await.is(200), before);
    nothing_taken(&stack, &sale).await;
}

fn seats(body: &mut Value, seats: Value) {
    body.as_object_mut().unwrap().remove("capacity");
    body["seats"] = seats;
}

#[tokio::test]
async fn sizes_and_types_of_bodies() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "bad-type", &general(10, 4)).await;
    let wish = r#"{"quantity":1}"#;
    let padded = move |n: usize| format!("{wish}{}", " ".repeat(n - wish.len()));
    const MOST: usize = 64 * 1024;

    for length in [MOST + 1, 4 * MOST, 15 * MOST] {
        raw(api.reserve_request("alice", &sale, "k"), padded(length)).await.refuses(413, "too-large");
    }
    // Without a length, so that it is counted as it comes.
    let pieces = stream::iter([MOST / 2; 3]).map(move |n| Ok::<_, Infallible>(Frame::data(Bytes::from(padded(n)))));
    let endless = reqwest::Body::wrap(StreamBody::new(pieces));
    raw(api.reserve_request("alice", &sale, "k"), endless).await.refuses(413, "too-large");

    for wrong in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json; charset=latin1",
        "json",
        "",
    ] {
        let request = api.reserve_request("alice", &sale, "k").header("content-type", wrong).body(wish);
        send(request).await.refuses(415, "unsupported-media-type");
    }
    let untyped = api.reserve_request("alice", &sale, "k").body(wish);
    send(untyped).await.refuses(415, "unsupported-media-type");
    let twice = api.reserve_request("alice", &sale, "k").header("content-type", "application/json");
    raw(twice, wish).await.refuses(415, "unsupported-media-type");
    let coded = api.reserve_request("alice", &sale, "k").header("content-encoding", "gzip");
    raw(coded, wish).await.refuses(415, "unsupported-media-type");
    let path = format!("/v1/sales/{sale}");
    let text = api.request_as_admin(Method::PUT, &path).header("content-type", "text/plain").body("{}");
    send(text).await.refuses(415, "unsupported-media-type");
    nothing_taken(&stack, &sale).await;

    // The largest body there may be.
    raw(api.reserve_request("alice", &sale, "k"), padded(MOST)).await.is(202);
}

#[tokio::test]
async fn idempotency_keys() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "bad-key", &general(10, 4)).await;
    let wish = json!({"quantity": 1});
    let path = format!("/v1/sales/{sale}/reservations");
    let bare = || api.request_as("alice", Method::POST, &path).json(&wish);

    send(bare()).await.names("Idempotency-Key");
    let long = "k".repeat(256);
    let keys: [&[u8]; 11] = [
        b"",
        b"\"\"",
        b"a b",
        b"\"a",
        b"a\"",
        b"a\"b",
        b"\"a\"b\"",
        "schlüssel".as_bytes(),
        b"\xff",
        b"a\tb",
        long.as_bytes(),
    ];
    for key in keys {
        send(bare().header("idempotency-key", key)).await.names("Idempotency-Key");
    }
    send(bare().header("idempotency-key", "a").header("idempotency-key", "a")).await.names("Idempotency-Key");
    nothing_taken(&stack, &sale).await;

    // The longest one there may be.
    send(bare().header("idempotency-key", "k".repeat(255))).await.is(202);
}

/// Every operation that needs a token, with what else it needs.
fn guarded(api: &Api, sale: &str) -> Vec<(&'static str, RequestBuilder)> {
    let reservation = format!("/v1/reservations/{NOBODYS}");
    vec![
        ("put", api.request(Method::PUT, &format!("/v1/sales/{sale}")).json(&general(10, 4))),
        (
            "reserve",
            api.request(Method::POST, &format!("/v1/sales/{sale}/reservations"))
                .header("idempotency-key", "k")
                .json(&json!({"quantity": 1})),
        ),
        ("get", api.request(Method::GET, &reservation)),
        ("cancel", api.request(Method::DELETE, &reservation)),
    ]
}

#[tokio::test]
async fn tokens() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "bad-token", &general(10, 4)).await;
    let secret = settings()["ONSALE_JWT_SECRET"].clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "alice", "exp": now + 3600, "scope": "admin"});
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let signed = |claims: &Value, algorithm: Algorithm, secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    };
    let ours = |claims: &Value| signed(claims, Algorithm::HS256, &secret);
    let good = ours(&claims);
    let parts: Vec<_> = good.split('.').collect();
    let base64 = |json: &Value| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.encode(json.to_string())
    };
    let none = base64(&json!({"alg": "none", "typ": "JWT"}));

    let forged = [
        ("another secret", signed(&claims, Algorithm::HS256, "another secret that is long enough")),
        ("another algorithm", signed(&claims, Algorithm::HS512, &secret)),
        ("alg none", format!("{none}.{}.", parts[1])),
        ("alg none with a signature", format!("{none}.{}.{}", parts[1], parts[2])),
        ("alg nOnE", format!("{}.{}.", base64(&json!({"alg": "nOnE"})), parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("other claims", format!("{}.{}.{}", parts[0], base64(&with("sub", json!("bob"))), parts[2])),
        (
            "critical extension",
            format!("{}.{}.{}", base64(&json!({"alg": "HS256", "crit": ["x"]})), parts[1], parts[2]),
        ),
        ("expired", ours(&with("exp", json!(now - 60)))),
        ("not yet", ours(&with("nbf", json!(now + 600)))),
        ("no expiry", ours(&without("exp"))),
        ("expiry as text", ours(&with("exp", json!("never")))),
        ("no subject", ours(&without("sub"))),
        ("empty subject", ours(&with("sub", json!("")))),
        ("subject with a space", ours(&with("sub", json!("al ice")))),
        ("long subject", ours(&with("sub", json!("a".repeat(129))))),
        ("subject as number", ours(&with("sub", json!(7)))),
        ("for somebody else", ours(&with("aud", json!("another service")))),
        ("too long", ours(&with("padding", json!("x".repeat(9000))))),
        ("no token", "abc".to_owned()),
        ("dots", "..".to_owned()),
    ];
    for (what, forged) in &forged {
        for (operation, request) in guarded(&api, &sale) {
            let answer = send(request.bearer_auth(forged)).await;
            assert_eq!(answer.status, 401, "{what}, {operation}: {answer:?}");
            answer.refuses(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{what}");
        }
    }
    for missing in [None, Some(""), Some("Bearer"), Some("Basic YWxpY2U6eA=="), Some(good.as_str())] {
        for (operation, request) in guarded(&api, &sale) {
            let request = match missing {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let answer = send(request).await;
            assert_eq!(answer.status, 401, "{missing:?}, {operation}: {answer:?}");
            answer.refuses(401, "unauthorized");
            assert!(answer.header("www-authenticate").is_some_and(|c| c.starts_with("Bearer")), "{answer:?}");
        }
    }
    for (_, request) in guarded(&api, &sale) {
        send(request.bearer_auth(&good).bearer_auth(&good)).await.refuses(401, "unauthorized");
    }
    nothing_taken(&stack, &sale).await;
}

#[tokio::test]
async fn only_an_administrator_puts_a_sale_on() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = stack.sale("not-admin");
    let path = format!("/v1/sales/{sale}");
    let put = api.request(Method::PUT, &path).json(&general(10, 4));
    send(put.bearer_auth(token("alice", false))).await.refuses(403, "forbidden");
    // Who may not, is told so before anything else.
    let put = api.request(Method::PUT, "/v1/sales/NOT-AN-ID").json(&json!({}));
    send(put.bearer_auth(token("alice", false))).await.refuses(403, "forbidden");
    api.sale(&sale).await.refuses(404, "not-found");
}

#[tokio::test]
async fn ids_that_cannot_be() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "ids", &general(10, 4)).await;
    let id = id_of(&api.reserve("alice", &sale, "k", &json!({"quantity": 1})).await.is(202));
    let uuid = id.rsplit_once('.').unwrap().1;

    let long = "x".repeat(65);
    for bad in ["UPPER", "a_b", "a.b", "a%20b", "%7Bdemo%7D", "%C3%A4", "%ff", "a%2Fb", "a%00b", &long] {
        api.sale(bad).await.names("saleId");
        api.seats(bad).await.names("saleId");
        api.put_sale(bad, &general(10, 4)).await.names("saleId");
        api.reserve("alice", bad, "k", &json!({"quantity": 1})).await.names("saleId");
    }
    for bad in [
        "abc".to_owned(),
        sale.clone(),
        uuid.to_owned(),
        format!("{sale}."),
        format!(".{uuid}"),
        format!("{sale}.{}", &uuid[1..]),
        format!("{sale}.{uuid}0"),
        format!("{sale}.{}", uuid.to_uppercase()),
        format!("{sale}.{}", uuid.replace('-', "")),
        format!("{sale}.%7B{uuid}%7D"),
        format!("UPPER.{uuid}"),
        format!("{sale}.{uuid}.{uuid}"),
        format!("{sale}.{uuid}%20"),
        "%ff".to_owned(),
        "x".repeat(4000),
    ] {
        api.reservation("alice", &bad).await.names("id");
        api.cancel("alice", &bad).await.names("id");
    }
    assert_eq!(stack.wait_recorded("alice", &id).await["state"], "held");
}

#[tokio::test]
async fn ids_that_could_be_but_are_not() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "unknown", &general(10, 4)).await;
    let unknown = stack.sale("not-there");
    api.sale(&unknown).await.refuses(404, "not-found");
    api.seats(&unknown).await.refuses(404, "not-found");
    api.seats(&sale).await.refuses(404, "not-found");
    for wish in [json!({"quantity": 1}), json!({"seats": ["A-1-1"]})] {
        api.reserve("alice", &unknown, "k", &wish).await.refuses(404, "not-found");
    }
    for id in
        [NOBODYS, &format!("{sale}.019aa5f4-7b1a-7c3e-9f00-0123456789ab"), &format!("{sale}.{}", uuid::Uuid::nil())]
    {
        api.reservation("alice", id).await.refuses(404, "not-found");
        api.cancel("alice", id).await.refuses(404, "not-found");
    }
    nothing_taken(&stack, &sale).await;
}

#[tokio::test]
async fn methods_and_paths() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let sale = on_sale(&stack, &api, "methods", &general(10, 4)).await;
    let (of_sale, reservation) = (format!("/v1/sales/{sale}"), format!("/v1/reservations/{NOBODYS}"));
    for (method, path, allowed) in [
        (Method::POST, of_sale.clone(), "PUT"),
        (Method::DELETE, of_sale.clone(), "PUT"),
        (Method::PATCH, of_sale.clone(), "PUT"),
        (Method::OPTIONS, of_sale.clone(), "PUT"),
        (Method::from_bytes(b"BREW").unwrap(), of_sale.clone(), "PUT"),
        (Method::POST, format!("{of_sale}/seats"), "GET"),
        (Method::GET, format!("{of_sale}/reservations"), "POST"),
        (Method::PUT, format!("{of_sale}/reservations"), "POST"),
        (Method::POST, reservation.clone(), "DELETE"),
        (Method::PUT, reservation.clone(), "DELETE"),
    ] {
        let answer = send(api.request_as_admin(method.clone(), &path)).await;
        assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        answer.refuses(405, "method-not-allowed");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains(allowed)), "{method} {path}: {answer:?}");
    }
    for path in [
        "/",
        "/v1",
        "/v1/sales",
        "/v1/sales/",
        "/v1/reservations",
        "/v2/sales/demo",
        "/v1/sales/demo/",
        "/v1/sales/demo/stock",
        "/v1//sales/demo",
        "/V1/sales/demo",
        "/etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let answer = send(api.request_as_admin(method.clone(), path)).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            answer.refuses(404, "not-found");
        }
    }
    // A query is nobody's business here.
    api.get(&format!("{of_sale}?quantity=1&%ff=%ff&x[]=1")).await.is(200);
    nothing_taken(&stack, &sale).await;
}

/// Any JSON at all, of members that mean something here and others.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..200).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[A-C]-[0-9]{1,2}-[0-9]{1,2}".prop_map(Value::from),
        Just(json!("2020-01-01T00:00:00Z")),
        Just(json!({"amount": 1, "currency": "EUR"})),
    ];
    let names = "quantity|seats|title|artist|opensAt|closesAt|unitPrice|amount|currency|capacity|rows|section|\
                 seatsPerRow|perUserLimit|holdSeconds|concertId|.{0,5}";
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(names, inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A body that is right but for one member, one byte, or its end; or that is anything.
fn any_body(right: Value) -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<_> = right.as_object().unwrap().keys().cloned().collect();
    let text = right.to_string().into_bytes();
    let (length, cut) = (text.len(), text.clone());
    prop_oneof![
        2 => any_json().prop_map(|json| json.to_string().into_bytes()),
        4 => (proptest::sample::select(names), any_json()).prop_map(move |(name, value)| {
            let mut body = right.clone();
            body[name] = value;
            body.to_string().into_bytes()
        }),
        2 => (0..length, any::<u8>()).prop_map(move |(at, byte)| {
            let mut text = text.clone();
            text[at] = byte;
            text
        }),
        1 => (0..length).prop_map(move |end| cut[..end].to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

#[tokio::test]
async fn no_body_whatsoever_makes_a_fault_of_ours() {
    let stack = Stack::shared().await;
    let api = stack.api();
    let units = on_sale(&stack, &api, "fuzz-units", &general(100, 100)).await;
    let seats = on_sale(&stack, &api, "fuzz-seats", &seated(100)).await;
    let (one, two) = (json!({"quantity": 1}), json!({"seats": ["A-1-1", "B-2-3"]}));
    let mut config = general(100, 100);
    config["closesAt"] = json!("2999-01-01T00:00:00Z");
    config["concertId"] = json!("tour");

    let mut runner = TestRunner::default();
    let mut requests = Vec::new();
    for n in 0..250 {
        let mut draw = |right: &Value| any_body(right.clone()).new_tree(&mut runner).unwrap().current();
        let (path, user) = (format!("/v1/sales/{units}"), format!("user-{n}"));
        let bodies = [draw(&one), draw(&two), draw(&config)];
        let [one, two, config] = bodies;
        requests.push((api.reserve_request(&user, &units, "k"), one));
        requests.push((api.reserve_request(&user, &seats, "k"), two));
        requests.push((api.request_as_admin(Method::PUT, &path), config));
    }
    let answers = stream::iter(requests).map(|(request, body)| async move { (raw(request, body.clone()).await, body) });
    let answers: Vec<_> = answers.buffer_unordered(16).collect().await;
    for (answer, body) in answers {
        let body = String::from_utf8_lossy(&body);
        assert!(answer.status < 500, "{body}: {answer:?}");
        if answer.status >= 400 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body}: {answer:?}");
            assert!(answer.json()["type"].as_str().unwrap().starts_with("urn:onsale:problem:"), "{body}: {answer:?}");
        }
    }
    stack.wait_clean(&units).await;
    stack.wait_clean(&seats).await;
}
