//! A circuit breaker: while the log does not answer, callers are told at once instead of waiting.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The log has failed too often just now; try again in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log has not acknowledged lately; the circuit is open")]
pub struct Open;

/// The rule: after `THRESHOLD` failures without a success between them the circuit opens for `pause`. Then one
/// caller at a time, one a `pause`, is let through; the first success closes it.
#[derive(Debug)]
pub struct Breaker {
    started: Instant,
    pause: Duration,
    failures: AtomicU32,
    /// Milliseconds after `started` until which nobody is let through.
    closed_until: AtomicU64,
}

/// Failures in a row that open the circuit.
pub const THRESHOLD: u32 = 5;

impl Breaker {
    /// A closed circuit that, once open, lets one caller try every `pause`.
    pub fn new(pause: Duration) -> Self {
        Self { started: Instant::now(), pause, failures: AtomicU32::new(0), closed_until: AtomicU64::new(0) }
    }

    /// Whether a call may be made now. Where the circuit is open, the caller that gets through must report
    /// [`success`](Self::success) or [`failure`](Self::failure).
    pub fn permit(&self) -> Result<(), Open> {
        if self.failures.load(Ordering::Acquire) < THRESHOLD {
            return Ok(());
        }
        let now = self.now();
        let until = self.closed_until.load(Ordering::Acquire);
        let next = now + Self::millis(self.pause);
        let mine = now >= until
            && self.closed_until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if mine { Ok(()) } else { Err(Open) }
    }

    /// The log acknowledged.
    pub fn success(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Release);
        }
    }

    /// The log did not acknowledge.
    pub fn failure(&self) {
        if self.failures.fetch_add(1, Ordering::AcqRel) + 1 == THRESHOLD {
            self.closed_until.store(self.now() + Self::millis(self.pause), Ordering::Release);
        }
        // Far from overflow, however long the log stays away.
        let _ = self.failures.fetch_min(1 << 30, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        Self::millis(self.started.elapsed())
    }

    fn millis(d: Duration) -> u64 {
        u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_through_a_pause() {
        let breaker = Breaker::new(Duration::from_millis(40));
        for _ in 0..THRESHOLD - 1 {
            breaker.failure();
        }
        breaker.success();
        for _ in 0..THRESHOLD - 1 {
            breaker.failure();
        }
        assert_eq!(breaker.permit(), Ok(()), "a success between them starts the count anew");
        breaker.failure();
        assert_eq!(breaker.permit(), Err(Open));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(breaker.permit(), Ok(()), "one probe");
        assert_eq!(breaker.permit(), Err(Open), "and no second one");
        breaker.success();
        assert_eq!(breaker.permit(), Ok(()));
    }
}
