//! Look at a sale and its seats: what a crowd reads while it waits.
//!
//! Reads the catalog and Redis, at most once a second each, however many ask; links no Kafka. Needs no token.

mod seat_map;

use axum::{
    extract,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use moka::future::Cache;
use onsale_catalog::{Catalog, SaleCache};
use onsale_config::Env;
use onsale_domain::{SaleId, SaleState, SaleView, problem::ProblemDocument};
use onsale_http::{ApiError, Json, SalePath};
use onsale_inventory::Inventory;
use seat_map::{RenderedMap, SeatMap};
use std::{sync::Arc, time::Duration};
use utoipa_axum::{router::OpenApiRouter, routes};

/// How old an answer may be. The contract allows clients and edges the same second.
const KEPT: Duration = Duration::from_secs(1);

/// What this function touches.
#[derive(Clone)]
pub struct State {
    sales: SaleCache,
    inventory: Inventory,
    views: Cache<SaleId, SaleView>,
    maps: Cache<SaleId, Arc<RenderedMap>>,
}

impl State {
    /// Over clients of the caller's.
    pub fn new(catalog: Catalog, inventory: Inventory) -> Self {
        Self {
            sales: SaleCache::new(catalog, KEPT),
            inventory,
            views: Cache::builder().max_capacity(1_000).time_to_live(KEPT).build(),
            maps: Cache::builder().max_capacity(200).time_to_live(KEPT).build(),
        }
    }

    /// From the settings of the environment.
    pub async fn from_env(env: &Env) -> anyhow::Result<Self> {
        Ok(Self::new(Catalog::from_env(env).await?, Inventory::from_env(env)?))
    }
}

/// The routes of this function.
pub fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(sale)).routes(routes!(seats))
}

/// Why there is nothing to show. Shared by everybody who waited for the same reading.
#[derive(Debug, Clone, thiserror::Error)]
enum NotShown {
    #[error("there is no such sale")]
    NoSale,
    #[error("the sale has no seats")]
    NoSeats,
    #[error("{0}")]
    Away(Arc<anyhow::Error>),
}

impl NotShown {
    fn away(e: impl Into<anyhow::Error>) -> Self {
        Self::Away(Arc::new(e.into()))
    }
}

/// In words for the caller.
fn answered(why: Arc<NotShown>) -> ApiError {
    match &*why {
        NotShown::NoSale => ApiError::not_found("There is no such sale."),
        NotShown::NoSeats => ApiError::not_found("The sale is general admission: it has no seats."),
        NotShown::Away(_) => ApiError::unavailable("The sale cannot be read at the moment.", NotShown::clone(&why)),
    }
}

/// Look at a sale
///
/// At most a second old, and cacheable for one.
#[utoipa::path(
    get,
    path = "/v1/sales/{saleId}",
    tag = "sales",
    security(()),
    params(("saleId" = String, Path, description = "`[a-z0-9-]{1,64}`")),
    responses(
        (status = 200, description = "The sale", body = SaleView),
        (status = 400, description = "`malformed`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`try-again`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn sale(
    extract::State(state): extract::State<State>,
    SalePath(id): SalePath,
) -> Result<impl IntoResponse, ApiError> {
    let view = state.views.try_get_with_by_ref(&id, read_sale(&state, &id)).await.map_err(answered)?;
    Ok(([(header::CACHE_CONTROL, "public, max-age=1")], Json(view)))
}

async fn read_sale(state: &State, id: &SaleId) -> Result<SaleView, NotShown> {
    let sale = state.sales.sale(id).await.map_err(NotShown::away)?.ok_or(NotShown::NoSale)?;
    let stock = state.inventory.stock(id).await.map_err(NotShown::away)?;
    let is = SaleState::at(stock.now, stock.opens_at, stock.closes_at, stock.paused);
    Ok(SaleView::new(&sale.settings, is, stock.free))
}

/// Look at the seats of a sale
///
/// At most a second old, and cacheable for one. Send the `ETag` back in `If-None-Match` to be told when nothing changed.
#[utoipa::path(
    get,
    path = "/v1/sales/{saleId}/seats",
    tag = "sales",
    security(()),
    params(
        ("saleId" = String, Path, description = "`[a-z0-9-]{1,64}`"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the map at hand"),
    ),
    responses(
        (status = 200, description = "The seats and which of them are taken", body = SeatMap),
        (status = 304, description = "Nothing has changed"),
        (status = 400, description = "`malformed`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`: no such sale, or it has no seats", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`try-again`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn seats(
    extract::State(state): extract::State<State>,
    SalePath(id): SalePath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let map = state.maps.try_get_with_by_ref(&id, read_seats(&state, &id)).await.map_err(answered)?;
    let caching = [(header::CACHE_CONTROL, "public, max-age=1".to_owned()), (header::ETAG, map.etag.clone())];
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    // RFC 9110 §13.1.2: a list of tags, compared weakly, or `*`.
    let unchanged = known
        .flat_map(|v| v.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == map.etag || tag == "*");
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    Ok((caching, [(header::CONTENT_TYPE, "application/json")], map.json.clone()).into_response())
}

async fn read_seats(state: &State, id: &SaleId) -> Result<Arc<RenderedMap>, NotShown> {
    let sale = state.sales.sale(id).await.map_err(NotShown::away)?.ok_or(NotShown::NoSale)?;
    let seating = sale.settings.seating().ok_or(NotShown::NoSeats)?;
    let seats = state.inventory.seats(id).await.map_err(NotShown::away)?;
    SeatMap::new(&sale.settings, seating, &seats).render().map(Arc::new).map_err(NotShown::away)
}
