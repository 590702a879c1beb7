//! Configure a sale: settings into the catalog, stock and what a decision needs into Redis.
//!
//! May write the catalog's sales and a sale's settings in Redis; links no Kafka.

use axum::{extract, http::StatusCode};
use onsale_catalog::{Catalog, PutSale};
use onsale_config::Env;
use onsale_domain::{
    Problem, ProblemType, SaleConfig, SaleSettings, SaleState, SaleView, Timestamp, problem::ProblemDocument,
};
use onsale_http::{Admin, ApiError, Deadline, Json, SalePath};
use onsale_inventory::{Created, Inventory};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What this function touches.
#[derive(Clone)]
pub struct State {
    /// Settings of sales.
    pub catalog: Catalog,
    /// Their stock.
    pub inventory: Inventory,
}

impl State {
    /// From the settings of the environment.
    pub async fn from_env(env: &Env) -> anyhow::Result<Self> {
        Ok(Self { catalog: Catalog::from_env(env).await?, inventory: Inventory::from_env(env)? })
    }
}

/// The routes of this function.
pub fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(configure_sale))
}

/// Put a sale on, or change its settings
///
/// A new sale can be sold the moment this answers (once it opens). Title, prices, window and limits may be changed
/// by sending the whole again; units and currency may not.
#[utoipa::path(
    put,
    path = "/v1/sales/{saleId}",
    tag = "sales",
    security(("bearer" = ["admin"])),
    params(("saleId" = String, Path, description = "`[a-z0-9-]{1,64}`")),
    request_body = SaleConfig,
    responses(
        (status = 200, description = "The sale, with the settings changed", body = SaleView),
        (status = 201, description = "The sale, new", body = SaleView),
        (status = 400, description = "`malformed`: `field` names what is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: not an administrator's token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`stock-fixed`: other units or another currency than the sale has", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`try-again`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn configure_sale(
    extract::State(state): extract::State<State>,
    Admin(_): Admin,
    SalePath(sale): SalePath,
    deadline: Deadline,
    Json(config): Json<SaleConfig>,
) -> Result<(StatusCode, Json<SaleView>), ApiError> {
    let sale = SaleSettings::new(sale, config)?;
    state.inventory.load_library().await.map_err(|e| ApiError::unavailable(STOCK_AWAY, e))?;
    let put = state.catalog.put_sale(&sale).await;
    match put.map_err(|e| ApiError::unavailable("The settings could not be written; send the same again.", e))? {
        PutSale::Created => {
            // The only call that may lay stock without knowing the ledger: whoever made the sale new. If it is
            // lost on its way, the processor lays the sale from the (empty) ledger.
            let not_after = Timestamp::now().plus(deadline.remaining());
            let created = state.inventory.create(&sale, 1, not_after).await;
            match created.map_err(|e| ApiError::unavailable(STOCK_AWAY, e))? {
                Created::Created | Created::Exists => {
                    let available = sale.stock().capacity();
                    Ok((StatusCode::CREATED, Json(SaleView::new(&sale, state_of(&sale), available))))
                }
                Created::Late => Err(Problem::try_again(STOCK_AWAY).into()),
            }
        }
        PutSale::Updated { version } => {
            state.inventory.configure(&sale, version).await.map_err(|e| ApiError::unavailable(STOCK_AWAY, e))?;
            let stock = state.inventory.stock(&sale.id).await.map_err(|e| ApiError::unavailable(STOCK_AWAY, e))?;
            Ok((StatusCode::OK, Json(SaleView::new(&sale, state_of(&sale), stock.free))))
        }
        PutSale::StockFixed => Err(ApiError::new(
            ProblemType::StockFixed,
            "The sale exists with other units or another currency. Both are fixed once a sale exists; use another saleId.",
        )),
    }
}

const STOCK_AWAY: &str =
    "The settings are kept but not in force yet: the stock cannot be reached. Send the same again.";

fn state_of(sale: &SaleSettings) -> SaleState {
    SaleState::at(Timestamp::now(), sale.config().opens_at, sale.config().closes_at, false)
}
