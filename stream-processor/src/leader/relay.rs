//! Commands that Redis accepted and that nobody finished: written again, or settled where the ledger has them.

use super::{Leader, Sales};
use crate::settle::{Settled, settle};
use onsale_domain::{Cancel, Command, ReservationId, SaleId, Timestamp};
use onsale_inventory::{Command as Entry, InventoryError, Overdue, Settlement};
use onsale_log::EndOffsets;
use std::time::Duration;
use tokio::time::Instant;

/// Commands of one sale looked after in one step.
const PORTION: u32 = 500;

/// Until when the log is known to be in the ledger.
#[derive(Debug, Default)]
pub(super) struct Relay {
    mark: Option<(Timestamp, EndOffsets)>,
    drained_until: Option<Timestamp>,
}

impl Leader {
    /// One step over all sales.
    pub(super) async fn look_after_pending(&self, relay: &mut Relay, sales: &Sales) {
        let now = Timestamp::now();
        let before = earlier(now, self.settings.relay_after);
        let mut found = false;
        for sale in sales {
            let id = &sale.settings.id;
            match self.stores.inventory.overdue(id, before, PORTION).await {
                Ok(overdue) if overdue.is_empty() => {}
                Ok(overdue) => {
                    found = true;
                    super::report("relay", self.relay(id, overdue, relay.drained_until).await);
                }
                Err(InventoryError::Fenced(_) | InventoryError::Absent(_)) => {}
                Err(e) => super::report("relay", Err(e)),
            }
        }
        if found {
            super::report("relay", self.follow_the_log(relay, now).await);
        }
    }

    /// A command is missing from the log only if everything the log had after its last chance has been read: while the
    /// processor lags, nothing is missing.
    async fn follow_the_log(&self, relay: &mut Relay, now: Timestamp) -> anyhow::Result<()> {
        match relay.mark.take() {
            Some((at, ends)) if self.drained(&ends).await? => relay.drained_until = Some(at),
            Some(mark) => relay.mark = Some(mark),
            None => {}
        }
        if relay.mark.is_none() {
            relay.mark = Some((now, self.log_ends().await?));
        }
        Ok(())
    }

    async fn relay(
        &self,
        sale: &SaleId,
        overdue: Vec<Overdue>,
        drained_until: Option<Timestamp>,
    ) -> anyhow::Result<()> {
        let reservations: Vec<_> = overdue.iter().map(|o| o.command.reservation()).collect();
        let standing = self.ledger.standing(&reservations).await?;
        let commands: Vec<_> = overdue.iter().map(|o| o.command.id()).collect();
        let commands = self.ledger.known_commands(&commands).await?;

        let (mut settled, mut missing) = (Vec::new(), Vec::new());
        for o in overdue {
            let stands = standing.get(&o.command.reservation());
            let known = match o.command {
                Entry::Hold(_) => stands.is_some(),
                Entry::Cancel { command, .. } => commands.contains(&command),
            };
            match stands {
                Some((state, version)) if known => {
                    let version = u32::try_from(*version).unwrap_or_default();
                    let settlement = Settlement { command: o.command, state: *state, version };
                    settled.push(Settled { sale: sale.clone(), settlement, changed: true });
                }
                _ => missing.push(o),
            }
        }
        settle(&self.stores.inventory, settled).await?;

        // Its function may still be waiting for the log until its deadline has passed.
        let lost = |o: &Overdue| {
            drained_until.is_some_and(|until| o.accepted_at.plus(self.settings.delivery_deadline) < until)
        };
        // Holds go before the cancels of the same reservation.
        missing.sort_by_key(|o| (matches!(o.command, Entry::Cancel { .. }), o.accepted_at));
        for o in missing.iter().filter(|o| lost(o)) {
            let Some(command) = again(sale, o) else {
                tracing::error!(%sale, command = ?o.command, "relay.record_missing");
                continue;
            };
            let deadline = Instant::now() + self.settings.delivery_deadline;
            self.stores.log.append(&command, deadline).await?;
            metrics::counter!("onsale_relayed_total").increment(1);
            tracing::info!(reservation = %command.reservation_id(), kind = ?command.kind(), "relay.written_again");
        }
        Ok(())
    }
}

/// The event, made again from Redis' record.
fn again(sale: &SaleId, o: &Overdue) -> Option<Command> {
    let hold = o.hold.as_ref()?;
    Some(match o.command {
        Entry::Hold(_) => Command::Hold(hold.event()),
        Entry::Cancel { command, reservation } => Command::Cancel(Cancel {
            id: command,
            epoch: o.epoch,
            occurred_at: o.accepted_at,
            reservation_id: ReservationId { sale: sale.clone(), uuid: reservation },
            user_id: hold.user.clone(),
        }),
    })
}

fn earlier(t: Timestamp, by: Duration) -> Timestamp {
    let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(t.millis().saturating_sub(ms)).unwrap_or(t)
}
