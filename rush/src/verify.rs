//! Holds the system to its word: the client's own list of 202s against what the API says afterwards.

use crate::{
    buyer::{Buyer, Plan, REPLAYED},
    load::{Accepted, Rush},
    progress::Counts,
    target::Target,
    wire::Connection,
};
use anyhow::Result;
use bytes::Bytes;
use futures::future::join_all;
use http::{Response, StatusCode};
use onsale_domain::{Reservation, ReservationState, Timestamp, UnitNumber};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How long one read may take.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How many reads at once when all are checked.
const READERS: usize = 32;
/// Between two looks at what is not in the ledger yet.
const PAUSE: Duration = Duration::from_millis(50);
/// How many of the newest are watched from the moment of selling out.
const WATCHED: usize = 50;
/// Between two looks at those.
const WATCH_PAUSE: Duration = Duration::from_millis(25);
/// How long after the rush; then the check of all goes on alone.
const WATCH_LIMIT: Duration = Duration::from_secs(2);
/// How many 202s are asked for again.
const REPLAYS: usize = 200;
/// How often a replay is tried.
const REPLAY_TRIES: u32 = 5;

/// What one look at a reservation showed.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// In the ledger, as it was answered.
    Recorded,
    /// Ended by its deadline, which has passed: as it should be.
    Expired,
    /// Known, not in the ledger yet.
    Pending,
    /// 404.
    Missing,
    /// Not what was answered.
    Changed(String),
    /// No answer to judge by.
    Unreadable(String),
}

impl Seen {
    /// Whether looking again could show something else.
    fn is_final(&self) -> bool {
        matches!(self, Self::Recorded | Self::Expired | Self::Changed(_))
    }
}

/// Judges the answer to a read of `accepted` at `now`.
fn judge(accepted: &Accepted, response: &Response<Bytes>, now: Timestamp) -> Seen {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Seen::Missing,
        status => return Seen::Unreadable(format!("status {}", status.as_u16())),
    }
    let grant = &accepted.grant;
    let is: Reservation = match serde_json::from_slice(response.body()) {
        Ok(is) => is,
        Err(e) => return Seen::Changed(format!("is no reservation any more: {e}")),
    };
    let units: Vec<UnitNumber> = is.units.iter().map(|u| u.number).collect();
    if is.reservation_id != grant.reservation {
        return Seen::Changed(format!("is answered with another one, {}", is.reservation_id));
    }
    if units != grant.units {
        return Seen::Changed(format!("was given the units {:?} and has {units:?}", grant.units));
    }
    match is.state {
        ReservationState::Held if is.recorded == Some(true) => Seen::Recorded,
        ReservationState::Held => Seen::Pending,
        ReservationState::Expired if now >= grant.expires_at => Seen::Expired,
        other => Seen::Changed(format!("is {}", other.name())),
    }
}

/// What the API says about all that was accepted.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In the ledger, as answered.
    pub recorded: u64,
    /// In time expired, as answered.
    pub expired: u64,
    /// Found, but not in the ledger in time, or not readable.
    pub not_recorded: u64,
    /// Not found.
    pub lost: u64,
    /// Not what was answered.
    pub changed: u64,
    /// Not found at first and found later.
    pub blank_reads: u64,
    /// From the last 202 until nothing was seen missing from the ledger any more; `None` if that never came
    /// or nothing was accepted.
    pub settled: Option<Duration>,
    /// From the last 202 until each had been looked at.
    pub checked: Duration,
    /// What is wrong, by reservation.
    pub findings: Vec<String>,
}

/// What the watch at the newest 202s saw.
pub struct Watch {
    /// When the last of them was seen in the ledger, from the start of the rush; `None` if one never was.
    recorded: Option<Duration>,
    /// Which of all 202s were not found at some look.
    blank: BTreeSet<usize>,
}

/// Reads back what was accepted.
#[derive(Clone)]
pub struct Reader {
    /// Where from.
    pub gateway: Target,
    /// Whose tokens to read with.
    pub buyers: Arc<Vec<Buyer>>,
    /// How long to wait for the ledger.
    pub patience: Duration,
}

/// One check of all 202s.
struct Check<'a> {
    rush: &'a Rush,
    accepted: &'a [Accepted],
    counts: &'a Counts,
    deadline: Instant,
}

