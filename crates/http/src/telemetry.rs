//! Logs: structured, to standard output.

use crate::{ConfigError, Env};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging: `RUST_LOG` filters (default `info`), `LOG_FORMAT` is `json` or `text` (default: text on a
/// terminal, JSON elsewhere). A second call in one process changes nothing.
pub fn init(service: &'static str, env: &Env) -> Result<(), ConfigError> {
    let filter = env.or("RUST_LOG", "info".to_owned())?;
    let filter = EnvFilter::try_new(filter)
        .map_err(|_| ConfigError::new("RUST_LOG", "must be a log filter such as info or onsale_http=debug"))?;
    let json = match env.optional::<String>("LOG_FORMAT")?.as_deref() {
        None => !std::io::stdout().is_terminal(),
        Some("json") => true,
        Some("text") => false,
        Some(_) => return Err(ConfigError::new("LOG_FORMAT", "must be json or text")),
    };
    let format = tracing_subscriber::fmt::layer().with_target(true);
    let format = if json {
        format.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        format.compact().boxed()
    };
    // Fails only where a subscriber is set already, as in tests.
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
    tracing::info!(service, version = env!("CARGO_PKG_VERSION"), "starting");
    Ok(())
}
