//! What is said at the end: a table for people, one JSON object for programs, and the verdict.

use crate::{
    audit::Audit,
    latency::Figures,
    load::Tally,
    verify::{Ledger, Replays},
};
use onsale_domain::{ProblemType, SaleId};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// A first try that leaves later than this after its intended start (99th percentile) means that the arrivals were
/// not those that were asked for.
const LAG_ALLOWED_MS: f64 = 10.0;
/// How many findings are printed; JSON has all.
const FINDINGS_SHOWN: usize = 20;

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Of which sale.
    pub sale: SaleId,
    /// The name of this run; its users are `rush-<run>-<number>`.
    pub run: String,
    /// How many came.
    pub buyers: u32,
    /// How many per second; 0: all at once.
    pub rate: u32,
    /// Over how many connections.
    pub connections: u32,
    /// How many units each wanted.
    pub quantity: u32,
    /// How often each would try again.
    pub retries: u32,
}

/// Everything that is known at the end of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether nothing was lost, nothing given twice, nobody left without an answer, and the audit clean.
    pub ok: bool,
    #[serde(flatten)]
    asked: Asked,
    accepted: u64,
    sold_out: u64,
    /// By the name of the problem type.
    other_refusals: BTreeMap<String, u64>,
    /// Tries that were followed by another, by what they met.
    retried: BTreeMap<String, u64>,
    failures: u64,
    failures_by_cause: BTreeMap<String, u64>,
    latency_ms: Latencies,
    arrivals: Arrivals,
    accepted_per_second: Option<f64>,
    ledger: InLedger,
    units_given_twice: u64,
    replays: Replayed,
    audit: Verdict,
    findings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Latencies {
    /// From the intended start to the 202.
    accepted: Option<Figures>,
    /// From the intended start to the refusal.
    refused: Option<Figures>,
    /// One answered try, from its real send.
    one_try: Option<Figures>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Arrivals {
    seconds: f64,
    achieved_per_second: Option<f64>,
    answered_per_second: Option<f64>,
    /// From the intended start to the first send, which waits for a free connection.
    send_lag_p99_ms: Option<f64>,
    /// The part of it that is the generator's own.
    generator_lag_p99_ms: Option<f64>,
    /// Not said where all came at once: then a lag is what was asked for.
    kept_up: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InLedger {
    recorded: u64,
    expired: u64,
    not_recorded: u64,
    lost: u64,
    changed: u64,
    blank_reads: u64,
    /// From the last 202 until none was seen missing from the ledger any more.
    seconds: Option<f64>,
    /// From the last 202 until each had been looked at.
    checked_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Replayed {
    asked: u64,
    different: u64,
    unanswered: u64,
}

#[derive(Debug, Serialize)]
struct Verdict {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    findings: Vec<String>,
}

impl Report {
    /// Sums up.
    pub fn new(
        asked: Asked,
        tally: &Tally,
        ledger: Ledger,
        given_twice: Vec<String>,
        replays: Replays,
        audit: Audit,
    ) -> Self {
        let mut other_refusals: BTreeMap<_, _> = tally.refused.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        let sold_out = other_refusals.remove(ProblemType::SoldOut.name()).unwrap_or(0);
        let failures = tally.failed.values().sum();
        let accepted = tally.accepted.len() as u64;
        let given = given_twice.len() as u64;
        let ok = failures == 0
            && ledger.lost + ledger.not_recorded + ledger.changed == 0
            && given == 0
            && replays.different + replays.unanswered == 0
            && audit == Audit::Clean;
        let mut findings = given_twice;
        findings.extend(ledger.findings);
        findings.extend(replays.findings);
        Self {
            ok,
            accepted,
            sold_out,
            other_refusals,
            retried: tally.retried.iter().map(|(k, v)| (k.to_string(), *v)).collect(),
            failures,
            failures_by_cause: tally.failed.clone(),
            latency_ms: Latencies {
                accepted: tally.accepted_latency.figures(),
                refused: tally.refused_latency.figures(),
                one_try: tally.try_latency.figures(),
            },
            arrivals: Arrivals::new(&asked, tally),
            accepted_per_second: per_second(accepted, tally.last_accepted),
            ledger: InLedger {
                recorded: ledger.recorded,
                expired: ledger.expired,
                not_recorded: ledger.not_recorded,
                lost: ledger.lost,
                changed: ledger.changed,
                blank_reads: ledger.blank_reads,
                seconds: ledger.settled.map(|d| d.as_secs_f64()),
                checked_seconds: ledger.checked.as_secs_f64(),
            },
            units_given_twice: given,
            replays: Replayed { asked: replays.asked, different: replays.different, unanswered: replays.unanswered },
            audit: Verdict::from(audit),
            findings,
            asked,
        }
    }
}

impl Arrivals {
    fn new(asked: &Asked, tally: &Tally) -> Self {
        let p99 = |f: Option<Figures>| f.map(|f| f.p99);
        let send_lag = p99(tally.send_lag.figures());
        Self {
            seconds: tally.last_sent.as_secs_f64(),
            // The first comes at 0, so that `buyers` arrivals span one interval fewer.
            achieved_per_second: per_second(u64::from(asked.buyers.saturating_sub(1)), tally.last_sent),
            answered_per_second: per_second(u64::from(asked.buyers), tally.last_end),
            send_lag_p99_ms: send_lag,
            generator_lag_p99_ms: p99(tally.release_lag.figures()),
            kept_up: send_lag.filter(|_| asked.rate > 0).map(|lag| lag <= LAG_ALLOWED_MS),
        }
    }

    /// What to make of arrivals that were late.
    fn advice(&self) -> &'static str {
        match (self.kept_up, self.generator_lag_p99_ms) {
            (None, _) => "",
            (Some(true), _) => "  kept up",
            (Some(false), Some(own)) if own > LAG_ALLOWED_MS => {
                "  NOT kept up: rush itself was late, it got too little processor time for this rate"
            }
            (Some(false), _) => {
                "  NOT kept up: all connections were busy, answers were slower than arrivals (see --connections)"
            }
        }
    }
}

impl From<Audit> for Verdict {
    fn from(audit: Audit) -> Self {
        match audit {
            Audit::Clean => Self { verdict: "clean", reason: None, findings: Vec::new() },
            Audit::Dirty(findings) => Self { verdict: "violated", reason: None, findings },
            Audit::Unavailable(why) => Self { verdict: "unavailable", reason: Some(why), findings: Vec::new() },
        }
    }
}

fn per_second(count: u64, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked { sale, run, buyers, rate, connections, quantity, .. } = &self.asked;
        let rate = if *rate == 0 { "all at once".to_owned() } else { format!("{} per second", grouped(*rate)) };
        writeln!(
            f,
            "sale {sale}: {} buyers of {quantity}, {rate}, {connections} connections (run {run})",
            grouped(*buyers)
        )?;

        writeln!(f, "\nanswers")?;
        row(f, "accepted", grouped(self.accepted))?;
        row(f, "sold out", grouped(self.sold_out))?;
        row(f, "other refusals", by_name(&self.other_refusals))?;
        row(f, "retried", by_name(&self.retried))?;
        row(f, "failures", by_name(&self.failures_by_cause))?;

        let l = &self.latency_ms;
        writeln!(f, "\n{:<26}{:>11}{:>11}{:>11}{:>11}", "latency in ms", "p50", "p95", "p99", "max")?;
        for (name, figures) in [("accepted", l.accepted), ("refused", l.refused), ("one try, from its send", l.one_try)]
        {
            match figures {
                Some(v) => writeln!(f, "  {name:<24}{:>11.2}{:>11.2}{:>11.2}{:>11.2}", v.p50, v.p95, v.p99, v.max)?,
                None => writeln!(f, "  {name:<24}{0:>11}{0:>11}{0:>11}{0:>11}", "-")?,
            }
        }

        let a = &self.arrivals;
        writeln!(f, "\nspeed")?;
        row(f, "arrived per second", format!("{}{}", rounded(a.achieved_per_second), a.advice()))?;
        let lags = (milliseconds(a.send_lag_p99_ms), milliseconds(a.generator_lag_p99_ms));
        says(f, "waited to be sent, p99", format!("{}, of which rush itself {}", lags.0, lags.1))?;
        row(f, "answered per second", rounded(a.answered_per_second))?;
        row(f, "accepted per second", rounded(self.accepted_per_second))?;

        let l = &self.ledger;
        writeln!(f, "\nafterwards")?;
        says(f, "all in the ledger", self.in_ledger())?;
        if l.expired > 0 {
            row(f, "expired meanwhile", grouped(l.expired))?;
        }
        if l.blank_reads > 0 {
            row(f, "not found for a while", grouped(l.blank_reads))?;
        }
        row(f, "lost", grouped(l.lost))?;
        row(f, "not recorded in time", grouped(l.not_recorded))?;
        row(f, "changed", grouped(l.changed))?;
        row(f, "units given twice", grouped(self.units_given_twice))?;
        let Replayed { asked, different, unanswered } = self.replays;
        says(f, "replays", format!("{asked} asked, {different} different, {unanswered} unanswered"))?;
        let reason = self.audit.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        says(f, "audit", format!("{}{reason}", self.audit.verdict))?;

        let findings: Vec<_> = self.findings.iter().chain(&self.audit.findings).collect();
        if !findings.is_empty() {
            writeln!(f, "\nfindings")?;
            for finding in findings.iter().take(FINDINGS_SHOWN) {
                writeln!(f, "  {finding}")?;
            }
            if let Some(more @ 1..) = findings.len().checked_sub(FINDINGS_SHOWN) {
                writeln!(f, "  and {} more (--json has all)", grouped(more as u64))?;
            }
        }
        writeln!(f, "\n{}", if self.ok { "OK" } else { "NOT OK" })
    }
}

impl Report {
    fn in_ledger(&self) -> String {
        let l = &self.ledger;
        match l.seconds {
            _ if self.accepted == 0 => "nothing was accepted".to_owned(),
            Some(s) => format!("{s:.2} s after the last 202 (each one read by {:.2} s)", l.checked_seconds),
            None => format!("no, {} of {}", grouped(l.recorded + l.expired), grouped(self.accepted)),
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<24}{value:>11}")
}

/// A row whose value is no number.
fn says(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<24}  {value}")
}

fn rounded(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| grouped(v.round() as u64))
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2} ms"))
}

