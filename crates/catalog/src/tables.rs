//! Making the tables, where they are not provisioned by a template.

use crate::{Catalog, CatalogError};
use aws_sdk_dynamodb::{
    error::ProvideErrorMetadata,
    types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
        TimeToLiveSpecification,
    },
};
use std::time::Duration;

impl Catalog {
    /// Makes the tables that are absent and waits until they can be used. Outcomes carry a time to live.
    pub async fn ensure_tables(&self) -> Result<(), CatalogError> {
        self.ensure(&self.sales, "saleId").await?;
        if self.ensure(&self.outcomes, "id").await? {
            let ttl = TimeToLiveSpecification::builder().attribute_name("goneAt").enabled(true).build();
            let ttl = ttl.map_err(|e| CatalogError::Dynamo(e.to_string()))?;
            self.client.update_time_to_live().table_name(&self.outcomes).time_to_live_specification(ttl).send().await?;
        }
        Ok(())
    }

    /// Whether it had to be made.
    async fn ensure(&self, table: &str, key: &str) -> Result<bool, CatalogError> {
        if self.active(table).await? {
            return Ok(false);
        }
        let built = |e: aws_sdk_dynamodb::error::BuildError| CatalogError::Dynamo(e.to_string());
        let attribute = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .map_err(built)?;
        let schema = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash).build().map_err(built)?;
        let made = self
            .client
            .create_table()
            .table_name(table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute)
            .key_schema(schema)
            .send()
            .await;
        // Two processors may start at once.
        let made = match made {
            Ok(_) => true,
            Err(e) if e.code() == Some("ResourceInUseException") => false,
            Err(e) => return Err(e.into()),
        };
        for _ in 0..120 {
            if self.active(table).await? {
                return Ok(made);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(CatalogError::Dynamo(format!("table {table} did not become active within a minute")))
    }

    async fn active(&self, table: &str) -> Result<bool, CatalogError> {
        match self.client.describe_table().table_name(table).send().await {
            Ok(description) => Ok(description.table().and_then(|t| t.table_status()) == Some(&TableStatus::Active)),
            Err(e) if e.code() == Some("ResourceNotFoundException") => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}
