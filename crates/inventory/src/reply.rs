//! What the library answers, as types.

use crate::{
    InventoryError,
    wire::{Reply, Unpack, pack_numbers, unpack_numbers},
};
use onsale_domain::{
    CommandId, Currency, Epoch, Hold, LiveHold, Money, ReservationId, ReservationState, SaleId, Timestamp, UnitNumber,
    UserId,
};
use uuid::Uuid;

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The sale is laid and open to be sold.
    Created,
    /// It was there already; nothing was changed.
    Exists,
    /// The call came after its time; nothing was changed. The processor lays the sale.
    Late,
}

/// What became of a configure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configured {
    /// The settings are in force.
    Configured,
    /// The same or newer ones were in force already.
    Older,
}

/// What became of a bless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bless {
    /// The sale sells.
    Blessed,
    /// Another epoch stands there; nothing was changed.
    Other(Epoch),
}

/// What became of unit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveBack {
    /// All up to `seq` are applied.
    Applied {
        /// The last one applied, now or before.
        seq: i64,
        /// Units that became free.
        freed: u32,
        /// Units that were free already: 0 unless Redis and the ledger have drifted apart.
        free_already: u32,
    },
    /// One between the last applied (`seq`) and those sent is missing; nothing was changed.
    Gap {
        /// The last one applied.
        seq: i64,
    },
}

/// What a reserve decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// The units are taken; the event is still to be written.
    Accepted(Accepted),
    /// This key was accepted before with the same request. `event` is to be written again unless `None`: then the
    /// ledger has it.
    Replay {
        /// What was answered.
        accepted: Accepted,
        /// Whether the ledger is known to have it.
        recorded: bool,
    },
    /// The key was used for another request.
    KeyReused,
    /// The sale opens later.
    NotOpen {
        /// When.
        opens_at: Timestamp,
    },
    /// The sale has closed.
    Closed,
    /// An administrator has stopped the sale.
    Paused,
    /// The sale has a waiting room and the user is not admitted.
    NotAdmitted,
    /// The user would hold more than `limit`.
    LimitReached {
        /// Units per user.
        limit: u32,
        /// What counts.
        holds: Vec<LiveHold>,
    },
    /// Fewer are free than asked for.
    SoldOut {
        /// How many are.
        free: u32,
    },
    /// These of the wanted units are taken.
    Taken(Vec<UnitNumber>),
    /// A wanted unit is not one of the sale's.
    NoSuchUnit,
    /// The sale has seats: a quantity says nothing.
    Seated,
    /// Redis counts free units that it does not have; nothing was changed. The audit names it.
    Drift,
}

/// A decided hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The reservation.
    pub id: ReservationId,
    /// The epoch that decided. 0 in a replay of what the ledger has.
    pub epoch: Epoch,
    /// When it was decided. 1970 in a replay of what the ledger has.
    pub held_at: Timestamp,
    /// Until when it waits for its payment.
    pub expires_at: Timestamp,
    /// What it costs.
    pub amount: Money,
    /// What it takes.
    pub units: Vec<UnitNumber>,
}

impl Accepted {
    /// The event to write.
    pub fn event(&self, user: &UserId) -> Hold {
        Hold {
            epoch: self.epoch,
            occurred_at: self.held_at,
            reservation_id: self.id.clone(),
            user_id: user.clone(),
            units: self.units.clone(),
            amount: self.amount,
            expires_at: self.expires_at,
        }
    }
}

pub(crate) fn reserved(reply: Reply, id: &ReservationId) -> Result<Reserved, InventoryError> {
    let accepted = |id: ReservationId, at: usize| -> Result<Accepted, InventoryError> {
        Ok(Accepted {
            id,
            epoch: reply.number(at)?,
            held_at: time(reply.int(at + 1)?)?,
            expires_at: time(reply.int(at + 2)?)?,
            amount: money(reply.int(at + 3)?, reply.text(at + 4)?)?,
            units: unpack_numbers(reply.bytes(at + 5)?)?,
        })
    };
    Ok(match reply.status()? {
        "accepted" => Reserved::Accepted(accepted(id.clone(), 1)?),
        "replay" => {
            let uuid = Unpack(reply.bytes(8)?).uuid()?;
            let first = ReservationId { sale: id.sale.clone(), uuid };
            let recorded = reply.int(1)? == 1;
            let accepted = accepted(first, 2)?;
            // Our own id: the call was sent twice because its connection broke. To the caller it is the first.
            if accepted.id == *id && !recorded {
                Reserved::Accepted(accepted)
            } else {
                Reserved::Replay { accepted, recorded }
            }
        }
        "key-reused" => Reserved::KeyReused,
        "not-open" => Reserved::NotOpen { opens_at: time(reply.int(1)?)? },
        "closed" => Reserved::Closed,
        "paused" => Reserved::Paused,
        "not-admitted" => Reserved::NotAdmitted,
        "limit" => Reserved::LimitReached { limit: reply.number(1)?, holds: live_holds(&id.sale, reply.bytes(2)?)? },
        "sold-out" => Reserved::SoldOut { free: reply.number(1)? },
        "seat-taken" => Reserved::Taken(unpack_numbers(reply.bytes(1)?)?),
        "no-such-unit" => Reserved::NoSuchUnit,
        "seated" => Reserved::Seated,
        "drift" => Reserved::Drift,
        _ => return Err(reply.unexpected()),
    })
}

