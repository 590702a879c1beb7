//! Key sets, inline and by URL.

use crate::{
    identity::{by_key, now},
    *,
};
use axum::{extract::State, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

fn claims(sub: &str) -> Value {
    json!({"sub": sub, "exp": now() + 3600})
}

fn key_set(kids: &[&str]) -> String {
    let mut set: Value = serde_json::from_slice(&fixture("test-jwks.json")).unwrap();
    set["keys"].as_array_mut().unwrap().retain(|k| kids.contains(&k["kid"].as_str().unwrap()));
    set.to_string()
}

async fn inline(jwks: &str) -> Router {
    app_with(&[("ONSALE_JWKS", jwks)]).await
}

#[tokio::test]
async fn rs256_and_es256_hold_by_their_key_id() {
    let app = inline(&key_set(&["rsa-1", "rsa-2", "ec-1"])).await;
    for kid in ["rsa-1", "rsa-2", "ec-1"] {
        // The second time from what is remembered.
        for _ in 0..2 {
            let answer = me(&app, &by_key(kid, &claims(kid))).await;
            assert_eq!((answer.status, answer.json()["user"].clone()), (200, json!(kid)));
        }
    }
}

#[tokio::test]
async fn a_remembered_token_expires_all_the_same() {
    let app = inline(&key_set(&["ec-1"])).await;
    let token = by_key("ec-1", &json!({"sub": "alice", "exp": now() - 28}));
    assert_eq!(me(&app, &token).await.status, 200);
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(me(&app, &token).await.problem(401, "unauthorized")["detail"].to_string().contains("expired"));
}

#[tokio::test]
async fn a_key_is_used_with_its_own_algorithm_only() {
    let app = inline(&key_set(&["rsa-1", "ec-1"])).await;
    let with = |algorithm, kid: &str, key: &EncodingKey| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        encode(&header, &claims("root"), key).unwrap()
    };
    let rsa = EncodingKey::from_rsa_pem(&fixture("test-rsa-1.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&fixture("test-ec-1.pem")).unwrap();
    let public = EncodingKey::from_secret(&fixture("test-rsa-1.pub.pem"));
    for (what, token) in [
        ("HS256 with the public key as its secret", with(Algorithm::HS256, "rsa-1", &public)),
        ("HS256 without a key id", encode(&Header::new(Algorithm::HS256), &claims("root"), &public).unwrap()),
        ("RS512 with the right key", with(Algorithm::RS512, "rsa-1", &rsa)),
        ("PS256 with the right key", with(Algorithm::PS256, "rsa-1", &rsa)),
        ("RS256 under the id of the EC key", with(Algorithm::RS256, "ec-1", &rsa)),
        ("ES256 under the id of the RSA key", with(Algorithm::ES256, "rsa-1", &ec)),
        ("an unknown key id", with(Algorithm::RS256, "rsa-9", &rsa)),
        (
            "signed by a key that is not in the set",
            with(Algorithm::RS256, "rsa-1", &EncodingKey::from_rsa_pem(&fixture("test-rsa-2.pem")).unwrap()),
        ),
        ("the secret of local runs", token("root", true)),
    ] {
        let answer = me(&app, &token).await;
        assert_eq!(answer.status, 401, "{what}");
        answer.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn without_a_key_id_only_one_key_may_be_meant() {
    let bare = |algorithm, pem: &str| {
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(&fixture(pem)),
            _ => EncodingKey::from_ec_pem(&fixture(pem)),
        };
        encode(&Header::new(algorithm), &claims("alice"), &key.unwrap()).unwrap()
    };
    let app = inline(&key_set(&["rsa-1", "ec-1"])).await;
    assert_eq!(me(&app, &bare(Algorithm::RS256, "test-rsa-1.pem")).await.status, 200);
    assert_eq!(me(&app, &bare(Algorithm::ES256, "test-ec-1.pem")).await.status, 200);
    let app = inline(&key_set(&["rsa-1", "rsa-2"])).await;
    me(&app, &bare(Algorithm::RS256, "test-rsa-1.pem")).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn keys_that_cannot_be_used_do_not_spoil_the_others() {
    let mut set: Value = serde_json::from_str(&key_set(&["rsa-1", "rsa-2", "ec-1"])).unwrap();
    set["keys"][1]["use"] = json!("enc");
    for odd in [
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "EC", "crv": "P-384", "kid": "p384", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({"kty": "RSA", "kid": "weak", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "quantum"}),
        json!("a text"),
    ] {
        set["keys"].as_array_mut().unwrap().insert(0, odd);
    }
    let app = inline(&set.to_string()).await;
    assert_eq!(me(&app, &by_key("rsa-1", &claims("alice"))).await.status, 200);
    assert_eq!(me(&app, &by_key("ec-1", &claims("alice"))).await.status, 200);
    me(&app, &by_key("rsa-2", &claims("alice"))).await.problem(401, "unauthorized");
}

/// An issuer whose answer and pace can be changed.
#[derive(Clone, Default)]
struct Issuer {
    answer: Arc<Mutex<(u16, String, Duration)>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn says(&self, status: u16, kids: &[&str]) {
        *self.answer.lock().unwrap() = (status, key_set(kids), Duration::ZERO);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn serve(&self) -> String {
        async fn keys(State(issuer): State<Issuer>) -> (StatusCode, String) {
            issuer.asked.fetch_add(1, Ordering::SeqCst);
            let (status, body, pause) = issuer.answer.lock().unwrap().clone();
            tokio::time::sleep(pause).await;
            (StatusCode::from_u16(status).unwrap(), body)
        }
        let router = Router::new().route("/keys", get(keys)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }
}

/// Moves the clock without letting it run on by itself, which would time out real sockets.
async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_a_withdrawn_one_forgotten() {
    let issuer = Issuer::default();
    issuer.says(200, &["rsa-1"]);
    let app = app_with(&[("ONSALE_JWKS_URL", &issuer.serve().await)]).await;
    assert_eq!(issuer.asked(), 1);
    let (old, new) = (by_key("rsa-1", &claims("alice")), by_key("rsa-2", &claims("bob")));
    assert_eq!(me(&app, &old).await.status, 200);

    // The issuer turns to another key. Within half a minute of the last fetch nobody asks again.
    issuer.says(200, &["rsa-1", "rsa-2"]);
    me(&app, &new).await.problem(401, "unauthorized");
    assert_eq!(issuer.asked(), 1);

    later(31).await;
    let all = futures::future::join_all((0..20).map(|_| me(&app, &new))).await;
    assert!(all.iter().all(|a| a.status == 200));
    assert_eq!(issuer.asked(), 2);

    // Unknown ids are no way to make us ask more often.
    later(31).await;
    let stranger = Header { kid: Some("nobody".to_owned()), ..Header::new(Algorithm::RS256) };
    let key = EncodingKey::from_rsa_pem(&fixture("test-rsa-1.pem")).unwrap();
    let stranger = encode(&stranger, &claims("x"), &key).unwrap();
    futures::future::join_all((0..20).map(|_| me(&app, &stranger))).await;
    assert_eq!(issuer.asked(), 3);
    assert_eq!(me(&app, &old).await.status, 200);

    // Withdrawn: remembered tokens go with their key.
    issuer.says(200, &["rsa-2"]);
    later(601).await;
    me(&app, &old).await.problem(401, "unauthorized");
    assert_eq!(me(&app, &new).await.status, 200);
    assert_eq!(issuer.asked(), 4);
}

#[tokio::test]
async fn known_keys_outlive_an_issuer_that_fails() {
    let issuer = Issuer::default();
    issuer.says(200, &["rsa-1"]);
    let app = app_with(&[("ONSALE_JWKS_URL", &issuer.serve().await), ("ONSALE_JWKS_TIMEOUT_MS", "500")]).await;
    let token = by_key("rsa-1", &claims("alice"));
    for (status, kids, pause) in [(500, &["rsa-1"][..], 0), (200, &[], 0), (200, &["rsa-1"], 5000)] {
        issuer.says(status, kids);
        issuer.answer.lock().unwrap().2 = Duration::from_millis(pause);
        let before = issuer.asked();
        later(700).await;
        assert_eq!(me(&app, &token).await.status, 200, "{status} {pause}");
        assert_eq!(me(&app, &token).await.status, 200);
        assert_eq!(issuer.asked(), before + 1);
    }
}

#[tokio::test]
async fn without_any_key_nothing_is_known_of_a_token() {
    let issuer = Issuer::default();
    issuer.says(503, &[]);
    let app = app_with(&[("ONSALE_JWKS_URL", &issuer.serve().await)]).await;
    let token = by_key("rsa-1", &claims("alice"));
    me(&app, &token).await.problem(503, "try-again");
    issuer.says(200, &["rsa-1"]);
    me(&app, &token).await.problem(503, "try-again");
    later(2).await;
    assert_eq!(me(&app, &token).await.status, 200);
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn a_caller_who_hangs_up_does_not_cut_the_fetch_short() {
    let issuer = Issuer::default();
    issuer.says(200, &["rsa-1"]);
    let app = app_with(&[("ONSALE_JWKS_URL", &issuer.serve().await)]).await;
    issuer.says(200, &["rsa-1", "rsa-2"]);
    issuer.answer.lock().unwrap().2 = Duration::from_millis(500);
    later(31).await;
    let token = by_key("rsa-2", &claims("bob"));
    assert!(tokio::time::timeout(Duration::from_millis(20), me(&app, &token)).await.is_err());
    assert_eq!(me(&app, &token).await.status, 200);
    assert_eq!(issuer.asked(), 2);
}
