//! A reservation as the API shows it.

use crate::{Money, ReservationId, SaleId, Seating, Timestamp, UnitNumber};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a reservation stands. The ledger decides; the numbers are how Redis and the ledger write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ReservationState {
    /// Units are taken, waiting for a payment until `expiresAt`.
    Held = 0,
    /// Paid.
    Confirmed = 1,
    /// Ended by its owner.
    Cancelled = 2,
    /// Ended by its deadline.
    Expired = 3,
    /// The ledger refused it: a unit had an owner already.
    Rejected = 4,
}

impl ReservationState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Held, Self::Confirmed, Self::Cancelled, Self::Expired, Self::Rejected];

    /// As Redis and the ledger write it.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// From how Redis and the ledger write it.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.code() == code)
    }

    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    /// Whether it owns its units.
    pub fn owns_units(self) -> bool {
        matches!(self, Self::Held | Self::Confirmed)
    }
}

/// One numbered piece of a sale's stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unit {
    /// 1 to the sale's capacity.
    pub number: UnitNumber,
    /// The seat's label, where the sale has seats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "A-1-1")]
    pub seat: Option<String>,
}

impl Unit {
    /// Units by number, with their labels where the sale has seats.
    pub fn list(numbers: &[UnitNumber], seating: Option<&Seating>) -> Vec<Self> {
        numbers.iter().map(|&number| Self { number, seat: seating.and_then(|s| s.label(number)) }).collect()
    }
}

/// A reservation, as answered by POST (`held`) and GET (as it now stands).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// To read, pay or cancel it by.
    #[schema(value_type = String, example = "seoul-2026-12-01.019a5c1e-7b1a-7c3e-9f00-0123456789ab")]
    pub reservation_id: ReservationId,
    /// The sale it takes from.
    #[schema(value_type = String)]
    pub sale_id: SaleId,
    /// Where it stands.
    pub state: ReservationState,
    /// What it takes, in the order of their numbers.
    pub units: Vec<Unit>,
    /// Until when it waits for its payment.
    pub expires_at: Timestamp,
    /// What it costs, computed by the server when it was decided.
    pub amount: Money,
    /// GET only: whether the ledger has it. `false` means it is accepted and on its way there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<bool>,
}
