//! Waiting for what another process does.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long anything may take. Far beyond what it does take, so that a loaded machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks `probe` until it has what was waited for. Its error is what there is instead; after [`PATIENCE`] the test fails
/// with that and with `what` was waited for.
pub async fn eventually<T, E: Debug>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, E>) -> T {
    let give_up = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(10);
    loop {
        let instead = match probe().await {
            Ok(found) => return found,
            Err(instead) => instead,
        };
        assert!(Instant::now() < give_up, "waited {PATIENCE:?} for this: {what}; instead: {instead:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
