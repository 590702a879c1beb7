//! Telling Redis what the ledger has: after a commit, commands leave the pending lists.
//!
//! Nothing rests on it being done: what is not told, because Redis was away or the processor died, the relay finds
//! pending later and settles from the ledger.

use crate::{
    consumer::Record,
    ledger::{self, Effect},
};
use onsale_domain::{EventKind, ReservationId, ReservationState, SaleId};
use onsale_inventory::{Command, Inventory, InventoryError, Settlement};
use std::collections::HashMap;
use tokio::sync::mpsc;

/// A command the ledger has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The sale.
    pub sale: SaleId,
    /// The command and where its reservation stands.
    pub settlement: Settlement,
    /// Whether Redis' record of the reservation is to be brought up to date as well.
    pub changed: bool,
}

impl From<ledger::Settled> for Settled {
    fn from(s: ledger::Settled) -> Self {
        let reservation = s.reservation.uuid;
        let command = match s.kind {
            EventKind::Hold => Command::Hold(reservation),
            EventKind::Cancel => Command::Cancel { command: s.command_id, reservation },
        };
        // A hold that was just recorded stands as Redis has it.
        let changed = s.effect != Effect::Recorded || s.state != ReservationState::Held;
        let version = u32::try_from(s.version).unwrap_or_default();
        Self { sale: s.reservation.sale, settlement: Settlement { command, state: s.state, version }, changed }
    }
}

enum Work {
    Settle(Vec<Settled>),
    Bury(SaleId, Command),
}

/// Hands over to the task that talks to Redis, so that the next batch need not wait for it.
#[derive(Clone)]
pub struct Settler {
    work: mpsc::Sender<Work>,
}

impl Settler {
    /// Starts the task. It ends when all clones are gone and its work is done.
    pub fn start(inventory: Inventory) -> (Self, tokio::task::JoinHandle<()>) {
        let (work, mut queue) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            while let Some(work) = queue.recv().await {
                let result = match work {
                    Work::Settle(settled) => settle(&inventory, settled).await,
                    Work::Bury(sale, command) => inventory.bury(&sale, &[command]).await.map(drop),
                };
                if let Err(e) = result {
                    metrics::counter!("onsale_settlements_failed_total").increment(1);
                    tracing::warn!(error = %e, "settle.left_to_the_relay");
                }
            }
        });
        (Self { work }, task)
    }

    /// These commands are in the ledger.
    pub fn settle(&self, settled: Vec<Settled>) {
        self.hand_over(Work::Settle(settled));
    }

    /// This record is a dead letter. Its key says which reservation; if that hold is pending, it is what died.
    pub fn bury(&self, record: &Record) {
        let key = record.key.as_deref().and_then(|k| str::from_utf8(k).ok());
        let Some(id) = key.and_then(|k| ReservationId::parse("key", k).ok()) else { return };
        let readable = onsale_domain::Command::from_json(record.payload.as_deref().unwrap_or_default());
        let command = match readable {
            Ok(onsale_domain::Command::Cancel(c)) => Command::Cancel { command: c.id, reservation: id.uuid },
            _ => Command::Hold(id.uuid),
        };
        self.hand_over(Work::Bury(id.sale, command));
    }

    fn hand_over(&self, work: Work) {
        // A full queue means that Redis does not keep up or is away: the relay will see to it.
        if self.work.try_send(work).is_err() {
            metrics::counter!("onsale_settlements_failed_total").increment(1);
        }
    }
}

/// One call a sale for what only leaves the pending list, one for what changed.
pub async fn settle(inventory: &Inventory, settled: Vec<Settled>) -> Result<(), InventoryError> {
    let mut sales: HashMap<SaleId, (Vec<Command>, Vec<Settlement>)> = HashMap::new();
    for s in settled {
        let (clear, settle) = sales.entry(s.sale).or_default();
        if s.changed { settle.push(s.settlement) } else { clear.push(s.settlement.command) }
    }
    let mut result = Ok(());
    for (sale, (clear, settle)) in sales {
        // In portions, so that Redis answers others between them; one sale's failure does not stop another's.
        for portion in clear.chunks(1_000) {
            result = result.and(inventory.clear(&sale, portion).await.map(drop));
        }
        for portion in settle.chunks(200) {
            result = result.and(inventory.settle(&sale, portion).await.map(drop));
        }
    }
    result
}
