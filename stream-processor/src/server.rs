//! `/health`, `/metrics` and `/audit` of a running processor.

use crate::{
    audit::{Report, audit},
    config::{Settings, Stores},
    consumer::Signals,
    ledger::Ledger,
};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use onsale_domain::SaleId;
use onsale_log::LogEnds;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// What the operations pages look at.
#[derive(Clone)]
pub struct Operations {
    /// The ledger.
    pub ledger: Ledger,
    /// The stores around it.
    pub stores: Stores,
    /// Its settings.
    pub settings: Settings,
    /// Where the log ends.
    pub ends: LogEnds,
    /// What the reading side is doing.
    pub signals: Arc<Signals>,
    /// The metrics.
    pub metrics: PrometheusHandle,
}

/// The routes.
pub fn router(operations: Operations) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(|State(o): State<Operations>| std::future::ready(o.metrics.render())))
        .route("/audit", get(report))
        .with_state(operations)
}

/// Healthy: the ledger answers. A processor without partitions is healthy too: another has them.
async fn health(State(o): State<Operations>) -> (StatusCode, String) {
    let asked = sqlx::query("select 1").execute(o.ledger.pool());
    match tokio::time::timeout(Duration::from_secs(2), asked).await {
        Ok(Ok(_)) => (StatusCode::OK, format!("ok, {} partitions\n", o.signals.assigned())),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the ledger does not answer\n".into()),
    }
}

#[derive(Deserialize)]
struct Which {
    sale: Option<String>,
}

/// The audit, of all sales or of `?sale=`. 200 also where it finds something: the answer is in the body.
async fn report(State(o): State<Operations>, Query(which): Query<Which>) -> Response {
    let sale = match which.sale.map(|s| SaleId::parse("sale", &s)).transpose() {
        Ok(sale) => sale,
        Err(e) => return (StatusCode::BAD_REQUEST, format!("{e}\n")).into_response(),
    };
    match run(&o, sale.as_ref()).await {
        Ok(report) => Json(report).into_response(),
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), "audit.failed");
            (StatusCode::SERVICE_UNAVAILABLE, "the audit could not be taken; the log says why\n").into_response()
        }
    }
}

async fn run(o: &Operations, sale: Option<&SaleId>) -> anyhow::Result<Report> {
    let topics = [o.settings.log.topics().reservation];
    audit(&o.ledger, &o.stores, &o.ends, &topics, &o.settings.group, sale).await
}
