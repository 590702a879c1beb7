//! Running a router as a Lambda function.

use crate::{ApiError, Edge, Env, edge, layers::InvocationEnd, telemetry};
use anyhow::Context as _;
use axum::{Router, response::IntoResponse};
use http::{HeaderName, HeaderValue};
use lambda_http::{
    Adapter, Context, LambdaEvent, Service, aws_lambda_events::apigw::ApiGatewayProxyRequest, lambda_runtime,
    request::LambdaRequest, service_fn,
};
use onsale_domain::ProblemType;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::{
    convert::Infallible,
    future::Future,
    process::ExitCode,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;
use tower::ServiceExt;

/// What an answer needs from the end of its handler to Lambda's own deadline.
const MARGIN: Duration = Duration::from_millis(500);

/// The whole `main` of a function: logging, settings, the router, its edge, and then Lambda's events until the
/// end. `build` makes the function's router from the environment. A failure is logged and gives a
/// non-zero exit code.
pub fn start<F, Fut>(function: &'static str, build: F) -> ExitCode
where
    F: FnOnce(Env) -> Fut,
    Fut: Future<Output = anyhow::Result<Router>>,
{
    let env = Env::from_process();
    let outcome = telemetry::init(function, &env).map_err(anyhow::Error::from).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")?;
        runtime.block_on(async {
            let settings = Edge::from_env(&env).await?;
            // The runtime would panic without it.
            env.required::<String>("AWS_LAMBDA_RUNTIME_API")
                .context("this program is a Lambda function; outside of Lambda run the gateway")?;
            let router = build(env).await?;
            run(edge(router, &settings)).await.map_err(|e| anyhow::anyhow!("the Lambda runtime ended: {e}"))
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), function, "not started");
            ExitCode::FAILURE
        }
    }
}

/// Serves Lambda's events with `router`, which has its [`edge`] already.
pub async fn run(router: Router) -> Result<(), lambda_http::Error> {
    lambda_runtime::run(service_fn(move |event| answer(router.clone(), event))).await
}

/// What Lambda hands over: the event of a REST API, or something that is none.
enum Event {
    Request(Box<ApiGatewayProxyRequest>),
    Unreadable(String),
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut event = Value::deserialize(deserializer)?;
        drop_unreadable_headers(&mut event);
        // Failing here would be a failed invocation, which its caller sees as 502: whatever can be sent
        // must get an answer.
        Ok(match ApiGatewayProxyRequest::deserialize(event) {
            Ok(request) => Self::Request(Box::new(request)),
            Err(e) => Self::Unreadable(e.to_string()),
        })
    }
}

/// One header that is not ASCII would make the whole event unreadable to lambda_http, such as the city
/// CloudFront may add. No header we look at may be anything else, so these go as if not sent.
fn drop_unreadable_headers(event: &mut Value) {
    let readable = |value: &Value| value.as_str().is_some_and(|v| HeaderValue::from_str(v).is_ok());
    for member in ["headers", "multiValueHeaders"] {
        let Some(headers) = event.get_mut(member).and_then(Value::as_object_mut) else { continue };
        headers.retain(|name, value| {
            if let Value::Array(values) = value {
                values.retain(readable);
            }
            HeaderName::from_bytes(name.as_bytes()).is_ok() && (value.is_array() || readable(value))
        });
    }
}

async fn answer(router: Router, event: LambdaEvent<Event>) -> Result<impl Serialize, Infallible> {
    let end = invocation_end(&event.context);
    let (request, router) = match event.payload {
        Event::Request(request) => (plain(*request), Some(router)),
        Event::Unreadable(why) => {
            tracing::warn!(why, "the event is not that of a REST API");
            (ApiGatewayProxyRequest::default(), None)
        }
    };
    let service = service_fn(move |mut request: lambda_http::Request| {
        let router = router.clone();
        async move {
            let Some(router) = router else {
                let detail = "The request cannot be read.";
                return Ok(ApiError::new(ProblemType::Malformed, detail).into_response());
            };
            if let Some(end) = end {
                request.extensions_mut().insert(InvocationEnd(end));
            }
            router.oneshot(request).await
        }
    });
    Adapter::from(service).call(LambdaEvent::new(LambdaRequest::ApiGatewayV1(request), event.context)).await
}

/// Takes from the event what lambda_http would trip over.
fn plain(mut request: ApiGatewayProxyRequest) -> ApiGatewayProxyRequest {
    // lambda_http puts the stage in front of the path, unless AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH is set to
    // anything; no route has it there.
    request.request_context.stage = None;
    // It lets a single value replace those of the same name that came several times, and so hides a repeated
    // header; `multiValueHeaders` has all of them.
    let all = std::mem::take(&mut request.headers);
    if request.multi_value_headers.is_empty() {
        request.multi_value_headers = all;
    }
    // It makes a URL of scheme, host and path, and panics where they are not one. Routes need the path only.
    request.request_context.domain_name = None;
    request.path = request.path.map(|path| if path.starts_with('/') { path } else { format!("/{path}") });
    request
}

/// Where Lambda's clock says the invocation ends, less what the answer's way back takes.
fn invocation_end(context: &Context) -> Option<Instant> {
    if context.deadline == 0 {
        return None;
    }
    let end = SystemTime::UNIX_EPOCH + Duration::from_millis(context.deadline);
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    Some(Instant::now() + left.saturating_sub(MARGIN))
}
