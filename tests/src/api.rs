//! The API as a client uses it.

use crate::{PATIENCE, settings};
use bytes::Bytes;
use onsale_domain::UserId;
use onsale_http::{Secret, identity::local_token};
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A token that the local installation takes, valid for an hour.
pub fn token(user: &str, admin: bool) -> String {
    let secret: Secret = settings()["ONSALE_JWT_SECRET"].parse().expect("a secret");
    let user = UserId::parse(user).expect("a user's name");
    local_token(&secret, &user, admin, Duration::from_secs(3600)).expect("a token")
}

/// The numbers of a reservation's units.
pub fn units_of(reservation: &Value) -> Vec<u64> {
    let units = reservation["units"].as_array().unwrap_or_else(|| panic!("no units: {reservation}"));
    units.iter().map(|unit| unit["number"].as_u64().expect("a unit's number")).collect()
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Answer {
    /// A header that is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().expect("a header in ASCII");
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        Some(value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// Fails the test unless the status is this one; then the body (`null` where there is none).
    #[track_caller]
    pub fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Fails the test unless this is a well-formed refusal of this kind; then the problem.
    #[track_caller]
    pub fn refuses(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{kind} expected: {self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:onsale:problem:{kind}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|t| !t.is_empty()), "{text} is missing: {problem}");
        }
        problem
    }

    /// Like [`refuses`](Self::refuses) with 400 `malformed`, and the problem names this field.
    #[track_caller]
    pub fn names(&self, field: &str) -> Value {
        let problem = self.refuses(400, "malformed");
        assert_eq!(problem["field"], field, "{problem}");
        problem
    }
}

/// A client of one gateway. Make one per test: its connections belong to the test's runtime.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

impl Api {
    /// Of the server at `base`, such as `http://127.0.0.1:3000`.
    pub fn new(base: impl Into<String>) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("an HTTP client");
        Self { base: base.into(), http }
    }

    /// A request without a token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// A request with a user's token.
    pub fn request_as(&self, user: &str, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(token(user, false))
    }

    /// A request with an administrator's token.
    pub fn request_as_admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(token("admin", true))
    }

    /// A reserve with everything it needs but its body.
    pub fn reserve_request(&self, user: &str, sale: &str, key: &str) -> RequestBuilder {
        self.request_as(user, Method::POST, &format!("/v1/sales/{sale}/reservations")).header("idempotency-key", key)
    }

    /// GET without a token.
    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// PUT of a sale by an administrator.
    pub async fn put_sale(&self, sale: &str, config: &Value) -> Answer {
        send(self.request_as_admin(Method::PUT, &format!("/v1/sales/{sale}")).json(config)).await
    }

    /// GET of a sale.
    pub async fn sale(&self, sale: &str) -> Answer {
        self.get(&format!("/v1/sales/{sale}")).await
    }

    /// GET of a seat map.
    pub async fn seats(&self, sale: &str) -> Answer {
        self.get(&format!("/v1/sales/{sale}/seats")).await
    }

    /// One try to reserve.
    pub async fn reserve(&self, user: &str, sale: &str, key: &str, wish: &Value) -> Answer {
        send(self.reserve_request(user, sale, key).json(wish)).await
    }

    /// One try to reserve, at a server that may go away meanwhile.
    pub async fn try_reserve(&self, user: &str, sale: &str, key: &str, wish: &Value) -> reqwest::Result<Answer> {
        try_send(self.reserve_request(user, sale, key).json(wish)).await
    }

    /// Sends as a client must: 503 and silence are met with the same request.
    pub async fn insist(&self, request: impl Fn() -> RequestBuilder) -> Answer {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match try_send(request()).await {
                Ok(answer) if answer.status != 503 => return answer,
                other => assert!(Instant::now() < give_up, "never an answer: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Reserves, and insists on an answer.
    pub async fn buy(&self, user: &str, sale: &str, key: &str, wish: &Value) -> Answer {
        self.insist(|| self.reserve_request(user, sale, key).json(wish)).await
    }

    /// Cancels, and insists on an answer.
    pub async fn give_up(&self, user: &str, id: &str) -> Answer {
        self.insist(|| self.request_as(user, Method::DELETE, &format!("/v1/reservations/{id}"))).await
    }

    /// GET of a reservation.
    pub async fn reservation(&self, user: &str, id: &str) -> Answer {
        send(self.request_as(user, Method::GET, &format!("/v1/reservations/{id}"))).await
    }

    /// DELETE of a reservation.
    pub async fn cancel(&self, user: &str, id: &str) -> Answer {
        send(self.request_as(user, Method::DELETE, &format!("/v1/reservations/{id}"))).await
    }
}

/// Sends it and reads the answer; fails the test where there is none.
pub async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.expect("an answer")
}

async fn try_send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await? })
}
