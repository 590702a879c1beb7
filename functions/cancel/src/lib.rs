//! Cancel: the owner gives a reservation up. The ledger decides; until it has, the units stay taken.
//!
//! One Redis call, then the log. Reads the catalog for what Redis no longer has.

use axum::{extract, http::StatusCode};
use onsale_catalog::Catalog;
use onsale_config::Env;
use onsale_domain::{
    Cancel, Command, Problem, ProblemType, ReservationId, ReservationState, UserId, problem::ProblemDocument,
};
use onsale_http::{ApiError, Caller, Deadline, ReservationPath};
use onsale_inventory::{Cancelled, Inventory, InventoryError};
use onsale_log::Log;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

/// What this function touches.
#[derive(Clone)]
pub struct State {
    /// Where the wish is accepted.
    pub inventory: Inventory,
    /// Where it is written.
    pub log: Log,
    /// What finished reservations became.
    pub catalog: Catalog,
}

impl State {
    /// From the settings of the environment.
    pub async fn from_env(env: &Env) -> anyhow::Result<Self> {
        Ok(Self {
            inventory: Inventory::from_env(env)?,
            log: Log::from_env(env)?,
            catalog: Catalog::from_env(env).await?,
        })
    }
}

/// The routes of this function.
pub fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(cancel))
}

/// Give a reservation up
///
/// 202 means that the wish is in the log; the reservation reads `cancelled` once the ledger has decided. Sent again,
/// it changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/reservations/{id}",
    tag = "reservations",
    params(("id" = String, Path, description = "As it was given out: `<saleId>.<uuid>`")),
    responses(
        (status = 202, description = "Accepted, now or before"),
        (status = 400, description = "`malformed`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`: none of yours has this id", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "`expired`: it had ended otherwise before", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`try-again`: send the same again", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn cancel(
    extract::State(state): extract::State<State>,
    Caller { user, .. }: Caller,
    ReservationPath(id): ReservationPath,
    deadline: Deadline,
) -> Result<StatusCode, ApiError> {
    state.log.permit().map_err(|e| ApiError::unavailable(TRY_AGAIN, e))?;
    let cancelled = match state.inventory.cancel(&id, &user, Uuid::now_v7()).await {
        Ok(cancelled) => cancelled,
        // Redis has nothing of the sale. What has finished can be told all the same; whether it is a sale at all
        // the catalog knows.
        Err(InventoryError::Absent(_)) => return state.absent(&id, &user).await,
        Err(e) => return Err(ApiError::unavailable(TRY_AGAIN, e)),
    };
    match cancelled {
        Cancelled::Accepted { hold, command, epoch, at, recorded, hold_recorded } => {
            metrics::counter!("onsale_cancels_accepted_total").increment(1);
            let mut commands = Vec::with_capacity(2);
            if !hold_recorded {
                // The log must never have a cancel without its hold; that it has the hold twice does no harm.
                commands.push(Command::Hold(hold.event()));
            }
            if !recorded {
                let (reservation_id, user_id) = (id, user);
                commands.push(Command::Cancel(Cancel { id: command, epoch, occurred_at: at, reservation_id, user_id }));
            }
            for command in &commands {
                state.log.append(command, deadline.instant()).await.map_err(|e| ApiError::unavailable(TRY_AGAIN, e))?;
            }
            if deadline.passed() { Err(Problem::try_again(TRY_AGAIN).into()) } else { Ok(StatusCode::ACCEPTED) }
        }
        Cancelled::Ended(hold) => ended(hold.state),
        Cancelled::Unknown => match state.finished(&id, &user).await? {
            Some(how) => ended(how),
            None => Err(not_found()),
        },
    }
}

const TRY_AGAIN: &str = "The cancellation may not have been taken down. Send the same again.";

impl State {
    /// How the user's reservation ended, if it has.
    async fn finished(&self, id: &ReservationId, user: &UserId) -> Result<Option<ReservationState>, ApiError> {
        let outcome = self.catalog.outcome(id).await.map_err(|e| ApiError::unavailable(TRY_AGAIN, e))?;
        Ok(outcome.filter(|o| o.user_id == *user).map(|o| o.state))
    }

    async fn absent(&self, id: &ReservationId, user: &UserId) -> Result<StatusCode, ApiError> {
        if let Some(how) = self.finished(id, user).await? {
            return ended(how);
        }
        match self.catalog.sale(&id.sale).await {
            Ok(None) => Err(not_found()),
            Ok(Some(_)) => Err(Problem::try_again(TRY_AGAIN).into()),
            Err(e) => Err(ApiError::unavailable(TRY_AGAIN, e)),
        }
    }
}

fn not_found() -> ApiError {
    ApiError::not_found("None of your reservations has this id.")
}

fn ended(how: ReservationState) -> Result<StatusCode, ApiError> {
    match how {
        ReservationState::Cancelled => Ok(StatusCode::ACCEPTED),
        ReservationState::Expired => {
            Err(ApiError::new(ProblemType::Expired, "The hold expired; its units are free again."))
        }
        ReservationState::Rejected => {
            Err(ApiError::new(ProblemType::Expired, "The reservation was rejected; there is nothing to cancel."))
        }
        // Confirmed in the catalog but not in Redis: Redis is being laid anew.
        ReservationState::Held | ReservationState::Confirmed => Err(Problem::try_again(TRY_AGAIN).into()),
    }
}
