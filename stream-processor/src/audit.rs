//! The audit: whether Redis, the log and the ledger tell the same story, on a live system.
//!
//! Redis is read first, then the ledger, so the ledger may be ahead: what Redis decided after it was read is told by its
//! time and left out. What then remains must add up, unit by unit:
//! held + confirmed + pending + returning + free = capacity.

use crate::{
    config::Stores,
    ledger::{Ledger, Snapshot},
};
use onsale_domain::{ReservationState, SaleId, Timestamp, UnitNumber};
use onsale_inventory::{Inspection, InventoryError};
use onsale_log::LogEnds;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// A command pending longer than this is worth a person's look: the relay should have seen to it.
const PENDING_TOO_LONG: Duration = Duration::from_secs(60);

/// How many units or ids a finding names.
const EXAMPLES: usize = 5;

/// The whole story.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing was found.
    pub clean: bool,
    /// What is wrong, each with the guarantee it breaks or the reason it matters.
    pub findings: Vec<String>,
    /// Sale by sale.
    pub sales: Vec<SaleReport>,
    /// Records in the log that the ledger does not have yet; absent where the log could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Reservations whose outcome is still to be written.
    pub outcomes_due: i64,
    /// When it was taken, by the ledger's clock.
    pub taken_at: Timestamp,
}

/// Units of a sale by where they are. They add up to its capacity or there is a finding.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SaleReport {
    /// The sale.
    pub sale_id: String,
    /// The number of its Redis state.
    pub epoch: u32,
    /// Whether it sells.
    pub blessed: bool,
    /// Units there are.
    pub capacity: u32,
    /// Units held in the ledger.
    pub held: u32,
    /// Units paid for in the ledger.
    pub confirmed: u32,
    /// Units taken in Redis whose hold is on its way to the ledger.
    pub pending: u32,
    /// Units freed in the ledger on their way back into Redis.
    pub returning: u32,
    /// Units free in Redis.
    pub free: u32,
    /// Reservations the ledger rejected.
    pub rejected: i64,
    /// Commands pending, of every kind.
    pub pending_commands: u32,
    /// Dead letters among them.
    pub buried: u32,
    /// Age of the oldest of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_pending_seconds: Option<f64>,
}

/// Audits `only`, or every sale of the catalog and the ledger.
pub async fn audit(
    ledger: &Ledger,
    stores: &Stores,
    ends: &LogEnds,
    topics: &[String],
    group: &str,
    only: Option<&SaleId>,
) -> anyhow::Result<Report> {
    let mut findings = Vec::new();
    let lag = match lag(ledger, ends, topics, group).await {
        Ok(lag) => Some(lag),
        Err(e) => {
            findings.push(format!("the log cannot be asked where it ends: {e:#}"));
            None
        }
    };
    let mut sales: BTreeSet<SaleId> = ledger.sales().await?.into_iter().map(|s| s.settings.id).collect();
    match stores.catalog.sales().await {
        Ok(found) => sales.extend(found.into_iter().map(|s| s.settings.id)),
        Err(e) => findings.push(format!("the catalog cannot be read: {e}")),
    }
    if let Some(only) = only {
        if !sales.contains(only) {
            findings.push(format!("{only}: neither the catalog nor the ledger knows this sale"));
        }
        sales.retain(|s| s == only);
    }

    let mut inspections = BTreeMap::new();
    for sale in sales {
        let seen = stores.inventory.inspect(&sale).await;
        inspections.insert(sale, seen);
    }
    let mut view = ledger.snapshot().await?;
    let taken_at = view.taken_at();
    let whole = view.audit().await?;
    findings.extend(whole.violations().into_iter().filter(|v| only.is_none_or(|s| v.contains(s.as_str()))));

    let mut reports = Vec::new();
    for (sale, seen) in inspections {
        let rejected = whole.sales.iter().find(|s| s.sale == sale);
        let rejected = rejected.map_or(0, |s| s.by_state[usize::from(ReservationState::Rejected.code())].reservations);
        let mut report = SaleReport { sale_id: sale.to_string(), rejected, ..SaleReport::default() };
        match seen {
            Ok(i) => add_up(&sale, &i, &mut view, &mut report, &mut findings).await?,
            Err(InventoryError::Absent(_)) => findings.push(format!("{sale}: G3: redis has nothing of it")),
            Err(e) => findings.push(format!("{sale}: redis cannot be read: {e}")),
        }
        reports.push(report);
    }
    Ok(Report {
        clean: findings.is_empty(),
        findings,
        sales: reports,
        lag,
        outcomes_due: whole.outcome_queue,
        taken_at,
    })
}

async fn lag(ledger: &Ledger, ends: &LogEnds, topics: &[String], group: &str) -> anyhow::Result<i64> {
    let (ends, offsets) = (ends.of(topics).await?, ledger.offsets(group).await?);
    Ok(ends.iter().map(|(partition, end)| (end - offsets.get(partition).copied().unwrap_or(0)).max(0)).sum())
}

