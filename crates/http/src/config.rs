//! Settings: the same as everywhere, from [`onsale_config`].

pub use onsale_config::{ConfigError, Env, Secret};
