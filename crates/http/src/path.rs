//! Path parameters, parsed into the ids of the domain.
//!
//! An id that cannot be one is malformed (400); one that could be but is not is the handler's 404.

use crate::ApiError;
use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use onsale_domain::{Invalid, ReservationId, SaleId};

/// `{saleId}` of the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalePath(pub SaleId);

/// `{id}` (or `{reservationId}`) of the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationPath(pub ReservationId);

impl<S: Send + Sync> FromRequestParts<S> for SalePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        parameter(parts, state, &["saleId"], SaleId::parse).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ReservationPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        parameter(parts, state, &["id", "reservationId"], ReservationId::parse).await.map(Self)
    }
}

async fn parameter<S: Send + Sync, T>(
    parts: &mut Parts,
    state: &S,
    names: &[&str],
    parse: fn(&str, &str) -> Result<T, Invalid>,
) -> Result<T, ApiError> {
    // The raw parameters are percent-decoded; they fail where that does not give UTF-8.
    let Ok(params) = RawPathParams::from_request_parts(parts, state).await else {
        return Err(Invalid::new(names[0], "must be UTF-8").into());
    };
    let found = params.iter().find(|(name, _)| names.contains(name));
    let (name, value) = found.ok_or_else(|| anyhow::anyhow!("the route has none of the parameters {names:?}"))?;
    Ok(parse(name, value)?)
}
