//! What commands do to the ledger: decided in memory, in the order of the log, without I/O.
//!
//! [`fold`] walks a batch command by command over what stands in the ledger and leaves the net difference, which is
//! then written with one statement per table. The result is by construction that of applying the commands one
//! at a time: two commands on one reservation, or two reservations after one unit, meet in the order in
//! which the log has them, and one that is refused touches nobody else.

use super::{
    Entry, ReservationRow,
    unit::{Owned, Owner},
    unit_return::Freed,
};
use onsale_domain::{
    Cancel, Command, CommandId, EventKind, Hold, Money, ReservationId, ReservationState, SaleId, Timestamp, UnitNumber,
    UserId,
};
use std::collections::{HashMap, hash_map::Entry as Slot};
use uuid::Uuid;

/// What a command did to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// A hold was written down and owns its units.
    Recorded,
    /// The ledger had taken this command before.
    Duplicate,
    /// A hold was written down, but a unit of it has an owner: it owns none.
    Rejected,
    /// A reservation was cancelled and its units freed.
    Cancelled,
    /// The reservation had ended already.
    NoEffect,
}

impl Effect {
    /// As the ledger and the metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::NoEffect => "no-effect",
        }
    }
}

/// Why a command was not taken. Nothing of it is in the ledger; it belongs into the dead letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A hold whose units are not ascending numbers within the sale's stock.
    UnitsOutOfRange,
    /// The id has been taken by a command that says something else.
    ConflictingDuplicate,
    /// A command on a reservation the ledger does not have.
    UnknownReservation,
    /// A command on somebody else's reservation.
    NotTheOwner,
}

impl Refusal {
    /// As the dead letter topic and the metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnitsOutOfRange => "units-out-of-range",
            Self::ConflictingDuplicate => "conflicting-duplicate",
            Self::UnknownReservation => "unknown-reservation",
            Self::NotTheOwner => "not-the-owner",
        }
    }
}

/// A command that was taken, and where it left its reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The command.
    pub command_id: CommandId,
    /// What it was.
    pub kind: EventKind,
    /// The reservation it was about.
    pub reservation: ReservationId,
    /// Where that stood after it.
    pub state: ReservationState,
    /// Its version then.
    pub version: i32,
    /// What the command did.
    pub effect: Effect,
}

/// A command that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its place in [`Batch::entries`](super::Batch::entries).
    pub entry: usize,
    /// Why.
    pub reason: Refusal,
}

/// What became of a batch's commands: each is in one of the two lists, in the order of the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The commands that were taken, duplicates included.
    pub settled: Vec<Settled>,
    /// The commands that were not.
    pub refused: Vec<Refused>,
    /// How many of each.
    pub counts: Counts,
}

/// How many commands of a batch did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Effect::Recorded`]
    pub recorded: usize,
    /// [`Effect::Duplicate`]
    pub duplicate: usize,
    /// [`Effect::Rejected`]
    pub rejected: usize,
    /// [`Effect::Cancelled`]
    pub cancelled: usize,
    /// [`Effect::NoEffect`]
    pub no_effect: usize,
    /// Not taken.
    pub refused: usize,
}

/// What the ledger has about the reservations, units and commands of a batch.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Of every sale that the batch's holds name.
    pub capacities: HashMap<SaleId, u32>,
    pub reservations: HashMap<Uuid, ReservationRow>,
    /// Owners of wanted units. The units of `reservations` need not be repeated here.
    pub owners: Vec<Owner>,
    /// Commands taken before, and the reservations they were about.
    pub commands: HashMap<CommandId, Uuid>,
}

/// A new state of a reservation, by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change<'a> {
    pub id: &'a ReservationId,
    /// The version it has in the ledger; 1 also of a reservation that the same batch inserts.
    pub from_version: i32,
    pub version: i32,
    pub state: ReservationState,
    pub ended_at: Option<Timestamp>,
    pub reason: Option<String>,
}

/// The net difference a batch makes, and what became of its commands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome<'a> {
    pub applied: Applied,
    /// Reservations to insert, as held.
    pub fresh: Vec<&'a Hold>,
    /// Reservations whose state differs from what is inserted, or stands. Each once.
    pub changed: Vec<Change<'a>>,
    /// Units that lose their owner.
    pub freed: Vec<Owned<'a>>,
    /// Units that get one; after `freed`, for a unit may change hands.
    pub taken: Vec<Owned<'a>>,
    pub cancels: Vec<(&'a Cancel, Effect)>,
    /// For the journal, in this order.
    pub returns: Vec<Freed<'a>>,
    /// Whether writing this checks all it rests on. A hold that keeps its units to the end of the batch does: its id and
    /// its units are inserted, and the keys object if one of them stands already. One that ends within
    /// the batch leaves no unit to object to, so it must have been decided on owners that were read.
    pub checks_itself: bool,
}