impl Reader {
    /// From the moment of selling out, or else the end of the rush, looks at the newest 202s often, so that the
    /// ledger's delay is known to some milliseconds while the rest of the crowd is still being refused. The newest
    /// are written last; a few reads among thousands of requests cost little.
    pub async fn watch(self, rush: Arc<Rush>) -> Watch {
        rush.sold_out.notified().await;
        let mut connection = Connection::new(self.gateway.clone());
        let mut watch = Watch { recorded: None, blank: BTreeSet::new() };
        let mut waiting: Vec<(usize, Accepted)> = Vec::new();
        let (mut known, mut over_since) = (0, None);
        loop {
            tokio::time::sleep(WATCH_PAUSE).await;
            // Asked first: what is accepted last must still be in the list that is read next.
            if rush.is_over() {
                over_since.get_or_insert_with(Instant::now);
            }
            {
                // The list only grows until the watch has ended, so a place in it stays that of the same 202.
                let all = &rush.tally().accepted;
                let newest = all.iter().enumerate().skip(known.max(all.len().saturating_sub(WATCHED)));
                waiting.extend(newest.map(|(i, accepted)| (i, accepted.clone())));
                known = all.len();
            }
            let mut still = Vec::new();
            for (i, accepted) in waiting {
                let seen = self.look(&mut connection, &accepted).await;
                if seen == Seen::Missing {
                    watch.blank.insert(i);
                }
                if seen.is_final() {
                    watch.recorded = Some(rush.elapsed());
                } else {
                    still.push((i, accepted));
                }
            }
            waiting = still;
            let over = over_since.map(|since| since.elapsed());
            if over.is_some_and(|time| waiting.is_empty() || time >= WATCH_LIMIT) {
                break;
            }
        }
        if !waiting.is_empty() {
            watch.recorded = None;
        }
        watch
    }

