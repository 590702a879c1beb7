//! The rush itself: when buyers arrive, the connections they share, and what became of each.
//!
//! A thread of its own lets buyers in at their times, whatever the system does: it never waits for an answer. Who
//! finds no free connection waits in line, and that wait counts: latencies start when a buyer meant to ask. A
//! timer of the runtime would be a millisecond coarse; a sleeping thread is not.

use crate::{
    buyer::{Answer, Buyer, End, Grant, Next, Plan, next},
    latency::Latency,
    progress::Counts,
    target::Target,
    wire::Connection,
};
use anyhow::{Context, Result};
use onsale_domain::{ProblemType, Timestamp};
use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// From the opening of the connections to the first buyer.
const LEAD: Duration = Duration::from_millis(50);
/// The thread that lets buyers in does not wake more often than this: waking costs the measured system time.
const SHORTEST_NAP: Duration = Duration::from_micros(200);

/// When buyers arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    per_second: Option<NonZeroU32>,
}

impl Schedule {
    /// `rate` buyers per second, evenly spaced; 0: all at the same moment.
    pub fn new(rate: u32) -> Self {
        Self { per_second: NonZeroU32::new(rate) }
    }

    /// When buyer `i` (from 0) means to ask, from the start of the rush.
    pub fn arrival(self, i: u32) -> Duration {
        let nanos = |rate: NonZeroU32| u64::from(i) * 1_000_000_000 / u64::from(rate.get());
        Duration::from_nanos(self.per_second.map_or(0, nanos))
    }

    /// How many of `all` have arrived by `elapsed`.
    pub fn arrived(self, elapsed: Duration, all: u32) -> u32 {
        let Some(rate) = self.per_second else { return all };
        let whole = elapsed.as_nanos() * u128::from(rate.get()) / 1_000_000_000;
        // Cutting off may miss the buyer whose time it is this very nanosecond, never let one in early.
        u32::try_from(whole + 1).unwrap_or(u32::MAX).min(all)
    }
}

/// A buyer whose turn it is, or is again.
struct Turn {
    buyer: u32,
    tries: u32,
    /// When the generator let the buyer in.
    released: Duration,
    /// When its first try went out.
    sent: Option<Duration>,
}

/// Turns in the order in which they are due; many take from it.
struct Line {
    turns: Mutex<VecDeque<Turn>>,
    /// One permit per turn; closed when there will be no more.
    waiting: Semaphore,
}

impl Line {
    fn new() -> Self {
        Self { turns: Mutex::new(VecDeque::new()), waiting: Semaphore::new(0) }
    }

    fn add(&self, turns: impl ExactSizeIterator<Item = Turn>) {
        let count = turns.len();
        lock(&self.turns).extend(turns);
        self.waiting.add_permits(count);
    }

    async fn take(&self) -> Option<Turn> {
        self.waiting.acquire().await.ok()?.forget();
        lock(&self.turns).pop_front()
    }
}

/// One 202, as the client remembers it.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Whose.
    pub buyer: u32,
    /// What it said.
    pub grant: Grant,
    /// When it was answered, from the start of the rush.
    pub answered: Duration,
    /// The same by the clock, to compare with deadlines.
    pub answered_at: Timestamp,
}

/// What became of the buyers.
pub struct Tally {
    /// Every 202, in the order of the answers.
    pub accepted: Vec<Accepted>,
    /// Refusals by the name of their problem type.
    pub refused: BTreeMap<Cow<'static, str>, u64>,
    /// Buyers who never got to know, by what their last try met.
    pub failed: BTreeMap<String, u64>,
    /// Tries that were followed by another, by what they met.
    pub retried: BTreeMap<Cow<'static, str>, u64>,
    /// From a buyer's intended start to its 202.
    pub accepted_latency: Latency,
    /// From a buyer's intended start to its refusal.
    pub refused_latency: Latency,
    /// Of single answered tries, from when they were really sent.
    pub try_latency: Latency,
    /// From the intended start to the moment the generator let the buyer in.
    pub release_lag: Latency,
    /// From the intended start to the moment the first try went out on a connection.
    pub send_lag: Latency,
    /// When the last buyer's first try went out, from the start of the rush.
    pub last_sent: Duration,
    /// When the last buyer's last try ended.
    pub last_end: Duration,
    /// When the last 202 came.
    pub last_accepted: Duration,
}

