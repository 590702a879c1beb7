//! What finished requests became.

use crate::{Catalog, CatalogError, sales::text};
use aws_sdk_dynamodb::{error::ProvideErrorMetadata, types::AttributeValue};
use onsale_domain::{Outcome, ReservationId, ReservationState, Timestamp};

/// How long the outcome of a reservation that bought nothing can be read: 30 days. A confirmed one stays.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;

impl Catalog {
    /// Writes an outcome unless a newer version is there. Returns whether it is the newest now.
    pub async fn put_outcome(&self, outcome: &Outcome) -> Result<bool, CatalogError> {
        let document = serde_json::to_string(outcome).map_err(|e| CatalogError::Dynamo(e.to_string()))?;
        let put = self
            .client
            .put_item()
            .table_name(&self.outcomes)
            .item("id", AttributeValue::S(outcome.reservation_id.to_string()))
            .item("version", AttributeValue::N(outcome.version.to_string()))
            .item("outcome", AttributeValue::S(document))
            .condition_expression("attribute_not_exists(id) OR version <= :version")
            .expression_attribute_values(":version", AttributeValue::N(outcome.version.to_string()));
        let put = if outcome.state == ReservationState::Confirmed {
            put
        } else {
            let gone_at = Timestamp::now().millis() / 1000 + KEPT_SECONDS;
            put.item("goneAt", AttributeValue::N(gone_at.to_string()))
        };
        match put.send().await {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Some("ConditionalCheckFailedException") => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// What a reservation became, if it has finished (a consistent read).
    pub async fn outcome(&self, id: &ReservationId) -> Result<Option<Outcome>, CatalogError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.outcomes)
            .key("id", AttributeValue::S(id.to_string()))
            .consistent_read(true)
            .send()
            .await?;
        let Some(item) = found.item else { return Ok(None) };
        let unreadable =
            |why: String| CatalogError::Unreadable { table: self.outcomes.clone(), id: id.to_string(), why };
        let document = text(&item, "outcome").ok_or_else(|| unreadable("no outcome".into()))?;
        serde_json::from_str(document).map(Some).map_err(|e| unreadable(e.to_string()))
    }
}
