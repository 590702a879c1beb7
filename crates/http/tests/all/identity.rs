//! Tokens: what holds, and what is refused without a hint.

use crate::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};

pub fn now() -> u64 {
    get_current_timestamp()
}

fn signed(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({"sub": "alice", "exp": now() + 60});
    change(&mut claims);
    claims
}

/// A signer of the key sets in the fixtures.
pub fn by_key(kid: &str, claims: &Value) -> String {
    let (algorithm, key) = match kid {
        "rsa-1" => (Algorithm::RS256, EncodingKey::from_rsa_pem(&fixture("test-rsa-1.pem"))),
        "rsa-2" => (Algorithm::RS256, EncodingKey::from_rsa_pem(&fixture("test-rsa-2.pem"))),
        _ => (Algorithm::ES256, EncodingKey::from_ec_pem(&fixture("test-ec-1.pem"))),
    };
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    encode(&header, claims, &key.unwrap()).unwrap()
}

fn unsigned(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}.{}", part(header.to_string().as_bytes()), part(claims.to_string().as_bytes()), part(signature))
}

#[tokio::test]
async fn a_good_token_speaks_for_its_user() {
    let app = app();
    let alice = me(&app, &token("alice", false)).await;
    assert_eq!((alice.status, alice.json()), (200, json!({"user": "alice", "admin": false})));
    let bearer = format!("bEARER  {} ", token("bob", true));
    let bob = send(&app, Request::get("/admin").header("authorization", bearer).body(Body::empty()).unwrap()).await;
    assert_eq!((bob.status, bob.json()), (200, json!({"user": "bob"})));
}