impl Tally {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Self {
            accepted: Vec::new(),
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            retried: BTreeMap::new(),
            accepted_latency: Latency::new()?,
            refused_latency: Latency::new()?,
            try_latency: Latency::new()?,
            release_lag: Latency::new()?,
            send_lag: Latency::new()?,
            last_sent: Duration::ZERO,
            last_end: Duration::ZERO,
            last_accepted: Duration::ZERO,
        })
    }
}

/// What a rush needs.
pub struct Settings {
    /// Where to.
    pub gateway: Target,
    /// What each asks for.
    pub plan: Plan,
    /// Who.
    pub buyers: Arc<Vec<Buyer>>,
    /// When.
    pub schedule: Schedule,
    /// How many connections they share.
    pub connections: u32,
    /// How many tries more than the first each may make.
    pub retries: u32,
}

/// A rush under way.
pub struct Rush {
    plan: Plan,
    buyers: Arc<Vec<Buyer>>,
    schedule: Schedule,
    retries: u32,
    start: Instant,
    line: Line,
    left: AtomicUsize,
    tally: Mutex<Tally>,
    counts: Arc<Counts>,
    /// Told when the sale has sold out or the rush is over, whichever is first.
    pub sold_out: Notify,
}

impl Rush {
    /// Opens all connections and lets the first buyer in shortly after. The tasks end with the rush.
    pub async fn start(settings: Settings, counts: Arc<Counts>) -> Result<(Arc<Self>, JoinSet<()>)> {
        let Settings { gateway, plan, buyers, schedule, connections, retries } = settings;
        let count = u32::try_from(buyers.len()).context("too many buyers")?;
        let mut open = Vec::new();
        for _ in 0..connections.min(count) {
            let mut connection = Connection::new(gateway.clone());
            let opened = connection.open().await;
            opened.with_context(|| {
                format!(
                    "cannot open connection {} of {connections} to {gateway}; `ulimit -n` may be too low",
                    open.len() + 1
                )
            })?;
            open.push(connection);
        }
        let rush = Arc::new(Self {
            plan,
            schedule,
            retries,
            start: Instant::now() + LEAD,
            line: Line::new(),
            left: AtomicUsize::new(buyers.len()),
            buyers,
            tally: Mutex::new(Tally::new()?),
            counts,
            sold_out: Notify::new(),
        });
        let mut workers = JoinSet::new();
        for connection in open {
            workers.spawn(Arc::clone(&rush).serve(connection));
        }
        let door = Arc::clone(&rush);
        thread::Builder::new().name("arrivals".into()).spawn(move || door.let_in(count))?;
        Ok((rush, workers))
    }

    /// How long the rush has been going on.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether every buyer has ended.
    pub fn is_over(&self) -> bool {
        self.line.waiting.is_closed()
    }

    /// The results so far; after the rush, all of them.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Lets buyers in at their times, up to `all`.
    fn let_in(&self, all: u32) {
        // Before its start the rush has gone on for no time at all, which is buyer 0's time already.
        thread::sleep(self.start.saturating_duration_since(Instant::now()));
        let mut inside = 0;
        while inside < all {
            let now = self.elapsed();
            let arrived = self.schedule.arrived(now, all);
            if arrived > inside {
                let turn = |buyer| Turn { buyer, tries: 0, released: now, sent: None };
                self.line.add((inside..arrived).map(turn));
                inside = arrived;
            }
            if inside < all {
                thread::sleep(self.schedule.arrival(inside).saturating_sub(self.elapsed()).max(SHORTEST_NAP));
            }
        }
    }

    /// Serves whoever is next in line, on one connection.
    async fn serve(self: Arc<Self>, mut connection: Connection) {
        while let Some(mut turn) = self.line.take().await {
            let request = self.plan.request(&self.buyers[turn.buyer as usize]);
            let sent = self.elapsed();
            turn.sent.get_or_insert(sent);
            turn.tries += 1;
            let result = connection.exchange(request, TRY_LIMIT).await;
            let now = self.elapsed();
            let answer = match result {
                Ok(response) => {
                    self.tally().try_latency.record(now - sent);
                    self.plan.read(&response)
                }
                Err(trouble) => Answer::from(trouble),
            };
            match next(answer, turn.tries, self.retries, &mut rand::rng()) {
                Next::Stop(end) => self.finish(&turn, end, now),
                Next::Retry { why, wait } => self.again(turn, why, wait),
            }
        }
    }

