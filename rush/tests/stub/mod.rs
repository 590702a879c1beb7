//! A gateway and a processor in one, as small as can be, with faults to order.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use uuid::Uuid;

/// What the stub does; by default it grants nothing and does everything right.
#[derive(Debug, Clone, Default)]
pub struct Stub {
    /// How many units there are; 0 answers every reservation alike and keeps nothing in mind.
    pub capacity: u32,
    /// Verifies tokens with this secret.
    pub secret: Option<String>,
    /// Every n-th new request is turned away with a 503 once.
    pub busy_every: Option<usize>,
    /// Every request is turned away with a 503.
    pub always_busy: bool,
    /// This unit is given in place of the next one as well.
    pub give_twice: Option<u32>,
    /// Reservations of this unit are not found.
    pub lose: Option<u32>,
    /// How long a reservation takes to be in the ledger.
    pub record_after: Duration,
    /// Replays get another body.
    pub forgetful: bool,
    /// The first reservation takes as long as this.
    pub stall: Duration,
    /// Every answer ends its connection.
    pub close: bool,
    /// What the audit finds.
    pub audit: Vec<String>,
}

#[derive(Default)]
struct Kept {
    given: u32,
    seen: HashSet<String>,
    answers: HashMap<String, String>,
    reservations: HashMap<String, (Value, Instant)>,
    users: HashSet<String>,
}

/// A stub that runs.
#[derive(Clone)]
pub struct Running {
    /// Where.
    pub address: SocketAddr,
    stub: Stub,
    kept: Arc<Mutex<Kept>>,
}

impl Stub {
    /// Listens on `port` of 127.0.0.1, 0: any free one.
    pub async fn start(self, port: u16) -> Running {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port of our own");
        let address = listener.local_addr().expect("a bound socket has an address");
        let running = Running { address, stub: self, kept: Arc::default() };
        let router = Router::new()
            .route("/v1/sales/{sale}", get(sale))
            .route("/v1/sales/{sale}/reservations", post(reserve))
            .route("/v1/reservations/{id}", get(read))
            .route("/audit", get(audit))
            .with_state(running.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        running
    }
}

impl Running {
    /// How many different users have asked.
    pub fn users(&self) -> usize {
        self.kept().users.len()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no handler panics")
    }

    fn user(&self, headers: &HeaderMap) -> Option<String> {
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        let Some(secret) = &self.stub.secret else { return Some(token.to_owned()) };
        let key = DecodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::decode::<Value>(token, &key, &Validation::new(Algorithm::HS256)).ok()?;
        Some(token.claims["sub"].as_str()?.to_owned())
    }
}

fn problem(status: StatusCode, name: &str) -> Response {
    let body =
        format!(r#"{{"type":"urn:onsale:problem:{name}","title":"t","status":{},"detail":"d"}}"#, status.as_u16());
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

async fn sale(Path(sale): Path<String>) -> Response {
    if sale == "unknown" {
        return problem(StatusCode::NOT_FOUND, "not-found");
    }
    Json(json!({ "saleId": sale, "state": "open" })).into_response()
}

async fn reserve(
    State(running): State<Running>,
    Path(sale): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut answer = decide(&running, &sale, &headers, &body).await;
    if running.stub.close {
        answer.headers_mut().insert(header::CONNECTION, "close".parse().expect("a header"));
    }
    answer
}

async fn decide(running: &Running, sale: &str, headers: &HeaderMap, body: &[u8]) -> Response {
    let stub = &running.stub;
    if stub.always_busy {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "try-again");
    }
    if stub.capacity == 0 {
        return problem(StatusCode::CONFLICT, "sold-out");
    }
    let Some(user) = running.user(headers) else { return problem(StatusCode::UNAUTHORIZED, "unauthorized") };
    let key = headers["idempotency-key"].to_str().expect("ASCII").to_owned();
    let quantity = serde_json::from_slice::<Value>(body).expect("JSON")["quantity"].as_u64().expect("a number");
    let first = {
        let mut kept = running.kept();
        kept.users.insert(user);
        let new = kept.seen.insert(key.clone());
        if new && stub.busy_every.is_some_and(|n| kept.seen.len().is_multiple_of(n)) {
            let busy = problem(StatusCode::SERVICE_UNAVAILABLE, "try-again");
            return ([(header::RETRY_AFTER, "0")], busy).into_response();
        }
        kept.seen.len() == 1
    };
    if first {
        tokio::time::sleep(stub.stall).await;
    }
    let mut kept = running.kept();
    if let Some(answer) = kept.answers.get(&key) {
        let answer = if stub.forgetful { format!("{answer} ") } else { answer.clone() };
        return accepted(answer, true);
    }
    let quantity = u32::try_from(quantity).expect("small");
    if kept.given + quantity > stub.capacity {
        return problem(StatusCode::CONFLICT, "sold-out");
    }
    let units: Vec<u32> = (0..quantity)
        .map(|_| {
            kept.given += 1;
            stub.give_twice.filter(|unit| kept.given == unit + 1).unwrap_or(kept.given)
        })
        .collect();
    let id = format!("{sale}.{}", Uuid::now_v7());
    let reservation = json!({
        "reservationId": id, "saleId": sale, "state": "held",
        "units": units.iter().map(|n| json!({ "number": n })).collect::<Vec<_>>(),
        "expiresAt": "2999-01-01T00:00:00.000Z", "amount": { "amount": 100 * quantity, "currency": "EUR" }
    });
    let answer = reservation.to_string();
    if !stub.lose.is_some_and(|lost| units.contains(&lost)) {
        kept.reservations.insert(id, (reservation, Instant::now()));
    }
    kept.answers.insert(key, answer.clone());
    accepted(answer, false)
}

fn accepted(body: String, replayed: bool) -> Response {
    let mut answer = (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if replayed {
        answer.headers_mut().insert("idempotent-replayed", "true".parse().expect("a header"));
    }
    answer
}

async fn read(State(running): State<Running>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if running.user(&headers).is_none() {
        return problem(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let Some((mut reservation, since)) = running.kept().reservations.get(&id).cloned() else {
        return problem(StatusCode::NOT_FOUND, "not-found");
    };
    reservation["recorded"] = (since.elapsed() >= running.stub.record_after).into();
    Json(reservation).into_response()
}

async fn audit(State(running): State<Running>) -> Response {
    let findings = &running.stub.audit;
    Json(json!({ "clean": findings.is_empty(), "findings": findings })).into_response()
}
