//! A small AWS Lambda: the Runtime API that a function's process asks for its invocations.
//!
//! Source: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>. Like Lambda it gives one process one
//! invocation at a time.

use crate::{PATIENCE, Process, Stack, program};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
};

/// More than a function gets, so that a busy machine fails no test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A compiled function, run as Lambda runs it. Its server lives in the runtime of the test that started it.
pub struct Function {
    name: String,
    queue: mpsc::Sender<Invocation>,
    process: Mutex<Process>,
    server: tokio::task::JoinHandle<()>,
}

struct Invocation {
    event: Value,
    timeout: Duration,
    answer: Answered,
}

type Answered = oneshot::Sender<Result<Value, String>>;

struct Lambda {
    function: String,
    queue: AsyncMutex<mpsc::Receiver<Invocation>>,
    under_way: Mutex<HashMap<String, Answered>>,
}

impl Lambda {
    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Answered>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer of a function to an event of a REST API, as API Gateway gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyResponse(pub Value);

impl ProxyResponse {
    /// The status.
    pub fn status(&self) -> u64 {
        self.0["statusCode"].as_u64().unwrap_or_else(|| panic!("no statusCode: {}", self.0))
    }

    /// A header that is there once, as API Gateway finds it: in `multiValueHeaders`, else in `headers`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let of = |member: &str| {
            let headers = self.0[member].as_object()?;
            headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        match of("multiValueHeaders").or_else(|| of("headers"))? {
            Value::Array(values) if values.len() == 1 => values[0].as_str(),
            Value::Array(_) => panic!("{name} is there several times: {}", self.0),
            value => value.as_str(),
        }
    }

    /// The body as text, which it is in all our answers.
    pub fn text(&self) -> &str {
        assert_ne!(self.0["isBase64Encoded"], true, "{}", self.0);
        self.0["body"].as_str().unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.0))
    }

    /// Fails the test unless the status is this one; then the body (`null` where there is none).
    #[track_caller]
    pub fn is(&self, status: u64) -> Value {
        assert_eq!(self.status(), status, "{}", self.0);
        if self.text().is_empty() { Value::Null } else { self.json() }
    }

    /// Fails the test unless this is a well-formed refusal of this kind; then the problem.
    #[track_caller]
    pub fn refuses(&self, status: u64, kind: &str) -> Value {
        let problem = self.is(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.0);
        assert_eq!(problem["type"], format!("urn:onsale:problem:{kind}"), "{problem}");
        problem
    }
}

impl Function {
    /// Starts the function `name` over the stores of `stack`.
    pub async fn start(stack: &Stack, name: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("a port").to_string();
        let (queue, invocations) = mpsc::channel(16);
        let lambda = Arc::new(Lambda {
            function: name.to_owned(),
            queue: AsyncMutex::new(invocations),
            under_way: Mutex::default(),
        });
        let server = tokio::spawn(async move {
            axum::serve(listener, routes(lambda)).await.expect("the Runtime API");
        });
        let mut environment = stack.environment();
        let lambda = [
            ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", name),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/test"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "test"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ];
        environment.extend(lambda.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let log = stack.logs().join(format!("{name}-{}.log", uuid::Uuid::now_v7()));
        let process = Mutex::new(Process::start(&program(name), &[], &environment, log));
        Self { name: name.to_owned(), queue, process, server }
    }

    /// Invokes it with an event of a REST API.
    pub async fn invoke(&self, event: &Value) -> ProxyResponse {
        self.invoke_within(event, TIMEOUT).await
    }

    /// Invokes it, and tells it that Lambda gives it this long.
    pub async fn invoke_within(&self, event: &Value, timeout: Duration) -> ProxyResponse {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Invocation { event: event.clone(), timeout, answer }).await.expect("the Runtime API");
        let failed = |why: &str| -> ! {
            let said = self.process.lock().unwrap_or_else(PoisonError::into_inner).said();
            panic!("function {}: {why}\nit said: {said}", self.name)
        };
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(Ok(response))) => ProxyResponse(response),
            Ok(Ok(Err(why))) => failed(&format!("the invocation failed, API Gateway would answer 502: {why}")),
            Ok(Err(_)) => failed("the invocation was lost"),
            Err(_) => failed("no answer"),
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn routes(lambda: Arc<Lambda>) -> Router {
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::disable())
        .with_state(lambda)
}

/// Waits for an invocation, however long.
async fn next(State(lambda): State<Arc<Lambda>>) -> Response {
    let Some(invocation) = lambda.queue.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let id = uuid::Uuid::now_v7().to_string();
    lambda.under_way().insert(id.clone(), invocation.answer);
    let end = SystemTime::now() + invocation.timeout;
    let end = end.duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_millis();
    let arn = format!("arn:aws:lambda:eu-central-1:123456789012:function:{}", lambda.function);
    let headers = [
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", end.to_string()),
        ("lambda-runtime-invoked-function-arn", arn),
        (
            "lambda-runtime-trace-id",
            "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1".into(),
        ),
    ];
    (headers, Json(invocation.event)).into_response()
}

/// Like Lambda it asks for no content type.
async fn response(State(lambda): State<Arc<Lambda>>, Path(id): Path<String>, response: Bytes) -> StatusCode {
    answered(&lambda, &id, serde_json::from_slice(&response).map_err(|e| e.to_string()))
}

async fn error(State(lambda): State<Arc<Lambda>>, Path(id): Path<String>, error: String) -> StatusCode {
    answered(&lambda, &id, Err(error))
}

/// The process ends after it; its invocation stays without an answer, and the log has the reason.
async fn init_error(error: String) -> StatusCode {
    eprintln!("a function could not start: {error}");
    StatusCode::ACCEPTED
}

fn answered(lambda: &Lambda, id: &str, answer: Result<Value, String>) -> StatusCode {
    match lambda.under_way().remove(id) {
        Some(waiting) => {
            let _ = waiting.send(answer);
            StatusCode::ACCEPTED
        }
        None => StatusCode::BAD_REQUEST,
    }
}
