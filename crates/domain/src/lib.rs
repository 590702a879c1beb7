//! The words of Onsale and their rules: ids, money, sales, reservations, events and problem types.
//!
//! Nothing here does I/O. Values are parsed once at the edge; whoever holds one of these types need
//! not check it again.

pub mod event;
pub mod ids;
pub mod money;
pub mod outcome;
pub mod problem;
pub mod reservation;
pub mod sale;
pub mod time;

pub use event::{Cancel, Command, EventKind, Hold, RESERVATION_TOPIC};
pub use ids::{CommandId, IdempotencyKey, ReservationId, SaleId, UserId};
pub use money::{Currency, Money};
pub use outcome::Outcome;
pub use problem::{LiveHold, Problem, ProblemType};
pub use reservation::{Reservation, ReservationState, Unit};
pub use sale::{SaleConfig, SaleSettings, SaleState, SaleView, Seating, Section, Stock};
pub use time::Timestamp;

/// The number of a unit within its sale, 1..=capacity.
pub type UnitNumber = u32;

/// The number of a sale's Redis state; raised by every blessing, starts at 1.
pub type Epoch = u32;

/// A value that is not what it should be, and what would be right. The text is for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {expected}")]
pub struct Invalid {
    /// The field, in the words of the API.
    pub field: String,
    /// What it must be.
    pub expected: String,
}

impl Invalid {
    /// An error that names the field and says what it must be.
    pub fn new(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { field: field.into(), expected: expected.into() }
    }
}