/// A reservation in the course of the fold: its content from the batch or from the ledger.
struct Current<'a> {
    id: &'a ReservationId,
    user: &'a UserId,
    units: &'a [UnitNumber],
    amount: Money,
    state: ReservationState,
    version: i32,
    ended_at: Option<Timestamp>,
    reason: Option<String>,
    /// Whether this batch inserts it.
    fresh: bool,
    /// State and version as inserted, or as they stand.
    from: (ReservationState, i32),
}

impl<'a> Current<'a> {
    fn fresh(hold: &'a Hold) -> Self {
        Self {
            id: &hold.reservation_id,
            user: &hold.user_id,
            units: &hold.units,
            amount: hold.amount,
            state: ReservationState::Held,
            version: 1,
            ended_at: None,
            reason: None,
            fresh: true,
            from: (ReservationState::Held, 1),
        }
    }

    fn standing(row: &'a ReservationRow) -> Self {
        Self {
            id: &row.id,
            user: &row.user_id,
            units: &row.units,
            amount: row.amount,
            state: row.state,
            version: row.version,
            ended_at: row.ended_at,
            reason: row.reason.clone(),
            fresh: false,
            from: (row.state, row.version),
        }
    }

    fn is_same_hold(&self, hold: &Hold) -> bool {
        *self.id == hold.reservation_id
            && *self.user == hold.user_id
            && self.units == hold.units
            && self.amount == hold.amount
    }
}

struct Fold<'a> {
    capacities: &'a HashMap<SaleId, u32>,
    reservations: HashMap<Uuid, Current<'a>>,
    /// Only of units anybody in the batch has a say about; one that is not here is free.
    owners: HashMap<(&'a SaleId, UnitNumber), Uuid>,
    commands: HashMap<CommandId, Uuid>,
    /// The reservations the batch touched, in the order in which it first did.
    touched: Vec<Uuid>,
    outcome: Outcome<'a>,
}

/// Applies `entries` in their order to what stands in the ledger.
pub(super) fn fold<'a>(entries: &'a [Entry], standing: &'a Standing) -> Outcome<'a> {
    let mut owners = HashMap::with_capacity(entries.len() + standing.owners.len());
    for row in standing.reservations.values().filter(|row| row.state.owns_units()) {
        owners.extend(row.units.iter().map(|&number| ((&row.id.sale, number), row.id.uuid)));
    }
    owners.extend(standing.owners.iter().map(|unit| ((&unit.sale, unit.number), unit.reservation)));

    let mut reservations = HashMap::with_capacity(entries.len());
    reservations.extend(standing.reservations.iter().map(|(id, row)| (*id, Current::standing(row))));
    let mut fold = Fold {
        capacities: &standing.capacities,
        reservations,
        owners,
        commands: standing.commands.clone(),
        touched: Vec::with_capacity(entries.len()),
        outcome: Outcome {
            applied: Applied::default(),
            fresh: Vec::new(),
            changed: Vec::new(),
            freed: Vec::new(),
            taken: Vec::new(),
            cancels: Vec::new(),
            returns: Vec::new(),
            checks_itself: true,
        },
    };
    for (index, entry) in entries.iter().enumerate() {
        let taken = match &entry.command {
            Command::Hold(hold) => fold.hold(hold),
            Command::Cancel(cancel) => fold.cancel(cancel),
        };
        match taken {
            Ok((state, version, effect)) => fold.outcome.applied.settle(&entry.command, state, version, effect),
            Err(reason) => fold.outcome.applied.refuse(index, reason),
        }
    }
    fold.finish()
}

/// Where a command left its reservation, and what it did.
type Taken = (ReservationState, i32, Effect);

