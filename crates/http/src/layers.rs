//! What surrounds every router, in one place and one order.

use crate::{
    ApiError, Authenticator, ConfigError, Env,
    problem::{no_such_method, no_such_route},
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use onsale_domain::Problem;
use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tracing::Instrument;

/// The most bytes a body may have.
pub const MAX_BODY: usize = 64 * 1024;
/// How long after its deadline a request that does not give up by itself is cut off.
const GRACE: Duration = Duration::from_millis(250);

/// Until when a request may promise anything. Monotonic, so that it holds through clock changes.
///
/// As an argument of a handler it is the request's own; whoever waits for something waits until then
/// at most, and nothing is answered with 202 after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// In `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// How long it still is; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }
}

impl<S: Sync> FromRequestParts<S> for Deadline {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let set = parts.extensions.get().copied();
        Ok(set.ok_or_else(|| anyhow::anyhow!("no deadline: the router runs without its edge"))?)
    }
}

/// The settings of [`edge`].
#[derive(Debug, Clone)]
pub struct Edge {
    authenticator: Authenticator,
    deadline: Duration,
    in_flight: Option<Arc<Semaphore>>,
}

impl Edge {
    /// Identity from [`Authenticator::from_env`]; `ONSALE_DEADLINE_MS` (default 5000).
    pub async fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let range = Duration::from_millis(50)..=Duration::from_secs(60);
        let deadline = env.duration("ONSALE_DEADLINE_MS", Duration::from_secs(5), range)?;
        Ok(Self::new(Authenticator::from_env(env).await?).deadline(deadline))
    }

    /// With this identity, five seconds a request and no limit on how many there are at once.
    pub fn new(authenticator: Authenticator) -> Self {
        Self { authenticator, deadline: Duration::from_secs(5), in_flight: None }
    }

    /// How long a request has.
    #[must_use]
    pub fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// How many requests may be served at once; one more is answered with 503 at once. For the gateway: a
    /// Lambda function serves one.
    #[must_use]
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.in_flight = Some(Arc::new(Semaphore::new(requests)));
        self
    }
}

/// Puts everything around `router` that all routes share. Call it once, after all routes are in.
pub fn edge(router: Router, edge: &Edge) -> Router {
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(edge.clone(), serve))
}

async fn serve(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let deadline = Deadline(started + edge.deadline);
    request.extensions_mut().insert(deadline);
    request.extensions_mut().insert(edge.authenticator.clone());
    next.run(request).await
}