/// `12: 503 try-again 10, timeout 2`
fn by_name(counts: &BTreeMap<String, u64>) -> String {
    let total = grouped(counts.values().sum::<u64>());
    let parts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    if parts.is_empty() { total } else { format!("{total:>11}  ({})", parts.join(", ")) }
}

/// `1,234,567`
fn grouped(n: impl Into<u64>) -> String {
    let digits = n.into().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{buyer::Grant, load::Accepted};
    use onsale_domain::{ReservationId, Timestamp};

    fn asked() -> Asked {
        Asked {
            sale: SaleId::parse("saleId", "demo").unwrap(),
            run: "0a1b2c3d".into(),
            buyers: 3_001,
            rate: 1_000,
            connections: 200,
            quantity: 1,
            retries: 3,
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally::new().unwrap();
        tally.accepted.push(Accepted {
            buyer: 0,
            grant: Grant {
                reservation: ReservationId::generate(SaleId::parse("saleId", "demo").unwrap()),
                units: vec![1],
                expires_at: Timestamp::now(),
                body: Default::default(),
            },
            answered: Duration::from_millis(2),
            answered_at: Timestamp::now(),
        });
        tally.refused.insert("sold-out".into(), 2_990);
        tally.refused.insert("not-open".into(), 10);
        tally.retried.insert("503 try-again".into(), 4);
        tally.accepted_latency.record(Duration::from_micros(1_500));
        tally.send_lag.record(Duration::from_micros(300));
        tally.last_sent = Duration::from_secs(3);
        tally.last_end = Duration::from_secs(3);
        tally.last_accepted = Duration::from_millis(500);
        tally
    }

    fn settled() -> Ledger {
        Ledger { recorded: 1, settled: Some(Duration::from_millis(120)), ..Ledger::default() }
    }

    fn report(tally: &Tally, ledger: Ledger, twice: Vec<String>, replays: Replays, audit: Audit) -> Report {
        Report::new(asked(), tally, ledger, twice, replays, audit)
    }

    #[test]
    fn a_good_run() {
        let report = report(&tally(), settled(), vec![], Replays::default(), Audit::Clean);
        assert!(report.ok);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["sale"], "demo");
        assert_eq!((&json["accepted"], &json["soldOut"]), (&1.into(), &2_990.into()));
        assert_eq!(json["otherRefusals"], serde_json::json!({"not-open": 10}));
        assert_eq!(json["retried"], serde_json::json!({"503 try-again": 4}));
        assert_eq!(json["latencyMs"]["accepted"]["count"], 1);
        assert_eq!(json["latencyMs"]["refused"], serde_json::Value::Null);
        assert_eq!(json["arrivals"]["achievedPerSecond"], 1_000.0);
        assert_eq!(json["arrivals"]["keptUp"], true);
        assert_eq!(json["acceptedPerSecond"], 2.0);
        assert_eq!(json["ledger"]["seconds"], 0.12);
        assert_eq!(json["audit"]["verdict"], "clean");
        let table = report.to_string();
        for part in ["3,001 buyers", "2,990", "(not-open 10)", "1.50", "kept up", "0.12 s after", "clean", "\nOK\n"] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }

    #[test]
    fn each_broken_promise_fails_the_run_and_is_named() {
        let clean = || (tally(), settled(), vec![], Replays::default(), Audit::Clean);
        type Change = fn(&mut (Tally, Ledger, Vec<String>, Replays, Audit));
        let cases: [(&str, Change); 9] = [
            ("timeout 1", |c| *c.0.failed.entry("timeout".into()).or_default() += 1),
            ("lost", |c| (c.1.lost, c.1.settled) = (1, None)),
            ("no, 1 of 1", |c| (c.1.not_recorded, c.1.settled) = (1, None)),
            ("changed", |c| c.1.changed = 1),
            ("unit 7 was given twice", |c| c.2.push("unit 7 was given twice".into())),
            ("1 different", |c| c.3.different = 1),
            ("1 unanswered", |c| c.3.unanswered = 1),
            ("two owners", |c| c.4 = Audit::Dirty(vec!["two owners".into()])),
            ("unavailable: gone", |c| c.4 = Audit::Unavailable("gone".into())),
        ];
        for (named, change) in cases {
            let mut case = clean();
            change(&mut case);
            let report = report(&case.0, case.1, case.2, case.3, case.4);
            let table = report.to_string();
            assert!(!report.ok, "{named}");
            assert!(table.contains(named), "{named} in\n{table}");
            assert!(table.ends_with("\nNOT OK\n"));
        }
    }

    #[test]
    fn late_arrivals_are_said_with_their_cause() {
        let mut late = tally();
        late.send_lag.record(Duration::from_millis(200));
        let text = |t: &Tally| report(t, settled(), vec![], Replays::default(), Audit::Clean).to_string();
        assert!(text(&late).contains("all connections were busy"));
        late.release_lag.record(Duration::from_millis(200));
        assert!(text(&late).contains("rush itself was late"));
    }

    #[test]
    fn long_lists_of_findings_are_cut_in_the_table_only() {
        let twice: Vec<_> = (0..25).map(|i| format!("unit {i}")).collect();
        let report = report(&tally(), settled(), twice, Replays::default(), Audit::Clean);
        assert!(report.to_string().contains("and 5 more"));
        assert_eq!(serde_json::to_value(&report).unwrap()["findings"].as_array().unwrap().len(), 25);
    }

    #[test]
    fn thousands_are_grouped() {
        for (n, text) in [(0u32, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(n), text);
        }
    }
}