async fn add_up(
    sale: &SaleId,
    i: &Inspection,
    view: &mut Snapshot,
    report: &mut SaleReport,
    findings: &mut Vec<String>,
) -> anyhow::Result<()> {
    report.epoch = i.epoch;
    report.blessed = i.blessed;
    report.capacity = i.capacity;
    report.free = i.free;
    report.pending_commands = i.pending;
    report.buried = i.buried;
    let mut find = |what: String| findings.push(format!("{sale}: {what}"));
    if !i.blessed {
        find("fenced: it does not sell until the leading processor has blessed it".into());
    }
    if i.buried > 0 {
        find(format!("{} dead letters keep their units taken", i.buried));
    }
    if let Some(oldest) = i.oldest_pending {
        let age = (i.now.millis() - oldest.millis()).max(0) as f64 / 1e3;
        report.oldest_pending_seconds = Some(age);
        if age > PENDING_TOO_LONG.as_secs_f64() {
            find(format!("G2: a command has been pending for {age:.0} s"));
        }
    }
    if i.free + i.taken_count != i.capacity {
        find(format!("G1: redis counts {} free and {} taken of {}", i.free, i.taken_count, i.capacity));
    }

    let mut explained: BTreeSet<UnitNumber> = BTreeSet::new();
    let mut oversold = Vec::new();
    for unit in view.owned_units(sale).await? {
        if !i.is_taken(unit.number) {
            // Decided in or after the millisecond in which Redis was read: not in what was read.
            if unit.held_at < i.now {
                oversold.push(unit.number);
            }
            continue;
        }
        // Taken then by another, whose return is in the journal below, or by this one.
        if unit.held_at <= i.now && explained.insert(unit.number) {
            match unit.state {
                ReservationState::Confirmed => report.confirmed += 1,
                _ => report.held += 1,
            }
        }
    }
    let mut given_back_early = Vec::new();
    for (r, held_at) in view.returns_after(sale, i.return_seq).await? {
        for number in r.units {
            if i.is_taken(number) {
                if held_at <= i.now && explained.insert(number) {
                    report.returning += 1;
                }
            } else if held_at < i.now {
                given_back_early.push(number);
            }
        }
    }
    let pending: Vec<_> = i.pending_holds.iter().map(|h| h.reservation).collect();
    let known = view.reservation_states(&pending).await?;
    for hold in i.pending_holds.iter().filter(|h| !known.contains_key(&h.reservation)) {
        for number in &hold.units {
            if !i.is_taken(*number) {
                oversold.push(*number);
            } else if explained.insert(*number) {
                report.pending += 1;
            } else {
                find(format!("G1: unit {number} is pending for {} and has another owner", hold.reservation));
            }
        }
    }
    let leaked: Vec<_> = (1..=i.capacity).filter(|n| i.is_taken(*n) && !explained.contains(n)).collect();
    for (guarantee, what, units) in [
        ("G1", "owned in the ledger or pending, but free in redis", &oversold),
        ("G1", "free in redis before its return was applied", &given_back_early),
        ("G3", "taken in redis, but owned by nobody", &leaked),
    ] {
        if !units.is_empty() {
            let examples = &units[..units.len().min(EXAMPLES)];
            find(format!("{guarantee}: {} units {what}: {examples:?} …", units.len()));
        }
    }
    let sum = report.held + report.confirmed + report.pending + report.returning + report.free;
    if sum != i.capacity {
        find(format!("G1: held + confirmed + pending + returning + free = {sum}, the capacity is {}", i.capacity));
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.sales.iter().map(|s| s.sale_id.len()).max().unwrap_or(0).max(4);
        writeln!(
            f,
            "{:width$} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>8}",
            "sale", "capacity", "held", "confirmed", "pending", "returning", "free", "rejected"
        )?;
        for s in &self.sales {
            let (c, h, p) = (s.capacity, s.held, s.pending);
            writeln!(
                f,
                "{:width$} {c:>9} {h:>9} {:>9} {p:>9} {:>9} {:>9}  {:>8}{}",
                s.sale_id,
                s.confirmed,
                s.returning,
                s.free,
                s.rejected,
                if s.blessed { "" } else { "  fenced" }
            )?;
        }
        match self.lag {
            Some(0) => writeln!(f, "the ledger has everything the log has")?,
            Some(n) => writeln!(f, "{n} records of the log are on their way to the ledger")?,
            None => {}
        }
        if self.clean {
            write!(f, "audit clean: held + confirmed + pending + returning + free = capacity for every sale")
        } else {
            write!(f, "AUDIT FOUND {}:", self.findings.len())?;
            self.findings.iter().try_for_each(|finding| write!(f, "\n  - {finding}"))
        }
    }
}
