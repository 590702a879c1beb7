//! The processor as a whole: start, run until told to stop, finish what was begun.

use crate::{
    config::{Settings, Stores},
    consumer::{self, Reading, Signals},
    leader::Leader,
    ledger::Ledger,
    pipeline::Pipeline,
    server::{Operations, router},
    settle::Settler,
};
use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;
use onsale_config::Env;
use onsale_log::{LogEnds, ensure_topics};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// Connections to the ledger: the writer, the leader's lock and steps, the audit, health.
const CONNECTIONS: u32 = 8;

/// Opens the ledger.
pub async fn ledger(settings: &Settings) -> anyhow::Result<Ledger> {
    Ledger::connect(settings.database_url.expose(), CONNECTIONS)
        .await
        .context("DATABASE_URL: the ledger cannot be reached")
}

/// Brings schema, topics and tables to where this version needs them. May be run again, and by several at once.
pub async fn migrate(settings: &Settings, stores: &Stores, ledger: &Ledger) -> anyhow::Result<()> {
    ledger.migrate().await.context("the ledger's schema")?;
    ensure_topics(&settings.log, settings.partitions, settings.replication).await?;
    stores.catalog.ensure_tables().await.context("the catalog's tables")?;
    stores.inventory.load_library().await.context("the inventory library")?;
    Ok(())
}

/// Runs until `stop`. Then: read no more, commit what was read, tell Redis, give up the lead.
pub async fn run(env: &Env, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::from_env(env)?;
    let stores = Stores::from_env(env).await?;
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[
            0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 1000.0, 10_000.0,
        ])?
        .install_recorder()?;
    let ledger = ledger(&settings).await?;
    migrate(&settings, &stores, &ledger).await?;
    let listener = TcpListener::bind(settings.address).await.with_context(|| {
        format!("PROCESSOR_ADDR: {} cannot be listened on; is another processor running?", settings.address)
    })?;

    let signals = Arc::new(Signals::default());
    let (batches, queue) = mpsc::channel(2);
    let reading = Reading {
        group: settings.group.clone(),
        topics: vec![settings.log.topics().reservation],
        batch_size: settings.batch_size,
        linger: settings.batch_linger,
    };
    let reader = consumer::start(&settings.log, reading, ledger.clone(), signals.clone(), batches)?;
    let (settler, settling) = Settler::start(stores.inventory.clone());
    let pipeline =
        Pipeline::new(ledger.clone(), stores.clone(), settings.group.clone(), signals.clone(), settler.clone());
    let writer = {
        let stop = stop.clone();
        tokio::spawn(async move { pipeline.run(queue, stop).await })
    };
    let leader = Leader::new(ledger.clone(), stores.clone(), settings.clone())?;
    let leading = {
        let stop = stop.clone();
        tokio::spawn(async move { leader.run(stop).await })
    };
    let operations = Operations {
        ledger,
        stores,
        ends: LogEnds::new(&settings.log)?,
        signals: signals.clone(),
        metrics: metrics.clone(),
        settings: settings.clone(),
    };
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            metrics.run_upkeep();
        }
    });
    let server = axum::serve(listener, router(operations)).with_graceful_shutdown(stop.clone().cancelled_owned());
    tracing::info!(address = %settings.address, group = %settings.group, "processor.running");

    let served = server.into_future();
    tokio::pin!(served, writer);
    tokio::select! {
        () = stop.cancelled() => {}
        result = &mut served => result.context("the operations server ended")?,
        result = &mut writer => {
            result.context("the writer ended")?;
            anyhow::bail!("the writer ended without being told to");
        }
    }
    tracing::info!("processor.stopping");
    signals.stop();
    // The reader closes the queue, the writer empties it, the settler tells Redis.
    tokio::task::spawn_blocking(move || reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))).await??;
    writer.await.context("the writer")?;
    leading.await.context("the leader")?;
    drop(settler);
    let _ = tokio::time::timeout(Duration::from_secs(5), settling).await;
    Ok(())
}
