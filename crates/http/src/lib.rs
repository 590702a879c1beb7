//! What every function shares: settings, identity, the idempotency header, JSON bodies, refusals,
//! the layers around a router, start-up in Lambda and telemetry.
//!
//! A function's crate has a `lib.rs` with a plain [`axum::Router`] and a `main.rs` that calls
//! [`start`]; the gateway merges the same routers and puts [`edge`] around them once.

pub mod config;
pub mod idempotency;
pub mod identity;
pub mod json;
pub mod lambda;
pub mod layers;
pub mod path;
pub mod problem;
pub mod telemetry;

pub use config::{ConfigError, Env, Secret};
pub use idempotency::{RequiredIdempotencyKey, fingerprint, key_digest};
pub use identity::{Admin, Authenticator, Caller};
pub use json::Json;
pub use lambda::{run, start};
pub use layers::{Deadline, Edge, edge};
pub use path::{ReservationPath, SalePath};
pub use problem::ApiError;
