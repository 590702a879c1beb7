//! What surrounds every router, in one place and one order.

use crate::{
    ApiError, Authenticator, ConfigError, Env,
    json::too_large,
    problem::{no_such_method, no_such_route},
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};
use http_body_util::BodyExt;
use onsale_domain::Problem;
use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, time};
use tracing::Instrument;

/// The most bytes a body may have.
pub const MAX_BODY: usize = 64 * 1024;
/// The most bytes of a refused body that are read for its sender's sake.
const DISCARDED: usize = 1024 * 1024;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long after its deadline a request that does not give up by itself is cut off.
const GRACE: Duration = Duration::from_millis(250);

/// Until when a request may promise anything. Monotonic, so that it holds through clock changes.
///
/// As an argument of a handler it is the request's own; whoever waits for something waits until then
/// at most, and nothing is answered with 202 after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(time::Instant);

impl Deadline {
    /// In `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(time::Instant::now() + span)
    }

    /// The moment itself, for [`tokio::time::timeout_at`].
    pub fn instant(self) -> time::Instant {
        self.0
    }

    /// How long it still is; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(time::Instant::now())
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

/// Puts around `router` what all routes share. Call it once, after all routes are in.
///
/// Outermost first: request id, span, metrics and the headers every answer has; shedding, before
/// anything is spent on the request; the declared length of the body; then, under the deadline and with
/// panics caught, the route, or a refusal where there is none.
pub fn edge(router: Router, edge: &Edge) -> Router {
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(edge.clone(), observed))
}

/// When the surrounding invocation ends: no deadline lies after it. Lambda sets it, a server does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InvocationEnd(pub(crate) time::Instant);

async fn observed(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let id = request_id(request.headers());
    // The highest level, so that no filter takes the request id from the lines inside.
    let span = tracing::error_span!("request", method, route, request_id = id.to_str().unwrap_or_default());

    let mut response = guarded(edge, request, next).instrument(span.clone()).await;

    let status = response.status();
    let took = started.elapsed().as_secs_f64();
    // Whoever wants a line per request asks for it: a rush is tens of thousands a second. Its facts are fields of
    // the line, not of the span, where recording them costs more than all else here on every request.
    span.in_scope(|| tracing::debug!(status = status.as_u16(), latency_ms = took * 1000.0, "answered"));
    let labels = [("route", route.to_owned()), ("method", method.to_owned())];
    metrics::histogram!("onsale_http_request_duration_seconds", &labels).record(took);
    metrics::counter!("onsale_http_requests_total", "route" => route.to_owned(), "method" => method, "status" => status.as_str().to_owned())
        .increment(1);

    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn guarded(edge: Edge, mut request: Request, next: Next) -> Response {
    let _place = match &edge.in_flight {
        None => None,
        Some(places) => match places.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => return ApiError::from(Problem::try_again("Too many requests are under way.")).into_response(),
        },
    };
    if declared_length(request.headers()) > MAX_BODY as u64 {
        discard(request.into_body()).await;
        return too_large().into_response();
    }
    let own = time::Instant::now() + edge.deadline;
    let end = request.extensions().get().map_or(own, |InvocationEnd(end)| own.min(*end));
    request.extensions_mut().insert(Deadline(end));
    request.extensions_mut().insert(edge.authenticator);

    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match time::timeout_at(end + GRACE, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => ApiError::Internal(anyhow::anyhow!("panicked: {}", message(&*panic))).into_response(),
        Err(_) => {
            let cause = anyhow::anyhow!("the handler went on past its deadline");
            ApiError::unavailable("The answer took too long. Send the same request again.", cause).into_response()
        }
    }
}

/// The caller's own id where it is one to be repeated, else that of the trace, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        (1..=128).contains(&value.len())
            && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:;=+/".contains(b))
    };
    let given = [X_REQUEST_ID, X_AMZN_TRACE_ID].into_iter().find_map(|name| headers.get(name).filter(sane));
    given.cloned().unwrap_or_else(|| {
        let mut buffer = uuid::Uuid::encode_buffer();
        let fresh: &str = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(fresh).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_AMZN_TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

/// Clients may send any method; the labels of a metric must stay few.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What the request says its body's length is; a body without a length is counted as it is read.
fn declared_length(headers: &HeaderMap) -> u64 {
    headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Reads some of a refused body. A client that is still sending when the connection closes takes that for a failure and
/// never sees the answer.
async fn discard(mut body: Body) {
    let reading = async {
        let mut rest = DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match rest.checked_sub(length) {
                Some(less) => rest = less,
                None => return,
            }
        }
    };
    // Whether it came to its end or not, the answer is the same.
    let _ = time::timeout(PATIENCE, reading).await;
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
