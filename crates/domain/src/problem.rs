//! Refusals, as RFC 9457 problem details with a stable `type`.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Every kind of refusal. The name behind `urn:onsale:problem:` never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemType {
    /// The request cannot be read; `field` names what is wrong.
    Malformed,
    /// No token, or one that does not hold.
    Unauthorized,
    /// The token does not open this route.
    Forbidden,
    /// The sale has a waiting room and the user has not been admitted.
    NotAdmitted,
    /// No such thing, or not the caller's.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// Fewer units are free than were asked for.
    SoldOut,
    /// One of the seats is taken.
    SeatTaken,
    /// The user would hold more than the sale allows; `holds` lists the live ones.
    LimitReached,
    /// Before `opensAt`, after `closesAt`, or paused.
    NotOpen,
    /// A sale's stock cannot be changed by configuring it again.
    StockFixed,
    /// A command came after the reservation had ended.
    Expired,
    /// The body is over 64 KiB.
    TooLarge,
    /// The body is not `application/json`.
    UnsupportedMediaType,
    /// The key was used for another request.
    IdempotencyKeyReused,
    /// More than the server takes in at once.
    TooManyRequests,
    /// Nothing can be promised now; the same request may be sent again.
    TryAgain,
    /// A fault of ours; the details are in our log.
    Internal,
}

impl ProblemType {
    /// All of them, for documents and tests.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotAdmitted,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::SoldOut,
        Self::SeatTaken,
        Self::LimitReached,
        Self::NotOpen,
        Self::StockFixed,
        Self::Expired,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::TooManyRequests,
        Self::TryAgain,
        Self::Internal,
    ];

    /// The stable name, the last part of `type`.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.facts().1
    }

    /// The title, the same for every occurrence.
    pub fn title(self) -> &'static str {
        self.facts().2
    }

    /// The `type` member: a URN, so that it means the same wherever the API is served.
    pub fn urn(self) -> String {
        format!("urn:onsale:problem:{}", self.name())
    }

    fn facts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::Malformed => ("malformed", 400, "The request is malformed"),
            Self::Unauthorized => ("unauthorized", 401, "A valid bearer token is needed"),
            Self::Forbidden => ("forbidden", 403, "The token does not open this"),
            Self::NotAdmitted => ("not-admitted", 403, "Not admitted yet"),
            Self::NotFound => ("not-found", 404, "Not found"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "Method not allowed"),
            Self::SoldOut => ("sold-out", 409, "Sold out"),
            Self::SeatTaken => ("seat-taken", 409, "Seat taken"),
            Self::LimitReached => ("limit-reached", 409, "Limit per user reached"),
            Self::NotOpen => ("not-open", 409, "The sale is not open"),
            Self::StockFixed => ("stock-fixed", 409, "The stock of a sale is fixed"),
            Self::Expired => ("expired", 410, "The reservation has ended"),
            Self::TooLarge => ("too-large", 413, "The body is too large"),
            Self::UnsupportedMediaType => ("unsupported-media-type", 415, "The body must be application/json"),
            Self::IdempotencyKeyReused => {
                ("idempotency-key-reused", 422, "The idempotency key was used for another request")
            }
            Self::TooManyRequests => ("too-many-requests", 429, "Too many requests"),
            Self::TryAgain => ("try-again", 503, "Try again"),
            Self::Internal => ("internal", 500, "Internal error"),
        }
    }
}

/// One refusal, ready to be written as `application/problem+json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Which kind.
    pub kind: ProblemType,
    /// What is wrong this time and what to do next; for the caller, so it holds nothing internal.
    pub detail: String,
    /// Seconds until a retry makes sense, for `Retry-After`.
    pub retry_after: Option<u32>,
    /// Further members (RFC 9457 §3.2).
    pub extensions: Map<String, Value>,
}

impl Problem {
    /// A problem with its detail.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, extensions: Map::new() }
    }

    /// Nothing was promised and nothing is known to be lost: the caller may send the same request again.
    pub fn try_again(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(ProblemType::TryAgain, detail) }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// The JSON body.
    pub fn body(&self) -> Value {
        let mut members = Map::new();
        members.insert("type".into(), self.kind.urn().into());
        members.insert("title".into(), self.kind.title().into());
        members.insert("status".into(), self.kind.status().into());
        members.insert("detail".into(), self.detail.clone().into());
        members.extend(self.extensions.clone());
        Value::Object(members)
    }
}

impl From<crate::Invalid> for Problem {
    fn from(invalid: crate::Invalid) -> Self {
        Self::new(ProblemType::Malformed, invalid.to_string()).with("field", invalid.field)
    }
}

/// The shape of a refusal, for the API document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// `urn:onsale:problem:` and a stable name such as `sold-out`.
    #[serde(rename = "type")]
    #[schema(example = "urn:onsale:problem:sold-out")]
    pub kind: String,
    /// The same text for every occurrence of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time and what to do next.
    pub detail: String,
    /// `malformed`: the field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// `limit-reached`: the caller's live holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<Vec<LiveHold>>,
}

/// A hold that counts towards the caller's limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveHold {
    /// To read, pay or cancel it by.
    #[schema(value_type = String)]
    pub reservation_id: String,
    /// How many units it counts.
    pub quantity: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_bodies_complete() {
        let names: HashSet<_> = ProblemType::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), ProblemType::ALL.len());
        let body = Problem::new(ProblemType::SoldOut, "3 asked for").with("available", 2).body();
        assert_eq!(body["type"], "urn:onsale:problem:sold-out");
        assert_eq!(body["status"], 409);
        assert_eq!(body["available"], 2);
    }
}
