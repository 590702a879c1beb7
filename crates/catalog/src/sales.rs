//! Settings of sales.

use crate::{Catalog, CatalogError};
use aws_sdk_dynamodb::{error::ProvideErrorMetadata, types::AttributeValue};
use onsale_domain::{SaleConfig, SaleId, SaleSettings};
use std::collections::HashMap;

/// A sale as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// The settings.
    pub settings: SaleSettings,
    /// Counts its configurations, from 1.
    pub version: u64,
}

/// What became of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutSale {
    /// The sale is new, and this call made it: its caller, and nobody else, lays its stock.
    Created,
    /// It was there; these settings are its newest.
    Updated {
        /// Counts its configurations, from 1.
        version: u64,
    },
    /// It was there with other units or another currency, which stay as they are.
    StockFixed,
}

impl Catalog {
    /// Writes a sale's settings. Of several at once exactly one makes a new sale.
    pub async fn put_sale(&self, sale: &SaleSettings) -> Result<PutSale, CatalogError> {
        // Each turn lost means that another configuration won, so the loop ends.
        loop {
            let current = self.sale(&sale.id).await?;
            let version = match &current {
                None => 1,
                Some(c) if !c.settings.same_stock(sale) => return Ok(PutSale::StockFixed),
                Some(c) => c.version + 1,
            };
            let config = serde_json::to_string(sale.config()).map_err(|e| CatalogError::Dynamo(e.to_string()))?;
            let put = self
                .client
                .put_item()
                .table_name(&self.sales)
                .item("saleId", AttributeValue::S(sale.id.to_string()))
                .item("config", AttributeValue::S(config))
                .item("version", AttributeValue::N(version.to_string()));
            let put = match current {
                None => put.condition_expression("attribute_not_exists(saleId)"),
                Some(c) => put
                    .condition_expression("version = :current")
                    .expression_attribute_values(":current", AttributeValue::N(c.version.to_string())),
            };
            match put.send().await {
                Ok(_) if version == 1 => return Ok(PutSale::Created),
                Ok(_) => return Ok(PutSale::Updated { version }),
                Err(e) if e.code() == Some("ConditionalCheckFailedException") => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A sale's newest settings (a consistent read), if there is such a sale.
    pub async fn sale(&self, id: &SaleId) -> Result<Option<Sale>, CatalogError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.sales)
            .key("saleId", AttributeValue::S(id.to_string()))
            .consistent_read(true)
            .send()
            .await?;
        found.item.map(|item| self.read_sale(&item)).transpose()
    }

    /// All sales.
    pub async fn sales(&self) -> Result<Vec<Sale>, CatalogError> {
        let mut pages = self.client.scan().table_name(&self.sales).consistent_read(true).into_paginator().send();
        let mut sales = Vec::new();
        while let Some(page) = pages.next().await {
            for item in page?.items() {
                sales.push(self.read_sale(item)?);
            }
        }
        Ok(sales)
    }

    fn read_sale(&self, item: &HashMap<String, AttributeValue>) -> Result<Sale, CatalogError> {
        let id = text(item, "saleId").unwrap_or_default();
        let read = || -> Result<Sale, String> {
            let config: SaleConfig =
                serde_json::from_str(text(item, "config").ok_or("no config")?).map_err(|e| e.to_string())?;
            let version = number(item, "version").ok_or("no version")?;
            let id = SaleId::parse("saleId", id).map_err(|e| e.to_string())?;
            Ok(Sale { settings: SaleSettings::new(id, config).map_err(|e| e.to_string())?, version })
        };
        read().map_err(|why| CatalogError::Unreadable { table: self.sales.clone(), id: id.to_owned(), why })
    }
}

pub(crate) fn text<'a>(item: &'a HashMap<String, AttributeValue>, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn number(item: &HashMap<String, AttributeValue>, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}