#[tokio::test]
async fn without_a_token_the_challenge_is_bare() {
    let app = app();
    for value in [None, Some("Basic YTpi"), Some("Bearer"), Some(""), Some("Token abc")] {
        let request = Request::get("/me");
        let request = match value {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        let answer = send(&app, request.body(Body::empty()).unwrap()).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{value:?}");
    }
    let twice = Request::get("/me")
        .header("authorization", format!("Bearer {}", token("alice", false)))
        .header("authorization", format!("Bearer {}", token("bob", false)));
    send(&app, twice.body(Body::empty()).unwrap()).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn forged_and_broken_tokens_are_refused_alike() {
    let app = app();
    let good = claims(|_| ());
    let other = EncodingKey::from_secret(b"another secret, of 32 bytes or more too");
    let real = signed(&good);
    let (head, signature) = real.rsplit_once('.').unwrap();
    let header = head.split('.').next().unwrap();
    let changed = URL_SAFE_NO_PAD.encode(claims(|c| c["sub"] = json!("root")).to_string());
    let critical = unsigned(&json!({"alg": "HS256", "crit": ["x"], "x": 1}), &good, b"x");
    let long = "x".repeat(200);
    let tokens = [
        ("wrong secret", encode(&Header::new(Algorithm::HS256), &good, &other).unwrap()),
        ("HS512", encode(&Header::new(Algorithm::HS512), &good, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()),
        ("alg none", unsigned(&json!({"alg": "none", "typ": "JWT"}), &good, b"")),
        ("alg None", unsigned(&json!({"alg": "None"}), &good, b"")),
        ("no alg", unsigned(&json!({}), &good, b"x")),
        ("alg a number", unsigned(&json!({"alg": 1}), &good, b"x")),
        ("RS256 against a secret", by_key("rsa-1", &good)),
        ("changed claims", format!("{header}.{changed}.{signature}")),
        ("no signature", format!("{head}.")),
        ("cut off", head.to_owned()),
        ("four parts", format!("{real}.x")),
        ("critical extension", critical),
        ("not base64", "a!.b!.c!".to_owned()),
        ("empty parts", "..".to_owned()),
        ("empty", "\"\"".to_owned()),
        ("far too long", "x".repeat(9000)),
        ("no exp", signed(&claims(|c| drop(c.as_object_mut().unwrap().remove("exp"))))),
        ("exp null", signed(&claims(|c| c["exp"] = Value::Null))),
        ("exp text", signed(&claims(|c| c["exp"] = json!("tomorrow")))),
        ("exp negative", signed(&claims(|c| c["exp"] = json!(-1)))),
        ("nbf text", signed(&claims(|c| c["nbf"] = json!("now")))),
        ("no sub", signed(&claims(|c| drop(c.as_object_mut().unwrap().remove("sub"))))),
        ("sub empty", signed(&claims(|c| c["sub"] = json!("")))),
        ("sub with a space", signed(&claims(|c| c["sub"] = json!("alice smith")))),
        ("sub not ASCII", signed(&claims(|c| c["sub"] = json!("ä")))),
        ("sub with a line end", signed(&claims(|c| c["sub"] = json!("a\nb")))),
        ("sub of 200 characters", signed(&claims(|c| c["sub"] = json!(long)))),
        ("sub a number", signed(&claims(|c| c["sub"] = json!(7)))),
        ("claims no object", signed(&json!(["alice"]))),
        ("an audience nobody configured", signed(&claims(|c| c["aud"] = json!("another service")))),
    ];
    let mut details = std::collections::HashSet::new();
    for (what, token) in tokens {
        let answer = me(&app, &token).await;
        details.insert(answer.problem(401, "unauthorized")["detail"].to_string());
        assert_eq!(answer.header("www-authenticate"), r#"Bearer error="invalid_token""#, "{what}");
    }
    assert_eq!(details.len(), 1, "{details:?}");
}

#[tokio::test]
async fn expired_is_told_and_clocks_may_differ_a_little() {
    let app = app();
    let detail = async |claims: Value| {
        let answer = me(&app, &signed(&claims)).await;
        if answer.status == 200 { String::new() } else { answer.problem(401, "unauthorized")["detail"].to_string() }
    };
    assert!(detail(claims(|c| c["exp"] = json!(now() - 40))).await.contains("expired"));
    assert!(detail(claims(|c| c["exp"] = json!(0))).await.contains("expired"));
    assert!(detail(claims(|c| c["nbf"] = json!(now() + 60))).await.contains("not valid yet"));
    assert_eq!(detail(claims(|c| c["exp"] = json!(now() - 20))).await, "");
    assert_eq!(detail(claims(|c| c["nbf"] = json!(now() + 20))).await, "");
    assert_eq!(detail(claims(|c| c["exp"] = json!(now() as f64 + 60.5))).await, "");
    // Who cannot sign does not learn whether a token would have expired.
    let other = EncodingKey::from_secret(b"another secret, of 32 bytes or more too");
    let forged = encode(&Header::new(Algorithm::HS256), &claims(|c| c["exp"] = json!(0)), &other).unwrap();
    assert!(!me(&app, &forged).await.text.contains("expired"));
}

#[tokio::test]
async fn admin_needs_its_scope() {
    let app = app();
    for (scope, admin) in [
        (json!("admin"), true),
        (json!("read admin write"), true),
        (json!(["read", "admin"]), true),
        (json!(""), false),
        (json!("administrator not-admin Admin"), false),
        (json!([]), false),
        (json!(["administrator", "read admin"]), false),
        (json!(["admin", 1]), false),
        (json!({"admin": true}), false),
        (json!(true), false),
        (Value::Null, false),
    ] {
        let bearer = format!("Bearer {}", signed(&claims(|c| c["scope"] = scope.clone())));
        let request = Request::get("/admin").header("authorization", bearer.clone()).body(Body::empty()).unwrap();
        let answer = send(&app, request).await;
        if admin {
            assert_eq!(answer.status, 200, "{scope}");
        } else {
            answer.problem(403, "forbidden");
        }
        let request = Request::get("/me").header("authorization", bearer).body(Body::empty()).unwrap();
        assert_eq!(send(&app, request).await.json()["admin"], admin, "{scope}");
    }
    let absent = signed(&claims(|_| ()));
    let request = Request::get("/admin").header("authorization", format!("Bearer {absent}"));
    send(&app, request.body(Body::empty()).unwrap()).await.problem(403, "forbidden");
    fetch(&app, "/admin").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_configured() {
    let app = app_with(&[
        ("ONSALE_JWT_SECRET", SECRET),
        ("ONSALE_JWT_ISSUER", "https://issuer.example"),
        ("ONSALE_JWT_AUDIENCE", "onsale"),
    ])
    .await;
    let good = json!({"sub": "alice", "exp": now() + 60, "iss": "https://issuer.example", "aud": ["x", "onsale"]});
    assert_eq!(me(&app, &signed(&good)).await.status, 200);
    for (member, value) in
        [("iss", Some("https://issuer.example.evil")), ("iss", None), ("aud", Some("other")), ("aud", None)]
    {
        let mut claims = good.clone();
        match value {
            Some(value) => claims[member] = json!(value),
            None => drop(claims.as_object_mut().unwrap().remove(member)),
        }
        me(&app, &signed(&claims)).await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn exactly_one_key_source_must_be_configured() {
    let jwks = String::from_utf8(fixture("test-jwks.json")).unwrap();
    let refused = async |variables: &[(&str, &str)]| {
        let env: Env = variables.iter().copied().collect();
        Authenticator::from_env(&env).await.unwrap_err().to_string()
    };
    for variables in [
        &[][..],
        &[("ONSALE_JWT_SECRET", SECRET), ("ONSALE_JWKS", &jwks)],
        &[("ONSALE_JWKS_URL", "http://127.0.0.1:1/"), ("ONSALE_JWKS", &jwks)],
    ] {
        let error = refused(variables).await;
        assert!(error.contains("exactly one") && error.contains("ONSALE_JWT_SECRET"), "{error}");
    }
    let short = refused(&[("ONSALE_JWT_SECRET", "hunter2")]).await;
    assert_eq!(short, "ONSALE_JWT_SECRET: must have 32 bytes or more");
    for jwks in ["{}", "[]", "hunter2", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"aHVudGVyMg"}]}"#] {
        let error = refused(&[("ONSALE_JWKS", jwks)]).await;
        assert!(error.starts_with("ONSALE_JWKS: must ") && !error.contains("hunter2"), "{error}");
    }
    for url in ["hunter2", "ftp://x/", "file:///etc/passwd"] {
        assert_eq!(refused(&[("ONSALE_JWKS_URL", url)]).await, "ONSALE_JWKS_URL: must be an http or https URL");
    }
    let shown = format!("{:?}", settings());
    assert!(!shown.contains(SECRET), "{shown}");
}
