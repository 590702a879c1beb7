//! Every function's router in one HTTP server: for local runs, load tests, and a container where Lambda does not suit.

pub mod document;
pub mod server;

use axum::Router;
use onsale_catalog::Catalog;
use onsale_config::Env;
use onsale_http::{Edge, edge};
use onsale_inventory::Inventory;
use onsale_log::Log;
use utoipa_axum::router::OpenApiRouter;

/// The clients that all functions share here. In Lambda each function opens those it needs.
#[derive(Clone)]
pub struct Clients {
    /// Stock.
    pub inventory: Inventory,
    /// The log.
    pub log: Log,
    /// Settings and outcomes.
    pub catalog: Catalog,
}

impl Clients {
    /// From the settings of the environment. Connects lazily: a start does not depend on any store.
    pub async fn from_env(env: &Env) -> anyhow::Result<Self> {
        Ok(Self {
            inventory: Inventory::from_env(env)?,
            log: Log::from_env(env)?,
            catalog: Catalog::from_env(env).await?,
        })
    }
}

/// All functions' routes over the same clients.
fn api(clients: Clients) -> OpenApiRouter {
    let Clients { inventory, log, catalog } = clients;
    let browse = onsale_browse::State::new(catalog.clone(), inventory.clone());
    let configure = onsale_configure::State { catalog: catalog.clone(), inventory: inventory.clone() };
    let reserve = onsale_reserve::State::new(inventory.clone(), log.clone(), catalog.clone());
    let status = onsale_status::State::new(inventory.clone(), catalog.clone());
    let cancel = onsale_cancel::State { inventory, log, catalog };
    OpenApiRouter::with_openapi(document::frame())
        .merge(onsale_configure::routes().with_state(configure))
        .merge(onsale_browse::routes().with_state(browse))
        .merge(onsale_reserve::routes().with_state(reserve))
        .merge(onsale_status::routes().with_state(status))
        .merge(onsale_cancel::routes().with_state(cancel))
}

/// The whole API behind the edge that every function has in Lambda, its document at `/openapi.json`, and what a
/// server needs besides: `/health` and `/metrics`.
pub fn app(clients: Clients, settings: &Edge, metrics: metrics_exporter_prometheus::PrometheusHandle) -> Router {
    let (api, document) = api(clients).split_for_parts();
    let api = api.merge(document::routes(&document)).merge(server::operations(metrics));
    edge(api, settings)
}
