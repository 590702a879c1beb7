//! How a reservation stands: a live one from Redis, a finished one from the catalog's outcomes.
//!
//! Reads Redis and the catalog; links no Kafka.

use axum::extract;
use onsale_catalog::{Catalog, SaleCache};
use onsale_config::Env;
use onsale_domain::{Outcome, Reservation, ReservationId, Seating, Unit, UserId, problem::ProblemDocument};
use onsale_http::{ApiError, Caller, Json, ReservationPath};
use onsale_inventory::{HoldRecord, Inventory};
use std::time::Duration;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What this function touches.
#[derive(Clone)]
pub struct State {
    inventory: Inventory,
    catalog: Catalog,
    sales: SaleCache,
}

impl State {
    /// Over clients of the caller's.
    pub fn new(inventory: Inventory, catalog: Catalog) -> Self {
        Self { inventory, sales: SaleCache::new(catalog.clone(), Duration::from_secs(60)), catalog }
    }

    /// From the settings of the environment.
    pub async fn from_env(env: &Env) -> anyhow::Result<Self> {
        Ok(Self::new(Inventory::from_env(env)?, Catalog::from_env(env).await?))
    }
}

/// The routes of this function.
pub fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(reservation))
}

/// Look at a reservation of yours
///
/// `recorded` says whether the ledger has it. Somebody else's reservation is not found.
#[utoipa::path(
    get,
    path = "/v1/reservations/{id}",
    tag = "reservations",
    params(("id" = String, Path, description = "As it was given out: `<saleId>.<uuid>`")),
    responses(
        (status = 200, description = "As it now stands", body = Reservation),
        (status = 400, description = "`malformed`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`: none of yours has this id", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`try-again`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn reservation(
    extract::State(state): extract::State<State>,
    Caller { user, .. }: Caller,
    ReservationPath(id): ReservationPath,
) -> Result<Json<Reservation>, ApiError> {
    const AWAY: &str = "The reservation cannot be read at the moment. It is not lost; ask again.";
    let sale = state.sales.sale(&id.sale).await.map_err(|e| ApiError::unavailable(AWAY, e))?;
    let sale = sale.ok_or_else(not_found)?;
    let seating = sale.settings.seating();
    let live = state.inventory.hold(&id).await;
    if let Ok(Some((hold, recorded))) = live {
        return shown(&user, &hold.user.clone(), || live_view(hold, recorded, seating));
    }
    // A record leaves Redis only after its outcome is in the catalog, so what Redis does not have is there or
    // nowhere. It is also there for whoever asks while Redis is away.
    match state.catalog.outcome(&id).await {
        Ok(Some(outcome)) => shown(&user, &outcome.user_id.clone(), || finished_view(id, outcome, seating)),
        Ok(None) => match live {
            Ok(_) => Err(not_found()),
            Err(e) => Err(ApiError::unavailable(AWAY, e)),
        },
        Err(e) => Err(ApiError::unavailable(AWAY, e)),
    }
}

/// Another's reservation looks like none, or ids could be tried out.
fn shown(caller: &UserId, owner: &UserId, view: impl FnOnce() -> Reservation) -> Result<Json<Reservation>, ApiError> {
    if caller == owner { Ok(Json(view())) } else { Err(not_found()) }
}

fn not_found() -> ApiError {
    ApiError::not_found("None of your reservations has this id.")
}

fn live_view(hold: HoldRecord, recorded: bool, seating: Option<&Seating>) -> Reservation {
    Reservation {
        sale_id: hold.id.sale.clone(),
        reservation_id: hold.id,
        state: hold.state,
        units: Unit::list(&hold.units, seating),
        expires_at: hold.expires_at,
        amount: hold.amount,
        recorded: Some(recorded),
    }
}

fn finished_view(id: ReservationId, outcome: Outcome, seating: Option<&Seating>) -> Reservation {
    Reservation {
        sale_id: id.sale.clone(),
        reservation_id: id,
        state: outcome.state,
        units: Unit::list(&outcome.units, seating),
        expires_at: outcome.expires_at,
        amount: outcome.amount,
        recorded: Some(true),
    }
}
