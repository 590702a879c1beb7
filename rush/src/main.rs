//! `rush` sends a sale a rush of buyers and holds the system to what it answered.
//!
//! Arrivals are open-loop: buyer `i` means to ask at `t0 + i / rate`, whatever the system does, and latency counts
//! from that moment, so that a stall shows in every buyer it delayed. No load-testing crate gave that together with
//! what is checked here. goose's users are closed-loop and it fills in the requests a stall swallowed afterwards, by
//! guess; balter steers its concurrency towards a rate; rlt meters its workers and times an iteration from when it
//! really began; p99gate has the right model, for one and the same request repeated through a given time. None has
//! buyers who come once, each with its own token and key, who retry with the same key, and whose every 202 is kept
//! and held against the API afterwards: with that written, what such a crate would have added is a loop and a
//! histogram.
//!
//! Measure the generator's own ceiling against a server that does nothing (two terminals, release builds):
//!
//! ```text
//! cargo run --release -p rush --example stub
//! ONSALE_JWT_SECRET=… cargo run --release -p rush -- run --sale stub --buyers 500000 --rate 0 \
//!     --gateway http://127.0.0.1:3999 --processor http://127.0.0.1:3999
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod audit;
mod buyer;
mod latency;
mod load;
mod preflight;
mod progress;
mod report;
mod target;
mod token;
mod verify;
mod wire;

use crate::{
    buyer::Plan,
    load::{Rush, Schedule, Settings},
    progress::Stage,
    report::{Asked, Report},
    target::Target,
    token::{Scope, SecretError, Signer},
    verify::Reader,
};
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use onsale_domain::{SaleId, UserId, sale::MAX_PER_USER};
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// Sends a sale a rush of buyers and checks afterwards that every promise was kept.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Both commands sign tokens with ONSALE_JWT_SECRET, which must be the gateway's. Put
localstack/with-env in front to have every local setting:

  localstack/with-env target/release/rush run --sale demo --buyers 20000"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print one bearer token for local use: HS256, signed with ONSALE_JWT_SECRET.
    Token(TokenArgs),
    /// Send a rush of buyers to a general-admission sale, check every 202, print a report.
    ///
    /// Each buyer has its own user, token and idempotency key and asks once for some units. Buyer i means to ask at
    /// t0 + i/rate and latencies count from that moment, so that waiting for a free connection or for a stalled
    /// server is counted and not hidden. What is answered with a 5xx, breaks or takes more than 10 s is asked again
    /// with the same key, as a real buyer would; who knows nothing after the last try is a failure.
    ///
    /// Afterwards each 202 is read back until the ledger has it, a sample is sent again and must be answered byte for
    /// byte as before, no unit may have been given to two buyers, and the processor's audit must be clean.
    Run(RunArgs),
}

/// Arguments of `token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rush token --user alice
  rush token --user root --admin --ttl-seconds 600
  curl -H \"Authorization: Bearer $(rush token --user alice)\" http://127.0.0.1:3000/v1/reservations/ID")]