    /// Looks at every 202 until it is in the ledger, newest first, for as long as patience lasts.
    pub async fn check(&self, rush: &Rush, watch: Watch, accepted: &[Accepted], counts: &Counts) -> Ledger {
        let deadline = Instant::now() + self.patience;
        let check = Check { rush, accepted, counts, deadline };
        let mut connections: Vec<_> = (0..READERS).map(|_| Connection::new(self.gateway.clone())).collect();
        let mut last: Vec<Option<Seen>> = accepted.iter().map(|_| None).collect();
        let mut blank: Vec<bool> = (0..accepted.len()).map(|i| watch.blank.contains(&i)).collect();
        let mut settled = watch.recorded;
        let mut open: Vec<usize> = (0..accepted.len()).rev().collect();
        let mut ledger = Ledger::default();
        loop {
            for (i, seen, at) in self.pass(&check, &mut connections, &open).await {
                blank[i] |= seen == Seen::Missing;
                // Who was there at the first look may have been there long before; who was not dates the rest.
                if seen.is_final() && last[i].is_some() {
                    settled = settled.max(Some(at));
                }
                last[i] = Some(seen);
            }
            open.retain(|&i| !last[i].as_ref().is_some_and(Seen::is_final));
            if open.is_empty() || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let last_accepted = rush.tally().last_accepted;
        ledger.checked = rush.elapsed().saturating_sub(last_accepted);
        if open.is_empty() && !accepted.is_empty() {
            // Without anything seen on its way, only the time of the last look is certain.
            ledger.settled = Some(settled.map_or(ledger.checked, |at| at.saturating_sub(last_accepted)));
        }
        for ((accepted, seen), blank) in accepted.iter().zip(last).zip(blank) {
            ledger.count(accepted, seen, blank, self.patience);
        }
        ledger
    }

    /// Looks once at each of `open`; says what was seen when, from the start of the rush.
    async fn pass(
        &self,
        check: &Check<'_>,
        connections: &mut [Connection],
        open: &[usize],
    ) -> Vec<(usize, Seen, Duration)> {
        let next = AtomicUsize::new(0);
        let next = &next;
        let readers = connections.iter_mut().map(|connection| async move {
            let mut looks = Vec::new();
            while Instant::now() < check.deadline
                && let Some(&i) = open.get(next.fetch_add(1, Relaxed))
            {
                let seen = self.look(connection, &check.accepted[i]).await;
                if seen.is_final() {
                    check.counts.step();
                }
                looks.push((i, seen, check.rush.elapsed()));
            }
            looks
        });
        join_all(readers).await.into_iter().flatten().collect()
    }

    async fn look(&self, connection: &mut Connection, accepted: &Accepted) -> Seen {
        let uri = match format!("/v1/reservations/{}", accepted.grant.reservation).parse() {
            Ok(uri) => uri,
            Err(e) => return Seen::Changed(format!("has an id no URL can hold: {e}")),
        };
        let authorization = &self.buyers[accepted.buyer as usize].authorization;
        match connection.get(uri, Some(authorization), READ_LIMIT).await {
            Ok(response) => judge(accepted, &response, Timestamp::now()),
            Err(trouble) => Seen::Unreadable(trouble.to_string()),
        }
    }
}

impl Ledger {
    fn count(&mut self, accepted: &Accepted, seen: Option<Seen>, blank: bool, patience: Duration) {
        let wrong = match seen {
            Some(Seen::Recorded) => {
                self.recorded += 1;
                self.blank_reads += u64::from(blank);
                return;
            }
            Some(Seen::Expired) => {
                self.expired += 1;
                return;
            }
            Some(Seen::Missing) => {
                self.lost += 1;
                "was accepted and is not found".to_owned()
            }
            Some(Seen::Changed(how)) => {
                self.changed += 1;
                how
            }
            Some(Seen::Pending) => {
                self.not_recorded += 1;
                format!("is not in the ledger after {} s", patience.as_secs())
            }
            Some(Seen::Unreadable(why)) => {
                self.not_recorded += 1;
                format!("cannot be read: {why}")
            }
            None => {
                self.not_recorded += 1;
                format!("could not be looked at within {} s", patience.as_secs())
            }
        };
        self.findings.push(format!("reservation {} {wrong}", accepted.grant.reservation));
    }
}

/// Units that two 202s gave away for the same time, one line each. A unit whose hold had run out may be sold again.
pub fn given_twice(accepted: &[Accepted]) -> Vec<String> {
    let mut owners: BTreeMap<UnitNumber, Vec<&Accepted>> = BTreeMap::new();
    for a in accepted {
        for &unit in &a.grant.units {
            owners.entry(unit).or_default().push(a);
        }
    }
    let mut findings = Vec::new();
    for (unit, mut owners) in owners {
        owners.sort_by_key(|a| a.answered);
        if let Some(pair) = owners.windows(2).find(|pair| pair[1].answered_at < pair[0].grant.expires_at) {
            let [first, second] = [pair[0], pair[1]].map(|a| &a.grant.reservation);
            findings.push(format!("unit {unit} was given twice: to {first} and to {second}"));
        }
    }
    findings
}

/// What asking again with the same keys gave.
#[derive(Debug, Default)]
pub struct Replays {
    /// How many were asked for.
    pub asked: u64,
    /// How many were not the first answer, byte for byte.
    pub different: u64,
    /// How many got no answer to compare.
    pub unanswered: u64,
    /// What is wrong, by reservation.
    pub findings: Vec<String>,
}

/// Sends a sample of the accepted requests again: each must get the very answer it got.
pub async fn replay(
    gateway: &Target,
    plan: &Plan,
    buyers: &[Buyer],
    accepted: &[Accepted],
    counts: &Counts,
) -> Replays {
    let mut replays = Replays::default();
    let mut connection = Connection::new(gateway.clone());
    for a in sample(accepted) {
        replays.asked += 1;
        counts.step();
        let wrong = match ask_again(&mut connection, plan, &buyers[a.buyer as usize]).await {
            Ok(response) => match difference(a, &response) {
                None => continue,
                Some(how) => {
                    replays.different += 1;
                    how
                }
            },
            Err(why) => {
                replays.unanswered += 1;
                why
            }
        };
        replays.findings.push(format!("replay of {}: {wrong}", a.grant.reservation));
    }
    replays
}

/// How many replays [`replay`] will ask for.
pub fn replays_of(accepted: &[Accepted]) -> u64 {
    sample(accepted).count() as u64
}

/// At most [`REPLAYS`] of them, spread evenly.
fn sample(accepted: &[Accepted]) -> impl Iterator<Item = &Accepted> {
    accepted.iter().step_by(accepted.len().div_ceil(REPLAYS).max(1))
}

async fn ask_again(connection: &mut Connection, plan: &Plan, buyer: &Buyer) -> Result<Response<Bytes>, String> {
    let mut tries = 1;
    loop {
        let trouble = match connection.exchange(plan.request(buyer), READ_LIMIT).await {
            Ok(response) if !response.status().is_server_error() => return Ok(response),
            Ok(response) => format!("status {}", response.status().as_u16()),
            Err(trouble) => trouble.to_string(),
        };
        if tries == REPLAY_TRIES {
            return Err(trouble);
        }
        tries += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn difference(accepted: &Accepted, response: &Response<Bytes>) -> Option<String> {
    if response.status() != StatusCode::ACCEPTED {
        return Some(format!("status {} after a 202", response.status().as_u16()));
    }
    if *response.body() != accepted.grant.body {
        let text = String::from_utf8_lossy(response.body());
        return Some(format!("another body than the first answer: {text}"));
    }
    let marked = response.headers().get(REPLAYED).is_some_and(|v| v == "true");
    (!marked).then(|| format!("without the header {REPLAYED}: true"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buyer::Grant;
    use onsale_domain::ReservationId;
    use serde_json::{Value, json};

    const ID: &str = "demo.019a5c1e-7b1a-7c3e-9f00-0123456789ab";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000 + seconds * 1000).unwrap()
    }

    /// Answered at `answered`, held for 300 s from then.
    fn accepted(buyer: u32, units: &[UnitNumber], answered: u64) -> Accepted {
        let answered_at = at(i64::try_from(answered).unwrap());
        Accepted {
            buyer,
            grant: Grant {
                reservation: ReservationId::parse("id", ID).unwrap(),
                units: units.to_vec(),
                expires_at: answered_at.plus(Duration::from_secs(300)),
                body: Bytes::from_static(b"{}"),
            },
            answered: Duration::from_secs(answered),
            answered_at,
        }
    }

    fn judged(status: u16, now: Timestamp, change: impl FnOnce(&mut Value)) -> Seen {
        let mut body = json!({
            "reservationId": ID, "saleId": "demo", "state": "held", "units": [{"number": 7}],
            "expiresAt": at(300), "amount": {"amount": 1, "currency": "EUR"}, "recorded": true
        });
        change(&mut body);
        let mut response = Response::new(Bytes::from(serde_json::to_vec(&body).unwrap()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        judge(&accepted(0, &[7], 0), &response, now)
    }

    #[test]
    fn recorded_pending_missing() {
        assert_eq!(judged(200, at(1), |_| ()), Seen::Recorded);
        assert_eq!(judged(200, at(1), |b| b["recorded"] = json!(false)), Seen::Pending);
        let unsaid = judged(200, at(1), |b| drop(b.as_object_mut().unwrap().remove("recorded")));
        assert_eq!(unsaid, Seen::Pending);
        assert_eq!(judged(404, at(1), |_| ()), Seen::Missing);
        assert_eq!(judged(503, at(1), |_| ()), Seen::Unreadable("status 503".into()));
    }

    #[test]
    fn what_is_not_as_answered_is_changed() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 5] = [
            ("[7] and has [8]", |b| b["units"] = json!([{"number": 8}])),
            ("is rejected", |b| b["state"] = json!("rejected")),
            ("is expired", |b| b["state"] = json!("expired")),
            ("another one", |b| b["reservationId"] = json!("demo.019a5c1e-7b1a-7c3e-9f00-0123456789ac")),
            ("no reservation", |b| b["state"] = json!(1)),
        ];
        for (how, change) in cases {
            let Seen::Changed(text) = judged(200, at(1), change) else { panic!("{how}") };
            assert!(text.contains(how), "{how}: {text}");
        }
        assert_eq!(judged(200, at(300), |b| b["state"] = json!("expired")), Seen::Expired);
    }

    #[test]
    fn a_unit_given_twice_is_named() {
        let clean = [accepted(0, &[1, 2], 0), accepted(1, &[3, 4], 1)];
        assert_eq!(given_twice(&clean), Vec::<String>::new());
        let twice = [accepted(0, &[1, 2], 0), accepted(1, &[2, 3], 1), accepted(2, &[2], 2)];
        let findings = given_twice(&twice);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("unit 2 was given twice"));
        assert_eq!(given_twice(&[accepted(0, &[5, 5], 0)]).len(), 1, "twice in one reservation");
    }

    #[test]
    fn a_unit_sold_again_after_its_hold_ran_out_is_fine() {
        assert_eq!(given_twice(&[accepted(0, &[1], 0), accepted(1, &[1], 300)]), Vec::<String>::new());
        // The order of the list does not matter, the order of the answers does.
        assert_eq!(given_twice(&[accepted(1, &[1], 299), accepted(0, &[1], 0)]).len(), 1);
    }

    #[test]
    fn replays_must_be_the_same_and_say_so() {
        let first = accepted(0, &[1], 0);
        let replay = |status: u16, marked: bool, body: &'static str| {
            let mut response = Response::new(Bytes::from_static(body.as_bytes()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if marked {
                response.headers_mut().insert(REPLAYED, http::HeaderValue::from_static("true"));
            }
            difference(&first, &response)
        };
        assert_eq!(replay(202, true, "{}"), None);
        assert!(replay(202, true, "{ }").unwrap().contains("another body"));
        assert!(replay(202, false, "{}").unwrap().contains("idempotent-replayed"));
        assert!(replay(409, true, "{}").unwrap().contains("409"));
    }

    #[test]
    fn samples_are_spread_and_bounded() {
        for (count, sampled) in [(0, 0), (1, 1), (200, 200), (201, 101), (10_000, 200)] {
            let list: Vec<_> = (0..count).map(|i| accepted(i, &[], 0)).collect();
            assert_eq!(sample(&list).count(), sampled, "{count}");
        }
    }
}
