//! The one error type of the HTTP boundary.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use onsale_domain::{Invalid, Problem, ProblemType};

/// Why a request was not served. Handlers return it with `?`.
#[derive(Debug)]
pub enum ApiError {
    /// A refusal the caller can act upon.
    Problem(Problem),
    /// A refusal with a challenge for `WWW-Authenticate`.
    Challenge(Problem, &'static str),
    /// Something the request needs does not answer: 503, and the cause goes to the log only.
    Unavailable {
        /// For the caller.
        detail: &'static str,
        /// For the log.
        cause: anyhow::Error,
    },
    /// A fault of ours: 500, and the cause goes to the log only.
    Internal(anyhow::Error),
}

impl ApiError {
    /// A refusal of this kind.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self::Problem(Problem::new(kind, detail))
    }

    /// 503 because of `cause`: nothing was promised, the same request may be sent again.
    pub fn unavailable(detail: &'static str, cause: impl Into<anyhow::Error>) -> Self {
        Self::Unavailable { detail, cause: cause.into() }
    }

    /// No such thing, or not the caller's.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::NotFound, detail)
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::Problem(invalid.into())
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(cause: anyhow::Error) -> Self {
        Self::Internal(cause)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => write(&problem),
            Self::Challenge(problem, challenge) => {
                let mut response = write(&problem);
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                response
            }
            // Logged here and nowhere else: this is the one place every failure passes once, inside
            // the request's span, which carries the request id.
            Self::Unavailable { detail, cause } => {
                tracing::warn!(error = format!("{cause:#}"), "unavailable");
                write(&Problem::try_again(detail))
            }
            Self::Internal(cause) => {
                tracing::error!(error = format!("{cause:#}"), "internal error");
                write(&Problem::new(ProblemType::Internal, "The fault is ours; the log has the details."))
            }
        }
    }
}

fn write(problem: &Problem) -> Response {
    const TYPE: (HeaderName, HeaderValue) =
        (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    const CACHE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [TYPE, CACHE], problem.body().to_string()).into_response();
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The answer to a path no route has.
pub(crate) async fn no_such_route() -> ApiError {
    ApiError::not_found("There is nothing at this path.")
}

/// The answer to a method its path does not take; axum adds `Allow`.
pub(crate) async fn no_such_method() -> ApiError {
    ApiError::new(ProblemType::MethodNotAllowed, "This path does not take this method; see Allow.")
}
