//! Sales kept in memory for a moment.

use crate::{Catalog, CatalogError, Sale};
use moka::future::Cache;
use onsale_domain::SaleId;
use std::{sync::Arc, time::Duration};

/// A sale's settings, read at most once in `kept` however many ask. That there is no such sale is not kept: a new
/// sale can be sold the moment it is configured.
#[derive(Clone)]
pub struct SaleCache {
    catalog: Catalog,
    sales: Cache<SaleId, Arc<Sale>>,
}

/// Why there is no sale to keep.
enum NotKept {
    NoSale,
    Away(CatalogError),
}

impl SaleCache {
    /// Reads through to `catalog`.
    pub fn new(catalog: Catalog, kept: Duration) -> Self {
        Self { catalog, sales: Cache::builder().max_capacity(10_000).time_to_live(kept).build() }
    }

    /// The sale, if there is one, as it was at most `kept` ago.
    pub async fn sale(&self, id: &SaleId) -> Result<Option<Arc<Sale>>, CatalogError> {
        let read = async {
            match self.catalog.sale(id).await {
                Ok(Some(sale)) => Ok(Arc::new(sale)),
                Ok(None) => Err(NotKept::NoSale),
                Err(e) => Err(NotKept::Away(e)),
            }
        };
        match self.sales.try_get_with_by_ref(id, read).await {
            Ok(sale) => Ok(Some(sale)),
            Err(e) => match &*e {
                NotKept::NoSale => Ok(None),
                NotKept::Away(e) => Err(CatalogError::Dynamo(e.to_string())),
            },
        }
    }
}
