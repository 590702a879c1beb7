//! JSON bodies: read with a limit, and refused so that a person finds the mistake.

use crate::{ApiError, Deadline, layers::MAX_BODY};
use axum::{
    body::Body,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use onsale_domain::{Problem, ProblemType};
use serde::{Serialize, de::DeserializeOwned};

/// As an argument: the body, which must be `application/json` and what `T` takes. As an answer: `T` as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, parts.extensions.get().copied()).await?;
        if bytes.is_empty() {
            return Err(ApiError::new(ProblemType::Malformed, "A JSON body is needed."));
        }
        check_type(&parts.headers)?;
        parse(&bytes).map(Self).map_err(Into::into)
    }
}

async fn read(body: Body, deadline: Option<Deadline>) -> Result<axum::body::Bytes, ApiError> {
    let collecting = Limited::new(body, MAX_BODY).collect();
    let collected = match deadline {
        None => collecting.await,
        Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), collecting)
            .await
            .map_err(|_| ApiError::new(ProblemType::Malformed, "The body did not arrive in time."))?,
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::new(ProblemType::Malformed, "The body broke off or is not well framed.")),
    }
}

pub(crate) fn too_large() -> ApiError {
    ApiError::new(ProblemType::TooLarge, format!("The body may have {MAX_BODY} bytes at most."))
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |detail: &str| Err(ApiError::new(ProblemType::UnsupportedMediaType, detail));
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let value = values.next().and_then(|v| v.to_str().ok()).unwrap_or_default();
    if values.next().is_some() || !is_json(value) {
        return wrong("Send the body with Content-Type: application/json.");
    }
    let coded = headers.get_all(header::CONTENT_ENCODING).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        return wrong("Send the body without a Content-Encoding.");
    }
    Ok(())
}

/// `application/json` or `application/*+json`, in UTF-8 if it says which.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let named = match essence.strip_prefix("application/") {
        Some("json") => true,
        Some(subtype) => subtype.strip_suffix("+json").is_some_and(|s| !s.is_empty()),
        None => false,
    };
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    };
    named && parts.all(utf8)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        explain(&path, e.inner())
    })?;
    json.end().map_err(|e| explain(".", &e))?;
    Ok(value)
}

fn explain(path: &str, error: &serde_json::Error) -> Problem {
    let _ = path;
    Problem::new(ProblemType::Malformed, error.to_string())
}
