//! The crate as a function uses it: a router with its edge, asked over HTTP types.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod edge;
mod identity;
mod input;
mod jwks;
mod lambda;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::IntoResponse,
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use onsale_domain::UserId;
use onsale_http::{
    Admin, ApiError, Authenticator, Caller, Deadline, Edge, Env, Json, RequiredIdempotencyKey, ReservationPath,
    SalePath, Secret, identity::local_token,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

const SECRET: &str = "a secret for tests, of 32 bytes or more";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    quantity: u32,
}

async fn order(
    Caller { user, .. }: Caller,
    SalePath(sale): SalePath,
    RequiredIdempotencyKey(key): RequiredIdempotencyKey,
    Json(order): Json<Order>,
) -> Result<impl IntoResponse, ApiError> {
    let body = json!({"user": user.as_str(), "sale": sale.as_str(), "key": key.as_str(), "quantity": order.quantity});
    Ok((StatusCode::ACCEPTED, Json(body)))
}

/// A small function with a route for everything that can go right or wrong.
fn routes() -> Router {
    Router::new()
        .route("/me", get(async |c: Caller| Json(json!({"user": c.user.as_str(), "admin": c.admin}))))
        .route("/admin", get(async |Admin(c): Admin| Json(json!({"user": c.user.as_str()}))))
        .route("/sales/{saleId}/orders", post(order))
        .route("/reservations/{id}", get(async |ReservationPath(id): ReservationPath| id.to_string()))
        .route("/body", post(async |Json(body): Json<Value>| Json(body)))
        .route("/panic", get(async || -> StatusCode { panic!("the secret is hunter2") }))
        .route(
            "/internal",
            get(async || -> Result<(), ApiError> {
                Err(anyhow::anyhow!("password hunter2 refused").context("connecting").into())
            }),
        )
        .route(
            "/unavailable",
            get(async || -> Result<(), ApiError> {
                Err(ApiError::unavailable("The store does not answer.", anyhow::anyhow!("hunter2")))
            }),
        )
        .route("/cacheable", get(async || ([(header::CACHE_CONTROL, "public, max-age=1")], "x")))
        .route("/plain", get(async || "x"))
        .route("/deadline", get(async |d: Deadline| d.remaining().as_millis().to_string()))
        .route("/stuck", get(async || futures::future::pending::<()>().await))
}

fn secret() -> Secret {
    SECRET.parse().unwrap()
}

fn settings() -> Edge {
    Edge::new(Authenticator::from_secret(&secret()).unwrap())
}

fn app() -> Router {
    onsale_http::edge(routes(), &settings())
}

async fn app_with(variables: &[(&str, &str)]) -> Router {
    let env: Env = variables.iter().copied().collect();
    onsale_http::edge(routes(), &Edge::from_env(&env).await.unwrap())
}

fn token(user: &str, admin: bool) -> String {
    local_token(&secret(), &UserId::parse(user).unwrap(), admin, Duration::from_secs(60)).unwrap()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// Asserts that this is a refusal as the contract has it, and gives its members.
    #[track_caller]
    fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        assert!(!self.header("x-request-id").is_empty());
        assert!(!self.text.contains("hunter2"));
        let body = self.json();
        assert_eq!(body["type"], format!("urn:onsale:problem:{name}"));
        assert_eq!(body["status"], status);
        assert!(!body["title"].as_str().unwrap().is_empty());
        assert!(!body["detail"].as_str().unwrap().is_empty());
        body
    }
}

async fn send(app: &Router, request: Request) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

async fn fetch(app: &Router, path: &str) -> Answer {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn me(app: &Router, token: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    send(app, Request::get("/me").header("authorization", authorization).body(Body::empty()).unwrap()).await
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}
