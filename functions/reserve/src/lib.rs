//! Reserve: the accept path. One Redis call decides, one acknowledged record in the log stands behind the 202.
//!
//! Reads the catalog only for what Redis need not know: the labels of seats (kept in memory; they never change) and
//! whether a sale that Redis does not have exists at all.

use axum::{
    extract,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use onsale_catalog::{Catalog, Sale, SaleCache};
use onsale_config::Env;
use onsale_domain::{
    Command, Invalid, Problem, ProblemType, Reservation, ReservationId, ReservationState, SaleId, Seating, Unit,
    UnitNumber, UserId, problem::ProblemDocument, sale::MAX_PER_USER,
};
use onsale_http::{ApiError, Caller, Deadline, Json, RequiredIdempotencyKey, SalePath, fingerprint, key_digest};
use onsale_inventory::{Accepted, Inventory, InventoryError, Reserve, Reserved, Wanted};
use onsale_log::Log;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What this function touches.
#[derive(Clone)]
pub struct State {
    inventory: Inventory,
    log: Log,
    sales: SaleCache,
}

impl State {
    /// Over clients of the caller's.
    pub fn new(inventory: Inventory, log: Log, catalog: Catalog) -> Self {
        Self { inventory, log, sales: SaleCache::new(catalog, Duration::from_secs(60)) }
    }

    /// From the settings of the environment.
    pub async fn from_env(env: &Env) -> anyhow::Result<Self> {
        Ok(Self::new(Inventory::from_env(env)?, Log::from_env(env)?, Catalog::from_env(env).await?))
    }
}

/// The routes of this function.
pub fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(reserve))
}

/// What is to be reserved: either a number of equal units, or seats by their labels. All of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReserveRequest {
    /// General admission: 1 up to the sale's `perUserLimit`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub quantity: Option<u32>,
    /// Seats by their labels, each once.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 100, example = json!(["A-1-1", "A-1-2"]))]
    pub seats: Option<Vec<String>>,
}

