//! Events: what Onsale writes to Kafka, as JSON.
//!
//! Every event starts with the same five members (`type`, `version`, `id`, `epoch`, `occurredAt`). A
//! reader looks at `type` and `version` first and then reads the whole as that kind, so an unknown
//! kind is told from a broken record.

use crate::{CommandId, Epoch, Money, ReservationId, Timestamp, UnitNumber, UserId, sale::MAX_PER_USER};
use serde::{Deserialize, Serialize};

/// The topic of every command that touches a reservation.
pub const RESERVATION_TOPIC: &str = "reservation";

/// A hold that Redis decided: the units are taken, the ledger is to write them down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The epoch of the sale's Redis state that decided.
    pub epoch: Epoch,
    /// When Redis decided, by its clock.
    pub occurred_at: Timestamp,
    /// The reservation; its uuid is the id of the command.
    pub reservation_id: ReservationId,
    /// Whose it is.
    pub user_id: UserId,
    /// The units taken, ascending, at least one.
    pub units: Vec<UnitNumber>,
    /// What it costs.
    pub amount: Money,
    /// Until when it waits for its payment.
    pub expires_at: Timestamp,
}

/// The owner gives a reservation up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancel {
    /// The command.
    #[serde(skip_serializing)]
    pub id: CommandId,
    /// The epoch of the sale's Redis state that accepted it.
    pub epoch: Epoch,
    /// When Redis accepted it, by its clock.
    pub occurred_at: Timestamp,
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Whose it is.
    pub user_id: UserId,
}

/// A command on a reservation, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take units.
    Hold(Hold),
    /// Give them up.
    Cancel(Cancel),
}

impl Command {
    /// The id the ledger takes once.
    pub fn id(&self) -> CommandId {
        match self {
            Self::Hold(h) => h.reservation_id.uuid,
            Self::Cancel(c) => c.id,
        }
    }

    /// The reservation it is about; its text is the Kafka key, so that everything about one stays in order.
    pub fn reservation_id(&self) -> &ReservationId {
        match self {
            Self::Hold(h) => &h.reservation_id,
            Self::Cancel(c) => &c.reservation_id,
        }
    }

    /// The epoch it was accepted in.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Hold(h) => h.epoch,
            Self::Cancel(c) => c.epoch,
        }
    }

    /// When Redis accepted it.
    pub fn occurred_at(&self) -> Timestamp {
        match self {
            Self::Hold(h) => h.occurred_at,
            Self::Cancel(c) => c.occurred_at,
        }
    }

    /// `type` in the log.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Hold(_) => EventKind::Hold,
            Self::Cancel(_) => EventKind::Cancel,
        }
    }
}

/// The `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// [`Hold`]
    #[serde(rename = "reservation.hold")]
    Hold,
    /// [`Cancel`]
    #[serde(rename = "reservation.cancel")]
    Cancel,
}

