//! Money: integer minor units and an ISO 4217 code.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The largest amount Onsale handles, 2^53 - 1 minor units: exact in JSON numbers and in Lua.
pub const MAX_AMOUNT: i64 = (1 << 53) - 1;

/// An ISO 4217 code: three upper-case letters. The list of codes changes, so the shape alone is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "KRW")]
pub struct Currency([u8; 3]);

impl Currency {
    /// Parses three upper-case ASCII letters.
    pub fn parse(s: &str) -> Result<Self, Invalid> {
        match s.as_bytes() {
            &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_uppercase) => Ok(Self([a, b, c])),
            _ => Err(Invalid::new("currency", "must be an ISO 4217 code such as EUR")),
        }
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        // Three ASCII letters by construction.
        str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Currency {
    type Error = Invalid;
    fn try_from(s: String) -> Result<Self, Invalid> {
        Self::parse(&s)
    }
}

impl From<Currency> for String {
    fn from(c: Currency) -> Self {
        c.as_str().to_owned()
    }
}

/// An amount of money, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Minor units (cents; won, which has none, as it is), 0..=2^53-1.
    #[serde(deserialize_with = "amount")]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 132_000)]
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: Currency,
}

fn amount<'de, D: serde::Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    let n = i64::deserialize(d)?;
    if (0..=MAX_AMOUNT).contains(&n) {
        Ok(n)
    } else {
        Err(serde::de::Error::custom("amount must be 0 to 9007199254740991 minor units"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_and_bounded() {
        let parse = |s: &str| serde_json::from_str::<Money>(s);
        assert!(parse(r#"{"amount":0,"currency":"EUR"}"#).is_ok());
        for bad in [
            r#"{"amount":-1,"currency":"EUR"}"#,
            r#"{"amount":1.5,"currency":"EUR"}"#,
            r#"{"amount":9007199254740992,"currency":"EUR"}"#,
            r#"{"amount":99999999999999999999,"currency":"EUR"}"#,
            r#"{"amount":"1","currency":"EUR"}"#,
            r#"{"amount":1,"currency":"eur"}"#,
            r#"{"amount":1}"#,
            r#"{"amount":1,"currency":"EUR","x":1}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