/// Reserve units
///
/// 202 means that the units are yours until `expiresAt` and that the event is in the log. The same `Idempotency-Key`
/// brings the same answer for 24 hours; after 503 or silence send the same request with the same key.
#[utoipa::path(
    post,
    path = "/v1/sales/{saleId}/reservations",
    tag = "reservations",
    params(
        ("saleId" = String, Path, description = "`[a-z0-9-]{1,64}`"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, bare or in double quotes"),
    ),
    request_body = ReserveRequest,
    responses(
        (status = 202, description = "Held", body = Reservation, headers(
            ("Location" = String, description = "Where to read it"),
            ("Idempotent-Replayed" = bool, description = "`true` where this key was answered before"),
        )),
        (status = 400, description = "`malformed`: `field` names what is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`not-admitted`: the sale has a waiting room", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`: no such sale", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`sold-out`, `seat-taken`, `limit-reached` (`holds` lists the caller's live ones) or `not-open`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency-key-reused`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`try-again`: send the same again with the same key", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn reserve(
    extract::State(state): extract::State<State>,
    Caller { user, .. }: Caller,
    SalePath(sale): SalePath,
    RequiredIdempotencyKey(key): RequiredIdempotencyKey,
    deadline: Deadline,
    Json(request): Json<ReserveRequest>,
) -> Result<Response, ApiError> {
    let (wanted, seats_of) = state.wanted(&sale, request).await?;
    let seating = seats_of.as_ref().and_then(|sale| sale.settings.seating());
    state.log.permit().map_err(|e| ApiError::unavailable(TRY_AGAIN, e))?;
    let reserved = state
        .inventory
        .reserve(&Reserve {
            id: &ReservationId::generate(sale.clone()),
            user: &user,
            key_digest: key_digest(&user, "reserve", &key),
            fingerprint: fingerprint(&canonical(&sale, &wanted)),
            wanted: &wanted,
        })
        .await;
    let reserved = match reserved {
        Ok(reserved) => reserved,
        Err(InventoryError::Absent(_)) => return Err(state.absent(&sale).await),
        Err(e) => return Err(ApiError::unavailable(TRY_AGAIN, e)),
    };
    metrics::counter!("onsale_reserve_decisions_total", "decision" => decision(&reserved)).increment(1);
    match reserved {
        Reserved::Accepted(accepted) => state.answer(accepted, false, false, &user, seating, deadline).await,
        Reserved::Replay { accepted, recorded } => {
            state.answer(accepted, true, recorded, &user, seating, deadline).await
        }
        refused => Err(refusal(refused, &sale, seating)),
    }
}

const TRY_AGAIN: &str =
    "Nothing can be promised at the moment. Send the same request with the same Idempotency-Key again.";

impl State {
    /// What the request asks for, by number; and the sale, where seats are asked for.
    async fn wanted(&self, sale: &SaleId, request: ReserveRequest) -> Result<(Wanted, Option<Arc<Sale>>), ApiError> {
        match (request.quantity, request.seats) {
            (Some(n), None) if (1..=MAX_PER_USER).contains(&n) => Ok((Wanted::Quantity(n), None)),
            (Some(_), None) => Err(Invalid::new("quantity", format!("must be 1 to {MAX_PER_USER}")).into()),
            (None, Some(labels)) => {
                let found = self.sales.sale(sale).await.map_err(|e| ApiError::unavailable(TRY_AGAIN, e))?;
                let found = found.ok_or_else(no_such_sale)?;
                let seating = found.settings.seating();
                let seating = seating.ok_or_else(|| Invalid::new("seats", "the sale has no seats: send a quantity"))?;
                let units = seat_numbers(seating, &labels)?;
                Ok((Wanted::Units(units), Some(found)))
            }
            (None, None) => Err(Invalid::new("quantity", "either quantity or seats must be given").into()),
            (Some(_), Some(_)) => Err(Invalid::new("seats", "only one of quantity and seats may be given").into()),
        }
    }

    /// 202, once the log has it.
    async fn answer(
        &self,
        accepted: Accepted,
        replayed: bool,
        recorded: bool,
        user: &UserId,
        seating: Option<&Seating>,
        deadline: Deadline,
    ) -> Result<Response, ApiError> {
        if !recorded {
            // Not acknowledged: nothing is given back. The entry stays pending, so that the same key or the relay
            // writes it again; giving back what the log may have would sell it twice.
            let hold = Command::Hold(accepted.event(user));
            self.log.append(&hold, deadline.instant()).await.map_err(|e| ApiError::unavailable(TRY_AGAIN, e))?;
        }
        if deadline.passed() {
            return Err(Problem::try_again(TRY_AGAIN).into());
        }
        let location = format!("/v1/reservations/{}", accepted.id);
        let body = Reservation {
            sale_id: accepted.id.sale.clone(),
            reservation_id: accepted.id,
            state: ReservationState::Held,
            units: Unit::list(&accepted.units, seating),
            expires_at: accepted.expires_at,
            amount: accepted.amount,
            recorded: None,
        };
        let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response();
        if replayed {
            let name = HeaderName::from_static("idempotent-replayed");
            response.headers_mut().insert(name, header::HeaderValue::from_static("true"));
        }
        Ok(response)
    }

    /// Redis has nothing of this sale: either there is none, or Redis lost it.
    async fn absent(&self, sale: &SaleId) -> ApiError {
        match self.sales.sale(sale).await {
            Ok(None) => no_such_sale(),
            Ok(Some(_)) => Problem::try_again(TRY_AGAIN).into(),
            Err(e) => ApiError::unavailable(TRY_AGAIN, e),
        }
    }
}

fn no_such_sale() -> ApiError {
    ApiError::not_found("There is no such sale.")
}

/// The numbers of seats, ascending.
fn seat_numbers(seating: &Seating, labels: &[String]) -> Result<Vec<UnitNumber>, Invalid> {
    if labels.is_empty() || labels.len() > MAX_PER_USER as usize {
        return Err(Invalid::new("seats", format!("must name 1 to {MAX_PER_USER} seats")));
    }
    let mut units = Vec::with_capacity(labels.len());
    for (i, label) in labels.iter().enumerate() {
        let unit =
            seating.number(label).ok_or_else(|| Invalid::new(format!("seats[{i}]"), "is not a seat of this sale"))?;
        units.push(unit);
    }
    units.sort_unstable();
    if units.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Invalid::new("seats", "must name each seat once"));
    }
    Ok(units)
}

