//! The gateway: all of Onsale's HTTP API in one server.

use anyhow::Context;
use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;
use onsale_config::Env;
use onsale_gateway::{Clients, app, document::document, server};
use onsale_http::{Edge, telemetry};
use std::{net::SocketAddr, process::ExitCode};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// All of Onsale's HTTP API in one server.
///
/// Settings come from the environment; `localstack/local.env` lists every one with its local value. The server stops
/// on SIGTERM or SIGINT, after the requests under way.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  gateway\n  GATEWAY_ADDR=127.0.0.1:3001 gateway\n  gateway --print-openapi > openapi.json"
)]
struct Arguments {
    /// Print the API document (OpenAPI, JSON) and exit.
    #[arg(long)]
    print_openapi: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.print_openapi { print_openapi() } else { serve() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gateway: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)] // what it is asked to print
fn print_openapi() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&document())?);
    Ok(())
}

#[tokio::main]
async fn serve() -> anyhow::Result<()> {
    let env = Env::from_process();
    telemetry::init("gateway", &env)?;
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])?
        .install_recorder()?;
    let address: SocketAddr = env.or("GATEWAY_ADDR", SocketAddr::from(([127, 0, 0, 1], 3000)))?;
    let limits = server::Limits {
        connections: env.within("ONSALE_MAX_CONNECTIONS", 10_000, 1..=1_000_000)?,
        ..Default::default()
    };
    let edge = Edge::from_env(&env).await?.max_in_flight(env.within("ONSALE_MAX_IN_FLIGHT", 1024, 1..=100_000)?);
    let app = app(Clients::from_env(&env).await?, &edge, metrics.clone());
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("GATEWAY_ADDR: {address} cannot be listened on; is another gateway running?"))?;
    tokio::spawn(async move {
        // Histograms keep their samples until somebody asks or this sweeps them.
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            metrics.run_upkeep();
        }
    });
    tracing::info!(%address, "gateway.listening");
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("gateway.stopping");
    };
    server::serve(listener, app, limits, stop).await;
    Ok(())
}
