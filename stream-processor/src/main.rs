//! The stream-processor's command line.

use clap::{Parser, Subcommand};
use onsale_config::Env;
use onsale_domain::SaleId;
use onsale_http::telemetry;
use onsale_log::LogEnds;
use std::process::ExitCode;
use stream_processor::{
    audit::audit,
    config::{Settings, Stores},
    run,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Takes Onsale's log into its ledger, and looks after what lies between the two.
///
/// Settings come from the environment; `localstack/local.env` lists every one with its local value.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  stream-processor run\n  stream-processor migrate\n  stream-processor audit\n  stream-processor audit --sale demo --json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume, write, relay, bless: until SIGTERM or SIGINT, then finish what was begun.
    ///
    /// Creates or updates schema, topics and tables first. Several may run: they share the partitions, and one of them
    /// leads. `/health`, `/metrics` and `/audit` listen on PROCESSOR_ADDR.
    Run,
    /// Create or update the ledger's schema, the topics, the tables and the inventory library, then exit. Idempotent.
    Migrate,
    /// Check that Redis, log and ledger tell the same story. Works on a live system.
    ///
    /// Per sale, held + confirmed + pending + returning + free must be its capacity, no unit may have two owners, Redis
    /// and ledger must agree. Exit code 0: clean; 1: something was found, and is named; 2: it could not be taken.
    Audit {
        /// Only this sale.
        #[arg(long)]
        sale: Option<SaleId>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let env = Env::from_process();
    let result = match arguments.command {
        Command::Run => start(&env).await.map(|()| ExitCode::SUCCESS),
        Command::Migrate => migrate(&env).await.map(|()| ExitCode::SUCCESS),
        Command::Audit { sale, json } => print_audit(&env, sale.as_ref(), json).await,
    };
    result.unwrap_or_else(|e| {
        eprintln!("stream-processor: {e:#}");
        ExitCode::from(2)
    })
}

async fn start(env: &Env) -> anyhow::Result<()> {
    telemetry::init("stream-processor", env)?;
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        told.cancel();
    });
    run::run(env, stop).await
}

async fn migrate(env: &Env) -> anyhow::Result<()> {
    telemetry::init("stream-processor", env)?;
    let (settings, stores) = (Settings::from_env(env)?, Stores::from_env(env).await?);
    let ledger = run::ledger(&settings).await?;
    run::migrate(&settings, &stores, &ledger).await?;
    tracing::info!("migrate.done");
    Ok(())
}

#[allow(clippy::print_stdout)] // what it is asked to print
async fn print_audit(env: &Env, sale: Option<&SaleId>, json: bool) -> anyhow::Result<ExitCode> {
    let (settings, stores) = (Settings::from_env(env)?, Stores::from_env(env).await?);
    let ledger = run::ledger(&settings).await?;
    let ends = LogEnds::new(&settings.log)?;
    let topics = [settings.log.topics().reservation];
    let report = audit(&ledger, &stores, &ends, &topics, &settings.group, sale).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
