//! Latencies in a histogram, exact to three digits.

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;
use std::time::Duration;

/// One hour, in microseconds: nothing here waits longer.
const LONGEST: u64 = 3_600_000_000;

/// Durations from one microsecond to one hour.
pub struct Latency(Histogram<u64>);

/// The figures of a [`Latency`], in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// How many were recorded.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// An empty one.
    pub fn new() -> Result<Self, CreationError> {
        Histogram::new_with_bounds(1, LONGEST, 3).map(Self)
    }

    /// Counts `d`.
    pub fn record(&mut self, d: Duration) {
        self.0.saturating_record(u64::try_from(d.as_micros()).unwrap_or(LONGEST));
    }

    /// Its figures; `None` where nothing was recorded.
    pub fn figures(&self) -> Option<Figures> {
        let at = |q| self.0.value_at_quantile(q) as f64 / 1000.0;
        (!self.0.is_empty()).then(|| Figures {
            count: self.0.len(),
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_milliseconds_and_exact_to_three_digits() {
        let mut latency = Latency::new().unwrap();
        assert_eq!(latency.figures(), None);
        for ms in 1..=1000 {
            latency.record(Duration::from_millis(ms));
        }
        let f = latency.figures().unwrap();
        assert_eq!(f.count, 1000);
        for (is, should) in [(f.p50, 500.0), (f.p95, 950.0), (f.p99, 990.0), (f.max, 1000.0)] {
            assert!((is - should).abs() <= should / 1000.0, "{is} should be {should}");
        }
    }

    #[test]
    fn what_is_out_of_range_counts_at_its_edge() {
        let mut latency = Latency::new().unwrap();
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(100_000));
        let f = latency.figures().unwrap();
        assert_eq!(f.count, 2);
        assert!((f.max - 3_600_000.0).abs() < 3_600.0);
    }
}
