//! What reservations became, into the catalog; then their records may leave Redis.

use super::Leader;
use crate::ledger::ReservationRow;
use futures::future::join_all;
use onsale_catalog::CatalogError;
use onsale_domain::{Outcome, SaleId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Outcomes written at a time.
const AT_ONCE: usize = 16;

impl Leader {
    /// Writes the oldest of what is due. A record leaves Redis only after its outcome is in the catalog, so that a
    /// read never goes blank.
    pub(super) async fn write_outcomes(&self) -> anyhow::Result<()> {
        let due = self.ledger.next_outcomes(200).await?;
        if due.is_empty() {
            return Ok(());
        }
        let mut written: Vec<&ReservationRow> = Vec::with_capacity(due.len());
        for portion in due.chunks(AT_ONCE) {
            let results = join_all(portion.iter().map(|row| self.put_outcome(row))).await;
            for (row, result) in portion.iter().zip(results) {
                result?;
                written.push(row);
            }
        }
        let mut ended: BTreeMap<SaleId, Vec<Uuid>> = BTreeMap::new();
        for row in written.iter().filter(|row| !row.state.owns_units()) {
            ended.entry(row.id.sale.clone()).or_default().push(row.id.uuid);
        }
        for (sale, reservations) in ended {
            // A record that stays for now says the same as its outcome, only costs memory.
            if let Err(e) = self.stores.inventory.forget(&sale, &reservations).await {
                tracing::debug!(%sale, error = %e, "outcomes.not_forgotten");
            }
        }
        let versions: Vec<(Uuid, i32)> = written.iter().map(|row| (row.id.uuid, row.version)).collect();
        self.ledger.outcome_written(&versions).await?;
        metrics::counter!("onsale_outcomes_written_total").increment(versions.len() as u64);
        Ok(())
    }
}

impl Leader {
    async fn put_outcome(&self, row: &ReservationRow) -> Result<bool, CatalogError> {
        self.stores.catalog.put_outcome(&outcome(row)).await
    }
}

fn outcome(row: &ReservationRow) -> Outcome {
    Outcome {
        reservation_id: row.id.clone(),
        user_id: row.user_id.clone(),
        state: row.state,
        version: u32::try_from(row.version).unwrap_or_default(),
        units: row.units.clone(),
        amount: row.amount,
        expires_at: row.expires_at,
        decided_at: row.ended_at.unwrap_or(row.recorded_at),
    }
}