fn live_holds(sale: &SaleId, mut packed: &[u8]) -> Result<Vec<LiveHold>, InventoryError> {
    let mut holds = Vec::new();
    while !packed.is_empty() {
        let mut unpack = Unpack(packed);
        let reservation_id = ReservationId { sale: sale.clone(), uuid: unpack.uuid()? }.to_string();
        let quantity = u32::try_from(unpack.uint(2)?).unwrap_or_default();
        holds.push(LiveHold { reservation_id, quantity });
        packed = unpack.0;
    }
    Ok(holds)
}

fn time(ms: i64) -> Result<Timestamp, InventoryError> {
    Timestamp::from_millis(ms).ok_or_else(|| InventoryError::Unexpected(format!("the time {ms}")))
}

fn money(amount: i64, currency: &str) -> Result<Money, InventoryError> {
    let currency = Currency::parse(currency).map_err(|e| InventoryError::Unexpected(e.to_string()))?;
    Ok(Money { amount, currency })
}

/// A reservation as Redis has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRecord {
    /// The reservation.
    pub id: ReservationId,
    /// Whose it is.
    pub user: UserId,
    /// Where it stands, as far as Redis has been told.
    pub state: ReservationState,
    /// The ledger's version of it; 0 before Redis was told of a change.
    pub version: u32,
    /// The epoch that decided.
    pub epoch: Epoch,
    /// When it was decided.
    pub held_at: Timestamp,
    /// Until when it waits for its payment.
    pub expires_at: Timestamp,
    /// What it costs.
    pub amount: Money,
    /// What it takes.
    pub units: Vec<UnitNumber>,
    /// The accepted cancel, if there is one.
    pub cancel: Option<CommandId>,
}

impl HoldRecord {
    pub(crate) fn read(id: &ReservationId, currency: &str, record: &[u8]) -> Result<Self, InventoryError> {
        let mut r = Unpack(record);
        let state = u8::try_from(r.uint(1)?).ok().and_then(ReservationState::from_code);
        let state = state.ok_or_else(|| InventoryError::Unexpected("an unknown state of a reservation".into()))?;
        let cancelled = r.uint(1)? == 1;
        let (epoch, version) = (r.u32()?, r.u32()?);
        let mut int = || r.uint(8).map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let (held_at, expires_at, amount) = (time(int()?)?, time(int()?)?, int()?);
        let n = usize::try_from(r.uint(2)?).unwrap_or_default();
        let units = unpack_numbers(r.take(4 * n)?)?;
        let cancel = if cancelled { Some(r.uuid()?) } else { None };
        let user = str::from_utf8(r.0).ok().and_then(|s| UserId::parse(s).ok());
        let user = user.ok_or_else(|| InventoryError::Unexpected("a hold without a user".into()))?;
        let amount = money(amount, currency)?;
        Ok(Self { id: id.clone(), user, state, version, epoch, held_at, expires_at, amount, units, cancel })
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut record = vec![self.state.code(), u8::from(self.cancel.is_some())];
        record.extend(self.epoch.to_be_bytes());
        record.extend(self.version.to_be_bytes());
        for n in [self.held_at.millis(), self.expires_at.millis(), self.amount.amount] {
            record.extend(n.to_be_bytes());
        }
        record.extend(u16::try_from(self.units.len()).unwrap_or(u16::MAX).to_be_bytes());
        record.extend(pack_numbers(&self.units));
        record.extend(self.cancel.iter().flat_map(|id| *id.as_bytes()));
        record.extend(self.user.as_str().bytes());
        record
    }