impl<'a> Fold<'a> {
    fn hold(&mut self, hold: &'a Hold) -> Result<Taken, Refusal> {
        let id = hold.reservation_id.uuid;
        let sale = &hold.reservation_id.sale;
        let capacity = self.capacities.get(sale).copied().unwrap_or(0);
        let in_stock = hold.units.first().is_some_and(|&first| first >= 1)
            && hold.units.last().is_some_and(|&last| last <= capacity)
            && hold.units.is_sorted_by(|a, b| a < b);
        if !in_stock {
            return Err(Refusal::UnitsOutOfRange);
        }
        let place = match self.reservations.entry(id) {
            Slot::Occupied(known) if known.get().is_same_hold(hold) => {
                return Ok((known.get().state, known.get().version, Effect::Duplicate));
            }
            Slot::Occupied(_) => return Err(Refusal::ConflictingDuplicate),
            Slot::Vacant(place) => place,
        };
        let current = place.insert(Current::fresh(hold));
        self.touched.push(id);
        self.outcome.fresh.push(hold);

        let (owned, free): (Vec<UnitNumber>, Vec<UnitNumber>) =
            hold.units.iter().partition(|&&number| self.owners.contains_key(&(sale, number)));
        if owned.is_empty() {
            self.owners.extend(hold.units.iter().map(|&number| ((sale, number), id)));
            return Ok((current.state, current.version, Effect::Recorded));
        }
        // All or nothing; only what nobody owns goes back.
        let numbers: Vec<String> = owned.iter().map(ToString::to_string).collect();
        current.state = ReservationState::Rejected;
        current.ended_at = Some(hold.occurred_at);
        current.reason = Some(format!("unit-conflict: {}", numbers.join(",")));
        self.outcome.returns.push(Freed { reservation: current.id, user: current.user, units: free });
        Ok((current.state, current.version, Effect::Rejected))
    }

    fn cancel(&mut self, cancel: &'a Cancel) -> Result<Taken, Refusal> {
        let id = cancel.reservation_id.uuid;
        let current = self
            .reservations
            .get_mut(&id)
            .filter(|current| *current.id == cancel.reservation_id)
            .ok_or(Refusal::UnknownReservation)?;
        if *current.user != cancel.user_id {
            return Err(Refusal::NotTheOwner);
        }
        match self.commands.entry(cancel.id) {
            Slot::Occupied(known) if *known.get() == id => {
                return Ok((current.state, current.version, Effect::Duplicate));
            }
            Slot::Occupied(_) => return Err(Refusal::ConflictingDuplicate),
            Slot::Vacant(place) => place.insert(id),
        };
        if !current.state.owns_units() {
            self.outcome.cancels.push((cancel, Effect::NoEffect));
            return Ok((current.state, current.version, Effect::NoEffect));
        }
        current.state = ReservationState::Cancelled;
        current.version += 1;
        current.ended_at = Some(cancel.occurred_at);
        let sale = &current.id.sale;
        let mut freed = Vec::with_capacity(current.units.len());
        for &number in current.units {
            // A unit that the ledger gave to somebody else is not this reservation's to give back.
            if self.owners.get(&(sale, number)) == Some(&id) {
                self.owners.remove(&(sale, number));
                freed.push(number);
            }
        }
        if !current.fresh {
            self.touched.push(id);
            self.outcome.freed.extend(freed.iter().map(|&number| Owned { sale, number, reservation: id }));
        }
        self.outcome.returns.push(Freed { reservation: current.id, user: current.user, units: freed });
        self.outcome.cancels.push((cancel, Effect::Cancelled));
        Ok((current.state, current.version, Effect::Cancelled))
    }

    /// The net difference: where each touched reservation is now against where it was.
    fn finish(mut self) -> Outcome<'a> {
        for id in self.touched {
            let Some(current) = self.reservations.remove(&id) else { continue };
            if current.fresh {
                if current.state.owns_units() {
                    let owned = |&number| Owned { sale: &current.id.sale, number, reservation: id };
                    self.outcome.taken.extend(current.units.iter().map(owned));
                } else {
                    self.outcome.checks_itself = false;
                }
            }
            if (current.state, current.version) != current.from {
                self.outcome.changed.push(Change {
                    id: current.id,
                    from_version: current.from.1,
                    version: current.version,
                    state: current.state,
                    ended_at: current.ended_at,
                    reason: current.reason,
                });
            }
        }
        self.outcome
    }
}

impl Applied {
    fn settle(&mut self, command: &Command, state: ReservationState, version: i32, effect: Effect) {
        match effect {
            Effect::Recorded => self.counts.recorded += 1,
            Effect::Duplicate => self.counts.duplicate += 1,
            Effect::Rejected => self.counts.rejected += 1,
            Effect::Cancelled => self.counts.cancelled += 1,
            Effect::NoEffect => self.counts.no_effect += 1,
        }
        self.settled.push(Settled {
            command_id: command.id(),
            kind: command.kind(),
            reservation: command.reservation_id().clone(),
            state,
            version,
            effect,
        });
    }

    fn refuse(&mut self, entry: usize, reason: Refusal) {
        self.counts.refused += 1;
        self.refused.push(Refused { entry, reason });
    }
}
