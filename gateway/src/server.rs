//! The HTTP server: bounded connections, headers and time, and a shutdown that finishes what it began.

use axum::{Router, routing::get};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

/// What one server takes on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// How long a client may take to send its request's head.
    pub header_timeout: Duration,
    /// How long requests under way may take to finish once the server is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, header_timeout: Duration::from_secs(10), drain: Duration::from_secs(10) }
    }
}

/// `/health` and `/metrics`.
pub(crate) fn operations(metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/metrics", get(move || std::future::ready(metrics.render())))
}

/// Serves `app` until `stop` resolves, then takes no more connections and lets requests under way finish.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(64 * 1024)
        .max_headers(64);
    let builder = Arc::new(builder.http1_only());
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, slot))
        };
        let (stream, slot) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => match accepted {
                Some((Ok((stream, _)), slot)) => (stream, slot),
                Some((Err(e), _)) => {
                    // Out of file descriptors, or the client was gone: the listener itself is well.
                    tracing::warn!(error = %e, "accept.failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                None => break,
            },
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(app.clone());
        let builder = builder.clone();
        let watcher = connections.watcher();
        tokio::spawn(async move {
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            if let Err(e) = watcher.watch(connection).await {
                tracing::debug!(error = %e, "connection.ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, connections.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the time to finish was over");
    }
}
