//! Running a router as a Lambda function.

use crate::{Edge, Env, edge, telemetry};
use anyhow::Context as _;
use axum::Router;
use std::{future::Future, process::ExitCode};

/// The whole `main` of a function: logging, settings, the router, its edge, and then Lambda's events until the
/// end. `build` makes the function's router from the environment. A failure is logged and gives a
/// non-zero exit code.
pub fn start<F, Fut>(function: &'static str, build: F) -> ExitCode
where
    F: FnOnce(Env) -> Fut,
    Fut: Future<Output = anyhow::Result<Router>>,
{
    let env = Env::from_process();
    let outcome = telemetry::init(function, &env).map_err(anyhow::Error::from).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")?;
        runtime.block_on(async {
            let settings = Edge::from_env(&env).await?;
            let router = build(env).await?;
            run(edge(router, &settings)).await.map_err(|e| anyhow::anyhow!("the Lambda runtime ended: {e}"))
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), function, "not started");
            ExitCode::FAILURE
        }
    }
}

/// Serves Lambda's events with `router`, which has its [`edge`] already.
pub async fn run(router: Router) -> Result<(), lambda_http::Error> {
    lambda_http::run(router).await
}
