//! Blessing sales again whose Redis state is not known to be right: compare with the ledger, lay anew where they differ.

use super::{Leader, Sales};
use crate::ledger::{OwnedUnit, ReservationRow, Snapshot};
use anyhow::{Context, ensure};
use onsale_catalog::Sale;
use onsale_domain::{Epoch, SaleId, UnitNumber};
use onsale_inventory::{Bless, HoldRecord, Inspection, InventoryError, SaleSnapshot};
use onsale_log::EndOffsets;
use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

/// Fenced sales and how far they have come.
#[derive(Debug, Default)]
pub(super) struct Fences(HashMap<SaleId, Waiting>);

#[derive(Debug)]
struct Waiting {
    /// When the leader found it fenced.
    since: Instant,
    /// Where the log ended once no function could still write for it.
    ends: Option<EndOffsets>,
}

impl Leader {
    /// One step over all sales. A sale that is well costs one small call.
    pub(super) async fn look_after_fences(&self, fences: &mut Fences, sales: &Sales) {
        for sale in sales {
            let id = &sale.settings.id;
            match self.stores.inventory.stock(id).await {
                Ok(_) => drop(fences.0.remove(id)),
                Err(InventoryError::Fenced(_) | InventoryError::Absent(_)) => {
                    let result = self.mend(fences, sale).await;
                    super::report("fence", result.with_context(|| format!("sale {id}")).map_err(Detailed));
                }
                // Redis is away: there is nothing to mend.
                Err(e) => {
                    super::report("fence", Err(e));
                    break;
                }
            }
        }
        metrics::gauge!("onsale_fenced_sales").set(fences.0.len() as f64);
    }

    async fn mend(&self, fences: &mut Fences, sale: &Sale) -> anyhow::Result<()> {
        let id = &sale.settings.id;
        let waiting = match fences.0.get_mut(id) {
            Some(waiting) => waiting,
            None => {
                tracing::warn!(sale = %id, "fence.found");
                self.stores.inventory.load_library().await?;
                fences.0.entry(id.clone()).or_insert(Waiting { since: Instant::now(), ends: None })
            }
        };
        // What a function took before the fence may still be on its way into the log.
        if waiting.since.elapsed() < self.settings.delivery_deadline {
            return Ok(());
        }
        let ends = match &waiting.ends {
            Some(ends) => ends.clone(),
            None => waiting.ends.insert(self.log_ends().await?).clone(),
        };
        if !self.drained(&ends).await? {
            return Ok(());
        }
        self.ledger.insert_sale(&sale.settings).await?;
        self.bless(sale, &ends).await?;
        fences.0.remove(id);
        Ok(())
    }

    async fn bless(&self, sale: &Sale, ends: &EndOffsets) -> anyhow::Result<()> {
        let id = &sale.settings.id;
        let inspection = match self.stores.inventory.inspect(id).await {
            Ok(inspection) => Some(inspection),
            Err(InventoryError::Absent(_)) => None,
            Err(e) => return Err(e.into()),
        };
        if inspection.as_ref().is_some_and(|i| i.blessed) {
            return Ok(()); // Its PUT was on its way.
        }
        let mut view = self.ledger.snapshot().await?;
        let (return_seq, ledger_epoch) = view.return_seq(id).await?.context("the ledger does not know it")?;
        let stands = inspection.as_ref().map_or(0, |i| i.epoch);
        let agreed = match &inspection {
            Some(i) => self.differences(&mut view, id, i).await?,
            None => vec!["redis has nothing of it".to_owned()],
        };
        let (from, to): (Epoch, Epoch) = if agreed.is_empty() {
            let to = stands.max(ledger_epoch) + 1;
            self.ledger.raise_epoch(id, to, ends).await?;
            (stands, to)
        } else {
            tracing::warn!(sale = %id, differences = ?agreed, "fence.rebuild");
            // One number is skipped: nobody ever held a blessing for the half-built state.
            let to = stands.max(ledger_epoch) + 2;
            self.ledger.raise_epoch(id, to, ends).await?;
            let holds: Vec<_> = view.live_reservations(id).await?.into_iter().map(record).collect();
            let snapshot = SaleSnapshot { return_seq, holds: &holds };
            self.stores.inventory.restore(&sale.settings, sale.version, to, &snapshot).await?;
            self.ledger.mark_returned(id, return_seq).await?;
            (to - 1, to)
        };
        let blessed = self.stores.inventory.bless(id, from, to).await?;
        ensure!(blessed == Bless::Blessed, "another epoch stands there: {blessed:?}");
        // Settings that were changed while it was fenced.
        self.stores.inventory.configure(&sale.settings, sale.version).await?;
        metrics::counter!("onsale_blessings_total", "rebuilt" => (!agreed.is_empty()).to_string()).increment(1);
        tracing::info!(sale = %id, epoch = to, rebuilt = !agreed.is_empty(), "fence.blessed");
        Ok(())
    }

    /// Where Redis and the ledger disagree about which units are taken.
    async fn differences(&self, view: &mut Snapshot, sale: &SaleId, i: &Inspection) -> anyhow::Result<Vec<String>> {
        let owned = view.owned_units(sale).await?;
        let returning = view.returns_after(sale, i.return_seq).await?;
        let returning: Vec<UnitNumber> = returning.into_iter().flat_map(|(r, _)| r.units).collect();
        let pending: Vec<_> = i.pending_holds.iter().map(|h| h.reservation).collect();
        let known = view.reservation_states(&pending).await?;
        let pending = i.pending_holds.iter().filter(|h| !known.contains_key(&h.reservation));
        Ok(compare(i, &owned, &returning, pending.flat_map(|h| h.units.iter().copied())))
    }
}

/// Units taken in Redis must be the ledger's, those returning and those pending, no more and no fewer.
pub(crate) fn compare(
    i: &Inspection,
    owned: &[OwnedUnit],
    returning: &[UnitNumber],
    pending: impl Iterator<Item = UnitNumber>,
) -> Vec<String> {
    let expected: BTreeSet<UnitNumber> =
        owned.iter().map(|u| u.number).chain(returning.iter().copied()).chain(pending).collect();
    let mut differences = Vec::new();
    let free_but_expected: Vec<_> = expected.iter().filter(|n| !i.is_taken(**n)).take(5).collect();
    if !free_but_expected.is_empty() {
        differences.push(format!("free in redis though owned: {free_but_expected:?}"));
    }
    let taken_without_reason: Vec<_> =
        (1..=i.capacity).filter(|n| i.is_taken(*n) && !expected.contains(n)).take(5).collect();
    if !taken_without_reason.is_empty() {
        differences.push(format!("taken in redis though nobody owns them: {taken_without_reason:?}"));
    }
    if i.free + i.taken_count != i.capacity {
        let (free, taken, capacity) = (i.free, i.taken_count, i.capacity);
        differences.push(format!("{free} free and {taken} taken are not {capacity}"));
    }
    differences
}

fn record(row: ReservationRow) -> HoldRecord {
    HoldRecord {
        id: row.id,
        user: row.user_id,
        state: row.state,
        version: u32::try_from(row.version).unwrap_or_default(),
        epoch: row.epoch,
        held_at: row.held_at,
        expires_at: row.expires_at,
        amount: row.amount,
        units: row.units,
        cancel: None,
    }
}

/// An error with its causes on one line.
struct Detailed(anyhow::Error);

impl std::fmt::Display for Detailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
