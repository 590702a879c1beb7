//! Identifiers, parsed once where they enter.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;
use uuid::Uuid;

/// Names a sale: `[a-z0-9-]{1,64}`. Also the hash tag of everything the sale keeps in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9-]{1,64}$", example = "seoul-2026-12-01")]
pub struct SaleId(String);

impl SaleId {
    /// Parses `[a-z0-9-]{1,64}`; `field` is named in the refusal.
    pub fn parse(field: &str, s: &str) -> Result<Self, Invalid> {
        let fits =
            (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(s.to_owned())) } else { Err(Invalid::new(field, "must match [a-z0-9-]{1,64}")) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SaleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SaleId {
    type Error = Invalid;
    fn try_from(s: String) -> Result<Self, Invalid> {
        Self::parse("saleId", &s)
    }
}

impl From<SaleId> for String {
    fn from(id: SaleId) -> Self {
        id.0
    }
}

impl FromStr for SaleId {
    type Err = Invalid;
    fn from_str(s: &str) -> Result<Self, Invalid> {
        Self::parse("saleId", s)
    }
}

/// The user a token speaks for (`sub`): 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

impl UserId {
    /// Parses 1..=128 visible ASCII characters.
    pub fn parse(s: &str) -> Result<Self, Invalid> {
        if (1..=128).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(s.to_owned()))
        } else {
            Err(Invalid::new("sub", "must be 1 to 128 visible ASCII characters"))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for UserId {
    type Error = Invalid;
    fn try_from(s: String) -> Result<Self, Invalid> {
        Self::parse(&s)
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0
    }
}

/// A reservation: `<saleId>.<uuid v7>`. It carries its sale, so that a by-id route knows the Redis slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReservationId {
    /// The sale it belongs to.
    pub sale: SaleId,
    /// The part that is unique by itself.
    pub uuid: Uuid,
}

impl ReservationId {
    /// A new id in `sale`.
    pub fn generate(sale: SaleId) -> Self {
        Self { sale, uuid: Uuid::now_v7() }
    }

    /// Parses `<saleId>.<uuid>`; only the canonical lower-case, hyphenated form is an id.
    pub fn parse(field: &str, s: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::new(field, "must be <saleId>.<uuid>, as it was given out");
        let (sale, uuid) = s.split_once('.').ok_or_else(wrong)?;
        let sale = SaleId::parse(field, sale).map_err(|_| wrong())?;
        let parsed = Uuid::try_parse(uuid).map_err(|_| wrong())?;
        let mut canonical = Uuid::encode_buffer();
        if parsed.hyphenated().encode_lower(&mut canonical) != uuid {
            return Err(wrong());
        }
        Ok(Self { sale, uuid: parsed })
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sale, self.uuid)
    }
}

impl TryFrom<String> for ReservationId {
    type Error = Invalid;
    fn try_from(s: String) -> Result<Self, Invalid> {
        Self::parse("reservationId", &s)
    }
}

impl From<ReservationId> for String {
    fn from(id: ReservationId) -> Self {
        id.to_string()
    }
}

/// One command, and so one event: the ledger takes it once. The id of a hold is that of its reservation.
pub type CommandId = Uuid;

/// The value of an `Idempotency-Key` header: bare or quoted, 1 to 255 visible ASCII characters.
///
/// Source: IETF draft-ietf-httpapi-idempotency-key-header, which has the key as a quoted string;
/// most clients send it bare, and both name the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Parses the header's value.
    pub fn parse(s: &str) -> Result<Self, Invalid> {
        let s = s.trim();
        let bare = match s.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains('"')),
            None => Some(s).filter(|s| !s.contains('"')),
        };
        bare.filter(|k| (1..=255).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic()))
            .map(|k| Self(k.to_owned()))
            .ok_or_else(|| {
                Invalid::new("Idempotency-Key", "must be 1 to 255 visible ASCII characters, bare or in double quotes")
            })
    }

    /// The key without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sale_ids() {
        for good in ["a", "demo-1", &"x".repeat(64)] {
            assert!(SaleId::parse("saleId", good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "a.b", "ä", "{a}", &"x".repeat(65)] {
            assert!(SaleId::parse("saleId", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reservation_ids_round_trip_and_refuse_other_spellings() {
        let id = ReservationId::generate(SaleId::parse("saleId", "demo").unwrap());
        assert_eq!(ReservationId::parse("id", &id.to_string()).unwrap(), id);
        assert!(ReservationId::parse("id", &id.to_string().to_uppercase()).is_err());
        assert!(ReservationId::parse("id", &format!("demo.{}", id.uuid.simple())).is_err());
        for bad in ["", "demo", "demo.", ".x", "demo.1234", "a.b.c"] {
            assert!(ReservationId::parse("id", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn idempotency_keys_bare_or_quoted_are_one() {
        assert_eq!(IdempotencyKey::parse("abc").unwrap(), IdempotencyKey::parse("\"abc\"").unwrap());
        for bad in ["", "\"\"", "a b", "\"abc", "abc\"", "a\"b", "é", &"k".repeat(256), "\u{7f}"] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad}");
        }
        assert!(IdempotencyKey::parse(&"k".repeat(255)).is_ok());
    }
}
