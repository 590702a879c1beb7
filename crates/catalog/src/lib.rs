//! DynamoDB: the settings of sales, and what finished requests became.

mod cache;
mod outcomes;
mod sales;
mod tables;

pub use cache::SaleCache;
pub use sales::{PutSale, Sale};

use aws_config::{BehaviorVersion, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{Client, error::DisplayErrorContext};
use onsale_config::{ConfigError, Env};
use std::time::Duration;

/// Why the catalog gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// DynamoDB did not answer, or refused.
    #[error("dynamodb: {0}")]
    Dynamo(String),
    /// An item that this code did not write, or no longer understands.
    #[error("item {id} of table {table} cannot be read: {why}")]
    Unreadable {
        /// The table.
        table: String,
        /// The item's key.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

impl<E: std::error::Error + 'static> From<aws_sdk_dynamodb::error::SdkError<E>> for CatalogError {
    fn from(e: aws_sdk_dynamodb::error::SdkError<E>) -> Self {
        Self::Dynamo(DisplayErrorContext(&e).to_string())
    }
}

/// The tables under one prefix.
#[derive(Debug, Clone)]
pub struct Catalog {
    client: Client,
    sales: String,
    outcomes: String,
}

impl Catalog {
    /// Region, credentials and endpoint come from the standard AWS variables (`AWS_ENDPOINT_URL_DYNAMODB`
    /// locally). `timeout` bounds one call, its retries included.
    pub async fn connect(table_prefix: &str, timeout: Duration) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(timeout / 2)
            .operation_attempt_timeout(timeout / 2)
            .operation_timeout(timeout)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await;
        Self::new(Client::new(&config), table_prefix)
    }

    /// `TABLE_PREFIX` (`onsale-`); `DYNAMODB_TIMEOUT_MS` (2,000); the rest from the standard AWS variables.
    pub async fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let prefix: String = env.or("TABLE_PREFIX", "onsale-".to_owned())?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if prefix.len() > 100 || !prefix.chars().all(fits) {
            return Err(ConfigError::new("TABLE_PREFIX", "must be at most 100 of the characters A-Z a-z 0-9 - _ ."));
        }
        let range = Duration::from_millis(100)..=Duration::from_secs(60);
        let timeout = env.duration("DYNAMODB_TIMEOUT_MS", Duration::from_secs(2), range)?;
        Ok(Self::connect(&prefix, timeout).await)
    }

    /// Over a client of the caller's.
    pub fn new(client: Client, table_prefix: &str) -> Self {
        Self { client, sales: format!("{table_prefix}sales"), outcomes: format!("{table_prefix}outcomes") }
    }
}
