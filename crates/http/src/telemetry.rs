//! Logs: structured, to standard output.

use crate::{ConfigError, Env};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging: `RUST_LOG` filters (default `info`), `LOG_FORMAT` is `json` or `text` (default: text on a
/// terminal, JSON elsewhere). A second call in one process changes nothing.
pub fn init(service: &'static str, env: &Env) -> Result<(), ConfigError> {
    let (filter, json) = (filter(env), json(env));
    // Logging starts even if its settings are wrong: somewhere that has to be said.
    let format = tracing_subscriber::fmt::layer().with_ansi(std::io::stdout().is_terminal());
    let format = if *json.as_ref().unwrap_or(&true) {
        format.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        format.compact().boxed()
    };
    let used = filter.as_ref().cloned().unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails only where a subscriber is set already, as in tests.
    let _ = tracing_subscriber::registry().with(used).with(format).try_init();
    filter.and(json)?;
    tracing::info!(service, "starting");
    Ok(())
}

fn filter(env: &Env) -> Result<EnvFilter, ConfigError> {
    let directives = env.or("RUST_LOG", "info".to_owned())?;
    EnvFilter::try_new(directives)
        .map_err(|_| ConfigError::new("RUST_LOG", "must be a log filter such as info or onsale_http=debug"))
}

fn json(env: &Env) -> Result<bool, ConfigError> {
    match env.optional::<String>("LOG_FORMAT")?.as_deref() {
        None => Ok(!std::io::stdout().is_terminal()),
        Some("json") => Ok(true),
        Some("text") => Ok(false),
        Some(_) => Err(ConfigError::new("LOG_FORMAT", "must be json or text")),
    }
}