struct TokenArgs {
    /// Who the token speaks for: 1 to 128 visible ASCII characters.
    #[arg(long, value_parser = UserId::parse)]
    user: UserId,
    /// Give it the scope `admin`, which opens admin routes.
    #[arg(long)]
    admin: bool,
    /// How long it holds.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    ttl_seconds: u64,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 nothing lost, nothing given twice, no failures, audit clean; 1 otherwise; 2 wrong usage.

Examples:
  rush run --sale demo --buyers 20000                  a crowd at 5,000 per second
  rush run --sale demo --buyers 20000 --rate 0         all in the same moment
  rush run --sale demo --buyers 500 --quantity 4       four units each
  rush run --sale demo --buyers 1000 --json | jq .latencyMs.accepted.p99")]
struct RunArgs {
    /// The sale; it must exist and sell general admission.
    #[arg(long)]
    sale: SaleId,
    /// How many buyers come.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    buyers: u32,
    /// How many come per second, evenly spaced; 0: all at once, as fast as the connections allow.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// How many kept-alive connections they share.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// How many units each buyer asks for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PER_USER)))]
    quantity: u32,
    /// How often a buyer asks again when nothing is known.
    #[arg(long, default_value_t = 3)]
    retries: u32,
    /// How long to wait until everything accepted is in the ledger.
    #[arg(long, default_value_t = 60)]
    settle_seconds: u64,
    /// How long to wait for a clean audit.
    #[arg(long, default_value_t = 10)]
    audit_seconds: u64,
    /// The gateway, on a loopback address.
    #[arg(long, env = "GATEWAY_ADDR", default_value = "http://127.0.0.1:3000", value_parser = Target::parse)]
    gateway: Target,
    /// The stream-processor, on a loopback address; its audit is asked for.
    #[arg(long, env = "PROCESSOR_ADDR", default_value = "http://127.0.0.1:9100", value_parser = Target::parse)]
    processor: Target,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Token(args) => token(&args),
        Command::Run(args) => run(args).await,
    };
    result.unwrap_or_else(|e| {
        eprintln!("rush: {e:#}");
        // A missing secret is a mistake in the call, not a finding about the system.
        ExitCode::from(if e.is::<SecretError>() { 2 } else { 1 })
    })
}

fn token(args: &TokenArgs) -> Result<ExitCode> {
    let scope = args.admin.then_some(Scope::Admin);
    let token = Signer::from_env()?.sign(args.user.as_str(), scope, Duration::from_secs(args.ttl_seconds))?;
    print(&format!("{token}\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(args: RunArgs) -> Result<ExitCode> {
    let signer = Signer::from_env()?;
    let json = args.json;
    let report = rush(args, &signer).await?;
    print(&if json { format!("{}\n", serde_json::to_string(&report)?) } else { report.to_string() })?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// One rush from first to last.
async fn rush(args: RunArgs, signer: &Signer) -> Result<Report> {
    let RunArgs { sale, buyers, rate, connections, quantity, retries, gateway, processor, .. } = args;
    let run = format!("{:08x}", rand::random::<u32>());

    let visitor = buyer::gather(signer, &format!("{run}-visitor"), 1, &progress::Counts::default())?;
    preflight::check(&gateway, &sale, &visitor[0]).await?;

    let stage = Stage::start("tokens", buyers.into());
    let crowd = Arc::new(buyer::gather(signer, &run, buyers, &stage.counts)?);
    drop(stage);

    let stage = Stage::start("rush", buyers.into());
    let settings = Settings {
        gateway: gateway.clone(),
        plan: Plan::new(&gateway, sale.clone(), quantity)?,
        buyers: Arc::clone(&crowd),
        schedule: Schedule::new(rate),
        connections,
        retries,
    };
    let (rush, mut workers) = Rush::start(settings, Arc::clone(&stage.counts)).await?;
    let reader = Reader {
        gateway: gateway.clone(),
        buyers: Arc::clone(&crowd),
        patience: Duration::from_secs(args.settle_seconds),
    };
    let watch = tokio::spawn(reader.clone().watch(Arc::clone(&rush)));
    while let Some(worker) = workers.join_next().await {
        worker.context("a connection's task failed")?;
    }
    drop(stage);
    let watch = watch.await.context("the watch at the ledger failed")?;

    let accepted = std::mem::take(&mut rush.tally().accepted);
    let stage = Stage::start("ledger", accepted.len() as u64);
    let ledger = reader.check(&rush, watch, &accepted, &stage.counts).await;
    drop(stage);
    let stage = Stage::start("replays", verify::replays_of(&accepted));
    let plan = Plan::new(&gateway, sale.clone(), quantity)?;
    let replays = verify::replay(&gateway, &plan, &crowd, &accepted, &stage.counts).await;
    drop(stage);
    let audit = audit::audit(&processor, &sale, Duration::from_secs(args.audit_seconds)).await;

    let given_twice = verify::given_twice(&accepted);
    let asked = Asked { sale, run, buyers, rate, connections, quantity, retries };
    let mut tally = rush.tally();
    tally.accepted = accepted;
    Ok(Report::new(asked, &tally, ledger, given_twice, replays, audit))
}

/// Writes to stdout; a reader that has gone away is an error and no panic.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}