/// Why a record cannot be read; the text goes with it to the dead letter topic.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or a member is missing, unknown or out of range.
    #[error("not an event: {0}")]
    Json(#[from] serde_json::Error),
    /// A version this reader does not know.
    #[error("version {0} is not known to this reader")]
    Version(u16),
    /// The members contradict one another.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// The newest version this code writes and the only one it reads.
const VERSION: u16 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a, T> {
    #[serde(rename = "type")]
    kind: EventKind,
    version: u16,
    id: CommandId,
    #[serde(flatten)]
    payload: &'a T,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: EventKind,
    version: u16,
    id: CommandId,
}

impl Command {
    /// The JSON that goes into the log.
    pub fn to_json(&self) -> Vec<u8> {
        let (kind, version, id) = (self.kind(), VERSION, self.id());
        let json = match self {
            Self::Hold(payload) => serde_json::to_vec(&Written { kind, version, id, payload }),
            Self::Cancel(payload) => serde_json::to_vec(&Written { kind, version, id, payload }),
        };
        // Serialising these types to memory has no way to fail: no maps with odd keys, no I/O.
        json.unwrap_or_default()
    }

    /// Reads what [`Command::to_json`] wrote. Unknown members are passed over, so that a newer writer
    /// may add some without a new version.
    pub fn from_json(json: &[u8]) -> Result<Self, Unreadable> {
        let head: Head = serde_json::from_slice(json)?;
        if head.version != VERSION {
            return Err(Unreadable::Version(head.version));
        }
        match head.kind {
            EventKind::Hold => {
                let hold: Hold = serde_json::from_slice(json)?;
                if head.id != hold.reservation_id.uuid {
                    return Err(Unreadable::Contradiction("the id of a hold must be the uuid of its reservation"));
                }
                if hold.units.is_empty() || hold.units.len() > MAX_PER_USER as usize || hold.units[0] == 0 {
                    return Err(Unreadable::Contradiction("a hold must have 1 to 100 units, numbered from 1"));
                }
                if !hold.units.is_sorted_by(|a, b| a < b) {
                    return Err(Unreadable::Contradiction("the units of a hold must ascend"));
                }
                Ok(Self::Hold(hold))
            }
            EventKind::Cancel => Ok(Self::Cancel(serde_json::from_slice(json)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Currency, SaleId};
    use uuid::Uuid;

    fn hold() -> Hold {
        Hold {
            epoch: 3,
            occurred_at: Timestamp::from_millis(1_790_000_000_123).unwrap(),
            reservation_id: ReservationId::generate(SaleId::parse("saleId", "demo").unwrap()),
            user_id: UserId::parse("alice").unwrap(),
            units: vec![1, 2, 9],
            amount: Money { amount: 300, currency: Currency::parse("EUR").unwrap() },
            expires_at: Timestamp::from_millis(1_790_000_300_123).unwrap(),
        }
    }

    #[test]
    fn commands_round_trip() {
        let hold = hold();
        let cancel = Cancel {
            id: Uuid::now_v7(),
            epoch: 3,
            occurred_at: hold.occurred_at,
            reservation_id: hold.reservation_id.clone(),
            user_id: hold.user_id.clone(),
        };
        for command in [Command::Hold(hold), Command::Cancel(cancel)] {
            let json = command.to_json();
            assert_eq!(Command::from_json(&json).unwrap(), command, "{}", String::from_utf8_lossy(&json));
        }
    }

    #[test]
    fn what_is_written_is_what_the_design_says() {
        let json: serde_json::Value = serde_json::from_slice(&Command::Hold(hold()).to_json()).unwrap();
        let members: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        for member in ["type", "version", "id", "epoch", "occurredAt"] {
            assert!(members.iter().any(|m| m == member), "{member} in {members:?}");
        }
        assert_eq!(json["type"], "reservation.hold");
    }

    #[test]
    fn broken_records_are_told_apart() {
        let good: serde_json::Value = serde_json::from_slice(&Command::Hold(hold()).to_json()).unwrap();
        let with = |name: &str, value: serde_json::Value| {
            let mut json = good.clone();
            json[name] = value;
            Command::from_json(&serde_json::to_vec(&json).unwrap())
        };
        assert!(matches!(with("version", 2.into()), Err(Unreadable::Version(2))));
        assert!(matches!(with("units", serde_json::json!([])), Err(Unreadable::Contradiction(_))));
        assert!(matches!(with("units", serde_json::json!([2, 1])), Err(Unreadable::Contradiction(_))));
        assert!(matches!(with("units", serde_json::json!([1, 1])), Err(Unreadable::Contradiction(_))));
        assert!(matches!(with("units", serde_json::json!([0, 1])), Err(Unreadable::Contradiction(_))));
        assert!(matches!(with("units", serde_json::json!([-1])), Err(Unreadable::Json(_))));
        assert!(matches!(with("type", "reservation.moved".into()), Err(Unreadable::Json(_))));
        assert!(matches!(with("id", Uuid::nil().to_string().into()), Err(Unreadable::Contradiction(_))));
        assert!(with("newMember", 1.into()).is_ok());
        assert!(Command::from_json(b"{").is_err());
        assert!(Command::from_json(b"\xff\xfe").is_err());
    }
}
