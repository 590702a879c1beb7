//! The sales the ledger knows: the table `sale`.

use super::{Ledger, LedgerError, from_column, to_column};
use onsale_domain::{Epoch, SaleConfig, SaleId, SaleSettings};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::{HashMap, HashSet};

/// A sale as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleRow {
    /// Its settings.
    pub settings: SaleSettings,
    /// The number of its Redis state.
    pub epoch: Epoch,
    /// The number of the last unit return written down for it; 0 before the first.
    pub return_seq: i64,
}

impl Ledger {
    /// Which of `sales` the ledger knows.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn known_sales(&self, sales: &[SaleId]) -> Result<HashSet<SaleId>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let known = capacities(&mut connection, sales.iter()).await?;
        Ok(known.into_keys().collect())
    }

    /// Makes a sale known, or brings what may change of a known one (all but its stock and currency) up to date.
    /// Doing so again changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::StockDiffers`] if the ledger has the sale with another capacity, other seats or another
    /// currency; [`LedgerError::Inconsistent`] if what it has cannot be read; [`LedgerError::Database`].
    pub async fn insert_sale(&self, sale: &SaleSettings) -> Result<(), LedgerError> {
        let mut transaction = self.pool.begin().await?;
        // Takes the row's lock either way, so that the comparison below is with what will stand.
        sqlx::query(
            "insert into sale \
                 (sale_id, concert_id, title, artist, capacity, currency, per_user_limit, settings) \
             values ($1, $2, $3, $4, $5, $6, $7, $8) \
             on conflict (sale_id) do nothing",
        )
        .bind(sale.id.as_str())
        .bind(sale.concert_id())
        .bind(&sale.config().title)
        .bind(&sale.config().artist)
        .bind(to_column(sale.stock().capacity()))
        .bind(sale.config().unit_price.currency.as_str())
        .bind(to_column(sale.config().per_user_limit))
        .bind(Json(sale.config()))
        .execute(&mut *transaction)
        .await?;
        let known =
            sqlx::query("select sale_id, settings, epoch, return_seq from sale where sale_id = $1 for no key update")
                .bind(sale.id.as_str())
                .fetch_one(&mut *transaction)
                .await?;
        let known = read(&known)?;
        if !known.settings.same_stock(sale) {
            return Err(LedgerError::StockDiffers(sale.id.clone()));
        }
        if known.settings != *sale {
            // The column keeps the highest limit there ever was: who bought under it is not over a lower one.
            sqlx::query(
                "update sale set concert_id = $2, title = $3, artist = $4, \
                                 per_user_limit = greatest(per_user_limit, $5), settings = $6 \
                 where sale_id = $1",
            )
            .bind(sale.id.as_str())
            .bind(sale.concert_id())
            .bind(&sale.config().title)
            .bind(&sale.config().artist)
            .bind(to_column(sale.config().per_user_limit))
            .bind(Json(sale.config()))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// One sale, if the ledger knows it.
    ///
    /// # Errors
    /// [`LedgerError::Inconsistent`] if its settings cannot be read; [`LedgerError::Database`].
    pub async fn sale(&self, sale: &SaleId) -> Result<Option<SaleRow>, LedgerError> {
        sqlx::query("select sale_id, settings, epoch, return_seq from sale where sale_id = $1")
            .bind(sale.as_str())
            .fetch_optional(&self.pool)
            .await?
            .as_ref()
            .map(read)
            .transpose()
    }

    /// All sales, by id.
    ///
    /// # Errors
    /// [`LedgerError::Inconsistent`] if the settings of one cannot be read; [`LedgerError::Database`].
    pub async fn sales(&self) -> Result<Vec<SaleRow>, LedgerError> {
        sqlx::query("select sale_id, settings, epoch, return_seq from sale order by sale_id")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read)
            .collect()
    }
}

/// The capacities of those of `sales` that are known.
pub(super) async fn capacities(
    connection: &mut PgConnection,
    sales: impl Iterator<Item = &SaleId>,
) -> Result<HashMap<SaleId, u32>, LedgerError> {
    let ids: Vec<&str> = sales.map(SaleId::as_str).collect();
    sqlx::query("select sale_id, capacity from sale where sale_id = any($1::text[])")
        .bind(ids)
        .fetch_all(connection)
        .await?
        .iter()
        .map(|row| Ok((sale_id(row)?, from_column(row.try_get("capacity")?))))
        .collect()
}

/// The sale a row is about.
pub(super) fn sale_id(row: &PgRow) -> Result<SaleId, LedgerError> {
    let text: String = row.try_get("sale_id")?;
    SaleId::parse("sale_id", &text).map_err(|e| LedgerError::Inconsistent(format!("{text:?} is no sale id: {e}")))
}

/// The epoch of a row. The column is wider than the type, which has no sign.
pub(super) fn epoch(row: &PgRow) -> Result<Epoch, LedgerError> {
    let number: i64 = row.try_get("epoch")?;
    Epoch::try_from(number).map_err(|_| LedgerError::Inconsistent(format!("{number} is no epoch")))
}

fn read(row: &PgRow) -> Result<SaleRow, LedgerError> {
    let id = sale_id(row)?;
    let unreadable = |e: String| LedgerError::Inconsistent(format!("the settings of sale {id}: {e}"));
    let config: Json<serde_json::Value> = row.try_get("settings")?;
    let config: SaleConfig = serde_json::from_value(config.0).map_err(|e| unreadable(e.to_string()))?;
    let settings = SaleSettings::new(id.clone(), config).map_err(|e| unreadable(e.to_string()))?;
    Ok(SaleRow { settings, epoch: epoch(row)?, return_seq: row.try_get("return_seq")? })
}
