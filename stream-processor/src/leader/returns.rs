//! Units the ledger has freed, back into Redis: in the order of the journal, each once.

use super::Leader;
use crate::ledger::UnitReturn;
use onsale_domain::SaleId;
use onsale_inventory::{GiveBack, InventoryError};
use std::collections::BTreeMap;

/// Returns of one sale in one step. Redis answers nobody else while it applies them.
const PORTION: i64 = 200;

impl Leader {
    /// Applies what the journal has and Redis is not known to. One sale's trouble does not hold up another's.
    pub(super) async fn give_back(&self) -> anyhow::Result<()> {
        let mut sales: BTreeMap<SaleId, Vec<UnitReturn>> = BTreeMap::new();
        for r in self.ledger.pending_returns(PORTION).await? {
            sales.entry(r.reservation.sale.clone()).or_default().push(r);
        }
        let mut result = Ok(());
        for (sale, returns) in sales {
            match self.give_back_to(&sale, returns).await {
                Ok(()) => {}
                // The sale is being blessed or laid anew; its returns wait, or become part of it.
                Err(e) if matches!(e.downcast_ref(), Some(InventoryError::Fenced(_) | InventoryError::Absent(_))) => {}
                Err(e) => result = Err(e.context(format!("returns of sale {sale}"))),
            }
        }
        result
    }

    async fn give_back_to(&self, sale: &SaleId, returns: Vec<UnitReturn>) -> anyhow::Result<()> {
        let mut reply = self.stores.inventory.give_back(sale, &for_redis(returns)).await?;
        if let GiveBack::Gap { seq } = reply {
            // Redis has applied fewer than the ledger believed. The journal has them all.
            tracing::warn!(%sale, seq, "returns.gap");
            let missed = self.ledger.snapshot().await?.returns_after(sale, seq).await?;
            let missed = missed.into_iter().map(|(r, _)| r).take(PORTION as usize).collect();
            reply = self.stores.inventory.give_back(sale, &for_redis(missed)).await?;
        }
        match reply {
            GiveBack::Applied { seq, freed, free_already } => {
                metrics::counter!("onsale_units_returned_total").increment(u64::from(freed));
                if free_already > 0 {
                    metrics::counter!("onsale_units_returned_twice_total").increment(u64::from(free_already));
                    tracing::error!(%sale, seq, free_already, "returns.drift");
                }
                self.ledger.mark_returned(sale, seq).await?;
                Ok(())
            }
            GiveBack::Gap { seq } => anyhow::bail!("the journal has nothing right behind number {seq}"),
        }
    }
}

fn for_redis(returns: Vec<UnitReturn>) -> Vec<onsale_inventory::UnitReturn> {
    returns
        .into_iter()
        .map(|r| onsale_inventory::UnitReturn {
            seq: r.seq,
            reservation: r.reservation.uuid,
            user: r.user,
            units: r.units,
        })
        .collect()
}