/// The same bytes for the same wish, however it was written.
fn canonical(sale: &SaleId, wanted: &Wanted) -> Vec<u8> {
    match wanted {
        Wanted::Quantity(n) => format!("{sale} quantity {n}").into_bytes(),
        Wanted::Units(units) => format!("{sale} units {units:?}").into_bytes(),
    }
}

fn decision(reserved: &Reserved) -> &'static str {
    match reserved {
        Reserved::Accepted(_) => "accepted",
        Reserved::Replay { .. } => "replayed",
        Reserved::KeyReused => "idempotency-key-reused",
        Reserved::NotOpen { .. } | Reserved::Closed | Reserved::Paused => "not-open",
        Reserved::NotAdmitted => "not-admitted",
        Reserved::LimitReached { .. } => "limit-reached",
        Reserved::SoldOut { .. } => "sold-out",
        Reserved::Taken(_) => "seat-taken",
        Reserved::NoSuchUnit | Reserved::Seated => "malformed",
        Reserved::Drift => "drift",
    }
}

/// A decision against the caller, in words. Sold out is an answer, not an error.
fn refusal(reserved: Reserved, sale: &SaleId, seating: Option<&Seating>) -> ApiError {
    let problem = match reserved {
        Reserved::KeyReused => Problem::new(
            ProblemType::IdempotencyKeyReused,
            "This Idempotency-Key was used for another request. Send a new key with a new request.",
        ),
        Reserved::NotOpen { opens_at } => Problem::new(ProblemType::NotOpen, format!("The sale opens at {opens_at}."))
            .with("opensAt", opens_at.to_string()),
        Reserved::Closed => Problem::new(ProblemType::NotOpen, "The sale has closed."),
        Reserved::Paused => Problem::new(ProblemType::NotOpen, "The sale is paused. Try again in a while."),
        Reserved::NotAdmitted => Problem::new(
            ProblemType::NotAdmitted,
            format!("This sale has a waiting room: take a place with POST /v1/sales/{sale}/queue."),
        ),
        Reserved::LimitReached { limit, holds } => {
            let holds = holds
                .into_iter()
                .map(|h| serde_json::json!({"reservationId": h.reservation_id, "quantity": h.quantity}))
                .collect::<Vec<_>>();
            Problem::new(
                ProblemType::LimitReached,
                format!("A user may hold {limit} units of this sale at most. Cancel one of the holds to take others."),
            )
            .with("holds", holds)
        }
        Reserved::SoldOut { free: 0 } => Problem::new(ProblemType::SoldOut, "No unit is free.").with("available", 0),
        Reserved::SoldOut { free } => {
            Problem::new(ProblemType::SoldOut, format!("Only {free} units are free.")).with("available", free)
        }
        Reserved::Taken(units) => {
            let labels: Vec<_> = units.iter().filter_map(|n| seating.and_then(|s| s.label(*n))).collect();
            Problem::new(ProblemType::SeatTaken, format!("Taken: {}.", labels.join(", "))).with("seats", labels)
        }
        Reserved::NoSuchUnit => Invalid::new("seats", "names a seat that the sale does not have").into(),
        Reserved::Seated => Invalid::new("quantity", "the sale has seats: name them in seats").into(),
        Reserved::Drift => {
            return ApiError::unavailable(
                TRY_AGAIN,
                anyhow::anyhow!("sale {sale}: redis counts free units that it does not have"),
            );
        }
        Reserved::Accepted(_) | Reserved::Replay { .. } => {
            return ApiError::Internal(anyhow::anyhow!("an acceptance is not a refusal"));
        }
    };
    problem.into()
}