    /// Puts a buyer back in line after `wait`, without keeping a connection meanwhile.
    fn again(self: &Arc<Self>, turn: Turn, why: Cow<'static, str>, wait: Duration) {
        *self.tally().retried.entry(why).or_default() += 1;
        let rush = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            rush.line.add([turn].into_iter());
        });
    }

    fn finish(&self, turn: &Turn, end: End, now: Duration) {
        let intended = self.schedule.arrival(turn.buyer);
        let sent = turn.sent.unwrap_or(now);
        let latency = now.saturating_sub(intended);
        let mut tally = self.tally();
        tally.release_lag.record(turn.released.saturating_sub(intended));
        tally.send_lag.record(sent.saturating_sub(intended));
        tally.last_sent = tally.last_sent.max(sent);
        tally.last_end = tally.last_end.max(now);
        match end {
            End::Accepted(grant) => {
                self.counts.accepted.fetch_add(1, Relaxed);
                tally.accepted_latency.record(latency);
                tally.last_accepted = tally.last_accepted.max(now);
                tally.accepted.push(Accepted {
                    buyer: turn.buyer,
                    grant,
                    answered: now,
                    answered_at: Timestamp::now(),
                });
            }
            End::Refused(name) => {
                self.counts.refused.fetch_add(1, Relaxed);
                tally.refused_latency.record(latency);
                if name == ProblemType::SoldOut.name() {
                    self.sold_out.notify_one();
                }
                *tally.refused.entry(name).or_default() += 1;
            }
            End::Failed(why) => {
                self.counts.failed.fetch_add(1, Relaxed);
                *tally.failed.entry(why).or_default() += 1;
            }
        }
        drop(tally);
        self.counts.step();
        if self.left.fetch_sub(1, Relaxed) == 1 {
            self.line.waiting.close();
            self.sold_out.notify_one();
        }
    }
}

/// Locks; a panic elsewhere is reported by whoever waits for that task, not here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spaced() {
        let schedule = Schedule::new(5_000);
        assert_eq!(schedule.arrival(0), Duration::ZERO);
        assert_eq!(schedule.arrival(1), Duration::from_micros(200));
        assert_eq!(schedule.arrival(5_000), Duration::from_secs(1));
        assert_eq!(Schedule::new(1).arrival(u32::MAX), Duration::from_secs(u64::from(u32::MAX)));
    }

    #[test]
    fn nobody_is_let_in_early_and_nobody_is_forgotten() {
        for rate in [1, 3, 7, 999, 5_000, 1_000_003, u32::MAX] {
            let schedule = Schedule::new(rate);
            for nanos in [0, 1, 199_999, 200_000, 200_001, 333_333_333, 1_000_000_000, 7_777_777_777] {
                let elapsed = Duration::from_nanos(nanos);
                let arrived = schedule.arrived(elapsed, 1_000);
                assert!(schedule.arrival(arrived - 1) <= elapsed, "rate {rate}: {arrived} by {nanos} ns is early");
                if arrived < 1_000 {
                    // A nanosecond is what rounding may cost.
                    let late = elapsed.saturating_sub(schedule.arrival(arrived));
                    assert!(late <= Duration::from_nanos(1), "rate {rate}: {arrived} by {nanos} ns is late");
                }
            }
            assert_eq!(schedule.arrived(Duration::from_secs(u64::MAX), 1_000), 1_000);
        }
    }

    #[test]
    fn without_a_rate_all_come_at_once() {
        let schedule = Schedule::new(0);
        assert_eq!(schedule.arrival(999), Duration::ZERO);
        assert_eq!(schedule.arrived(Duration::ZERO, 1_000), 1_000);
    }

    #[tokio::test]
    async fn the_line_is_first_come_first_served_and_ends() {
        let line = Line::new();
        let turn = |buyer| Turn { buyer, tries: 0, released: Duration::ZERO, sent: None };
        line.add((0..3).map(turn));
        line.add([turn(9)].into_iter());
        for expected in [0, 1, 2, 9] {
            assert_eq!(line.take().await.unwrap().buyer, expected);
        }
        line.waiting.close();
        assert!(line.take().await.is_none());
    }
}
