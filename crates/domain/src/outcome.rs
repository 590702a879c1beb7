//! What a finished request became.

use crate::{Money, ReservationId, ReservationState, Timestamp, UnitNumber, UserId};
use serde::{Deserialize, Serialize};

/// A reservation that has ended or been confirmed, as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Whose it is.
    pub user_id: UserId,
    /// How it stands.
    pub state: ReservationState,
    /// The ledger's version: an older one never replaces a newer one.
    pub version: u32,
    /// What it took.
    pub units: Vec<UnitNumber>,
    /// What it cost.
    pub amount: Money,
    /// Until when it waited for its payment.
    pub expires_at: Timestamp,
    /// When it came to stand so.
    pub decided_at: Timestamp,
}