    /// The event that put it there.
    pub fn event(&self) -> Hold {
        Hold {
            epoch: self.epoch,
            occurred_at: self.held_at,
            reservation_id: self.id.clone(),
            user_id: self.user.clone(),
            units: self.units.clone(),
            amount: self.amount,
            expires_at: self.expires_at,
        }
    }
}

/// What became of the owner's wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// Accepted, now or before.
    Accepted {
        /// The reservation, with the id of the cancel.
        hold: HoldRecord,
        /// The cancel.
        command: CommandId,
        /// The epoch that accepted it.
        epoch: Epoch,
        /// When.
        at: Timestamp,
        /// Whether the ledger is known to have the cancel.
        recorded: bool,
        /// Whether the ledger is known to have the hold. If not, the hold goes into the log once more before
        /// the cancel, so that the log never has a cancel without its hold.
        hold_recorded: bool,
    },
    /// It has ended already; the record says how.
    Ended(HoldRecord),
    /// Redis has no such reservation of this user.
    Unknown,
}

pub(crate) fn cancelled(reply: Reply, id: &ReservationId) -> Result<Cancelled, InventoryError> {
    Ok(match reply.status()? {
        "accepted" => {
            let hold = HoldRecord::read(id, reply.text(5)?, reply.bytes(6)?)?;
            let command = hold.cancel.ok_or_else(|| reply.unexpected())?;
            Cancelled::Accepted {
                hold,
                command,
                epoch: reply.number(3)?,
                at: time(reply.int(4)?)?,
                recorded: reply.int(1)? == 1,
                hold_recorded: reply.int(2)? == 1,
            }
        }
        "ended" => Cancelled::Ended(HoldRecord::read(id, "XXX", reply.bytes(1)?)?),
        "unknown" => Cancelled::Unknown,
        _ => return Err(reply.unexpected()),
    })
}

/// What is left of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockNow {
    /// By the clock of Redis.
    pub now: Timestamp,
    /// Units there are.
    pub capacity: u32,
    /// Units not taken.
    pub free: u32,
    /// When it opens.
    pub opens_at: Timestamp,
    /// When it closes, if ever.
    pub closes_at: Option<Timestamp>,
    /// Whether an administrator has stopped it.
    pub paused: bool,
}

pub(crate) fn stock(reply: Reply) -> Result<StockNow, InventoryError> {
    if reply.status()? != "stock" {
        return Err(reply.unexpected());
    }
    Ok(StockNow {
        now: time(reply.int(1)?)?,
        capacity: reply.number(2)?,
        free: reply.number(3)?,
        opens_at: time(reply.int(4)?)?,
        closes_at: Some(reply.int(5)?).filter(|&ms| ms > 0).map(time).transpose()?,
        paused: reply.int(6)? == 1,
    })
}

/// Which units are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seats {
    /// Units not taken.
    pub free: u32,
    /// A bit a unit, the first unit in the highest bit of the first byte; 1 is taken.
    pub taken: Vec<u8>,
}

/// An entry of the pending list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// A hold, by its reservation.
    Hold(Uuid),
    /// A cancel.
    Cancel {
        /// The cancel.
        command: CommandId,
        /// Of which reservation.
        reservation: Uuid,
    },
}

impl Command {
    /// The reservation it is about.
    pub fn reservation(&self) -> Uuid {
        match self {
            Self::Hold(id) => *id,
            Self::Cancel { reservation, .. } => *reservation,
        }
    }

    /// The id the ledger takes once.
    pub fn id(&self) -> CommandId {
        match self {
            Self::Hold(id) => *id,
            Self::Cancel { command, .. } => *command,
        }
    }

    pub(crate) fn member(&self) -> Vec<u8> {
        match self {
            Self::Hold(id) => [b"H", &id.as_bytes()[..]].concat(),
            Self::Cancel { command, reservation } => {
                [b"C", &command.as_bytes()[..], &reservation.as_bytes()[..]].concat()
            }
        }
    }

    fn read(member: &[u8]) -> Result<Self, InventoryError> {
        let mut r = Unpack(member);
        match r.take(1)? {
            b"H" => Ok(Self::Hold(r.uuid()?)),
            b"C" => Ok(Self::Cancel { command: r.uuid()?, reservation: r.uuid()? }),
            other => Err(InventoryError::Unexpected(format!("a pending command of kind {other:?}"))),
        }
    }
}

