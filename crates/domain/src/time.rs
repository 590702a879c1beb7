//! Points in time, to the millisecond, in UTC.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, time::Duration};
use utoipa::ToSchema;

/// A moment in UTC, to the millisecond, in the years 1970 to 9999. RFC 3339 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-12-01T11:00:00.000Z")]
pub struct Timestamp(i64);

/// The last millisecond of the year 9999: RFC 3339 ends there.
const LATEST: i64 = 253_402_300_799_999;

impl Timestamp {
    /// From milliseconds since the Unix epoch; `None` outside 1970..=9999.
    pub fn from_millis(ms: i64) -> Option<Self> {
        (0..=LATEST).contains(&ms).then_some(Self(ms))
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// This machine's clock.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_millis().clamp(0, LATEST))
    }

    /// For the ledger's `timestamptz`.
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }

    /// Later by `d`, at most the end of the year 9999.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        let ms = i64::try_from(d.as_millis()).unwrap_or(LATEST);
        Self(self.0.saturating_add(ms).min(LATEST))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    /// Cuts below the millisecond; clamps to 1970..=9999.
    fn from(t: DateTime<Utc>) -> Self {
        Self(t.timestamp_millis().clamp(0, LATEST))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_datetime().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        DateTime::parse_from_rfc3339(&text).ok().and_then(|t| Self::from_millis(t.timestamp_millis())).ok_or_else(
            || {
                serde::de::Error::custom(
                    "must be an RFC 3339 time such as 2026-12-01T11:00:00Z, in the years 1970 to 9999",
                )
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_any_offset_and_writes_utc_to_the_millisecond() {
        let t: Timestamp = serde_json::from_str("\"2026-12-01T20:00:00.1239+09:00\"").unwrap();
        assert_eq!(serde_json::to_string(&t).unwrap(), "\"2026-12-01T11:00:00.123Z\"");
        for bad in ["\"2026-12-01\"", "\"1969-12-31T23:59:59Z\"", "12", "\"tomorrow\""] {
            assert!(serde_json::from_str::<Timestamp>(bad).is_err(), "{bad}");
        }
    }
}
