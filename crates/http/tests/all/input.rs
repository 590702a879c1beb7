//! Bodies, headers and paths as a careless or hostile caller sends them.

use crate::*;
use axum::body::Bytes;
use http::HeaderValue;
use proptest::prelude::*;

fn request() -> http::request::Builder {
    Request::post("/sales/demo/orders")
        .header("authorization", format!("Bearer {}", token("alice", false)))
        .header("content-type", "application/json")
}

fn keyed() -> http::request::Builder {
    request().header("idempotency-key", "k-1")
}

async fn body(body: impl Into<Body>) -> Answer {
    send(&app(), keyed().body(body.into()).unwrap()).await
}

/// A body without a length, in pieces.
fn chunked(pieces: usize, piece: &'static [u8]) -> Body {
    let pieces = (0..pieces).map(move |_| Ok::<_, std::io::Error>(Bytes::from_static(piece)));
    Body::from_stream(futures::stream::iter(pieces))
}

#[tokio::test]
async fn a_good_order_is_taken() {
    let answer = body(r#"{"quantity":2}"#).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json(), json!({"user": "alice", "sale": "demo", "key": "k-1", "quantity": 2}));
    assert_eq!(body(chunked(1, br#"{"quantity":2}"#)).await.status, 202);
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    for (text, field) in [
        (r#"{"quantity":"2"}"#, json!("quantity")),
        (r#"{}"#, json!("quantity")),
        (r#"{"quantity":1,"quantity":1}"#, json!("quantity")),
        (r#"{"quantity":1,"extra":1}"#, json!("extra")),
        (r#"{"quantity":1"#, Value::Null),
        (r#"{"quantity":1} x"#, Value::Null),
        ("", Value::Null),
        ("[]", Value::Null),
    ] {
        assert_eq!(body(text).await.problem(400, "malformed")["field"], field, "{text}");
    }
    body(&b"{\"quantity\":\xff}"[..]).await.problem(400, "malformed");
    body("[".repeat(60_000)).await.problem(400, "malformed");
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let request = Request::post("/body").header("content-type", "application/json").body(Body::from(deep));
    send(&app(), request.unwrap()).await.problem(400, "malformed");
}

#[tokio::test]
async fn bodies_over_64_kib_are_refused_however_they_are_sent() {
    let space = |n: usize| format!("{{\"quantity\":1}}{}", " ".repeat(n - 14));
    assert_eq!(body(space(64 * 1024)).await.status, 202);
    body(space(64 * 1024 + 1)).await.problem(413, "too-large");
    body(chunked(65, &[b' '; 1024])).await.problem(413, "too-large");
    // One that never ends is not read on.
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1024])));
    body(Body::from_stream(endless)).await.problem(413, "too-large");
    // What is declared is believed, on every route and before the token is looked at.
    let declared = Request::get("/me").header("content-length", "1000000").body(Body::empty()).unwrap();
    send(&app(), declared).await.problem(413, "too-large");
    // But neither is it waited for, nor read on and on.
    let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1024])));
    for unread in [Body::from_stream(never), Body::from_stream(endless)] {
        let declared = Request::get("/me").header("content-length", "1000000").body(unread).unwrap();
        send(&app(), declared).await.problem(413, "too-large");
    }
}

#[tokio::test]
async fn bodies_that_break_off_or_do_not_come() {
    let broken = futures::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
    body(Body::from_stream(broken)).await.problem(400, "malformed");
    let app = onsale_http::edge(routes(), &settings().deadline(Duration::from_millis(50)));
    let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let answer = send(&app, keyed().body(Body::from_stream(never)).unwrap()).await;
    answer.problem(400, "malformed");
}

#[tokio::test]
async fn only_json_is_read() {
    let typed = async |types: &[&str]| {
        let mut request = Request::post("/body");
        for value in types {
            request = request.header("content-type", *value);
        }
        send(&app(), request.body(Body::from("{}")).unwrap()).await
    };
    for good in ["application/json", "application/json; charset=utf-8", "application/merge-patch+json"] {
        assert_eq!(typed(&[good]).await.status, 200, "{good}");
    }
    for bad in [
        &[][..],
        &["text/plain"],
        &["application/json; charset=utf-16"],
        &["application/x-www-form-urlencoded"],
        &["application/json", "text/plain"],
    ] {
        typed(bad).await.problem(415, "unsupported-media-type");
    }
    let packed = Request::post("/body").header("content-type", "application/json").header("content-encoding", "gzip");
    send(&app(), packed.body(Body::from("{}")).unwrap()).await.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn idempotency_keys() {
    let keyed = async |keys: &[&[u8]]| {
        let mut request = request();
        for key in keys {
            request = request.header("Idempotency-Key", HeaderValue::from_bytes(key).unwrap());
        }
        send(&app(), request.body(Body::from(r#"{"quantity":1}"#)).unwrap()).await
    };
    assert_eq!(keyed(&[b"k"]).await.json()["key"], "k");
    assert_eq!(keyed(&[b"\"k\""]).await.json()["key"], "k");
    assert_eq!(keyed(&[&[b'x'; 255]]).await.status, 202);
    let bad: [&[&[u8]]; 10] = [
        &[],
        &[b""],
        &[b"\"\""],
        &[b"a b"],
        &[b"\"k"],
        &[b"\xc3\xa4"],
        &[b"\xff"],
        &[&[b'x'; 256]],
        &[b"k", b"k"],
        &[b"k", b"j"],
    ];
    for bad in bad {
        let problem = keyed(bad).await.problem(400, "malformed");
        assert_eq!(problem["field"], "Idempotency-Key", "{bad:?}");
    }
}

#[tokio::test]
async fn ids_in_paths() {
    let app = app();
    let good = "/reservations/demo.019a5c1e-7b1a-7c3e-9f00-0123456789ab";
    assert_eq!(fetch(&app, good).await.status, 200);
    for bad in [
        "/reservations/demo",
        "/reservations/demo.x",
        "/reservations/demo.019A5C1E-7B1A-7C3E-9F00-0123456789AB",
        "/reservations/%ff",
        "/reservations/%00",
        "/reservations/..%2f..%2fetc",
        "/reservations/%F0%9F%92%A9",
    ] {
        assert_eq!(fetch(&app, bad).await.problem(400, "malformed")["field"], "id", "{bad}");
    }
    for bad in ["A", "a%20b", "%ff", "a.b", "%7Ba%7D"] {
        let uri = format!("/sales/{bad}/orders");
        let request = keyed().uri(uri).body(Body::from(r#"{"quantity":1}"#)).unwrap();
        assert_eq!(send(&app, request).await.problem(400, "malformed")["field"], "saleId", "{bad}");
    }
}

/// Whatever comes, the answer is the caller's to correct.
fn answered(request: Request) -> Result<(), TestCaseError> {
    thread_local!(static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let answer = RUNTIME.with(|r| r.block_on(send(&app(), request)));
    prop_assert!(answer.status < 500, "{answer:?}");
    prop_assert!(answer.status < 300 || answer.header("content-type") == "application/problem+json");
    Ok(())
}

fn header_value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        "(Bearer|bearer|Basic)? ?[ -~]{0,100}".prop_map(String::into_bytes),
        r#"Bearer [A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}"#.prop_map(String::into_bytes),
    ];
    bytes.prop_filter_map("no header can have it", |b| HeaderValue::from_bytes(&b).ok())
}

fn json_like() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map("quantity|seats|.{0,8}", inner, 0..5)
                .prop_map(|m| m.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn any_header_gets_an_answer(authorization in header_value(), key in header_value(), id in header_value()) {
        let request = Request::post("/sales/demo/orders")
            .header("authorization", authorization)
            .header("x-request-id", id)
            .header("content-type", "application/json")
            .body(Body::from(r#"{"quantity":1}"#))
            .unwrap();
        answered(request)?;
        let keyed = request_with_key(key);
        answered(keyed)?;
    }

    #[test]
    fn any_body_gets_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), json in json_like()) {
        answered(keyed().body(Body::from(bytes)).unwrap())?;
        answered(keyed().body(Body::from(json.to_string())).unwrap())?;
    }

    #[test]
    fn any_path_gets_an_answer(path in "/[!-~]{0,60}") {
        if let Ok(uri) = path.parse::<http::Uri>() {
            answered(Request::get(uri).body(Body::empty()).unwrap())?;
        }
    }
}

fn request_with_key(key: HeaderValue) -> Request {
    request().header("idempotency-key", key).body(Body::from(r#"{"quantity":1}"#)).unwrap()
}