/// A command the ledger has, and where its reservation stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// The command.
    pub command: Command,
    /// The ledger's word.
    pub state: ReservationState,
    /// Raised by the ledger on every change.
    pub version: u32,
}

/// Units the ledger has freed, in the order of its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitReturn {
    /// Counts from 1 without a gap, per sale.
    pub seq: i64,
    /// Whose units they were; no longer counts to the user's limit.
    pub reservation: Uuid,
    /// The user.
    pub user: UserId,
    /// The units; may be none.
    pub units: Vec<UnitNumber>,
}

/// A command that has been pending for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// The command.
    pub command: Command,
    /// Since when.
    pub accepted_at: Timestamp,
    /// The sale's epoch now.
    pub epoch: Epoch,
    /// The reservation it is about; `None` where Redis no longer has it.
    pub hold: Option<HoldRecord>,
}

pub(crate) fn overdue(reply: Reply, sale: &SaleId) -> Result<Vec<Overdue>, InventoryError> {
    if reply.status()? != "overdue" {
        return Err(reply.unexpected());
    }
    let (epoch, currency) = (reply.number(1)?, reply.text(2)?);
    (3..reply.0.len())
        .step_by(3)
        .map(|i| {
            let command = Command::read(reply.bytes(i)?)?;
            let id = ReservationId { sale: sale.clone(), uuid: command.reservation() };
            let record = reply.bytes(i + 2)?;
            let hold = if record.is_empty() { None } else { Some(HoldRecord::read(&id, currency, record)?) };
            Ok(Overdue { command, accepted_at: time(reply.int(i + 1)?)?, epoch, hold })
        })
        .collect()
}

/// A hold on the pending list and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingHold {
    /// The reservation.
    pub reservation: Uuid,
    /// Its units.
    pub units: Vec<UnitNumber>,
}

/// A sale's whole stock at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// By the clock of Redis.
    pub now: Timestamp,
    /// The number of this state.
    pub epoch: Epoch,
    /// Whether it sells.
    pub blessed: bool,
    /// Of the settings copied here.
    pub version: u64,
    /// Units there are.
    pub capacity: u32,
    /// Units counted as free.
    pub free: u32,
    /// The last unit return applied.
    pub return_seq: i64,
    /// A bit a unit, as in [`Seats::taken`].
    pub taken: Vec<u8>,
    /// Bits set in `taken`.
    pub taken_count: u32,
    /// Users with live holds.
    pub users: u32,
    /// Commands on the pending list.
    pub pending: u32,
    /// Dead letters among them.
    pub buried: u32,
    /// Since when the oldest of the others is.
    pub oldest_pending: Option<Timestamp>,
    /// The holds among them.
    pub pending_holds: Vec<PendingHold>,
}

impl Inspection {
    /// Whether unit `number` is taken.
    pub fn is_taken(&self, number: UnitNumber) -> bool {
        number
            .checked_sub(1)
            .is_some_and(|bit| self.taken.get(bit as usize / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0))
    }
}

pub(crate) fn inspection(reply: Reply) -> Result<Inspection, InventoryError> {
    if reply.status()? != "inspected" {
        return Err(reply.unexpected());
    }
    let mut packed = Unpack(reply.bytes(14)?);
    let mut pending_holds = Vec::new();
    while !packed.0.is_empty() {
        let reservation = packed.uuid()?;
        let n = usize::try_from(packed.uint(2)?).unwrap_or_default();
        pending_holds.push(PendingHold { reservation, units: unpack_numbers(packed.take(4 * n)?)? });
    }
    Ok(Inspection {
        now: time(reply.int(1)?)?,
        epoch: reply.number(2)?,
        blessed: reply.int(3)? == 1,
        version: reply.number(4)?,
        capacity: reply.number(5)?,
        free: reply.number(6)?,
        return_seq: reply.int(7)?,
        taken: reply.bytes(8)?.to_vec(),
        taken_count: reply.number(9)?,
        users: reply.number(10)?,
        pending: reply.number(11)?,
        buried: reply.number(12)?,
        oldest_pending: Some(reply.int(13)?).filter(|&ms| ms > 0).map(time).transpose()?,
        pending_holds,
    })
}

/// What the ledger knows of a sale, to lay it anew.
#[derive(Debug, Clone, Copy)]
pub struct SaleSnapshot<'a> {
    /// The last unit return that is part of this: its units are free in it.
    pub return_seq: i64,
    /// Reservations that own their units.
    pub holds: &'a [HoldRecord],
}
