//! The program itself, against a stub on a loopback port.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod stub;

use serde_json::Value;
use std::{process::Stdio, time::Duration};
use stub::{Running, Stub};
use tokio::process::Command;

const SECRET: &str = "a-secret-for-tests-of-32-bytes-or-more";

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }
}

async fn rush(secret: Option<&str>, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rush"));
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    if let Some(secret) = secret {
        command.env("ONSALE_JWT_SECRET", secret);
    }
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `rush run` against `stub`, with further arguments separated by spaces.
async fn run(stub: &Running, args: &str) -> Outcome {
    let address = stub.address.to_string();
    let mut all = vec!["run", "--sale", "demo", "--gateway", &address, "--processor", &address, "--audit-seconds", "0"];
    all.extend(args.split_whitespace());
    rush(Some(SECRET), &all).await
}

async fn start(stub: Stub) -> Running {
    Stub { secret: Some(SECRET.to_owned()), ..stub }.start(0).await
}

#[tokio::test]
async fn a_rush_that_sells_out_ends_well() {
    let stub =
        start(Stub { capacity: 300, busy_every: Some(7), record_after: Duration::from_millis(200), ..Stub::default() });
    let stub = stub.await;
    let outcome = run(&stub, "--buyers 1000 --rate 2000 --connections 20 --json").await;
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let report = outcome.json();
    assert_eq!(report["ok"], true);
    assert_eq!((report["accepted"].as_u64(), report["soldOut"].as_u64()), (Some(300), Some(700)));
    assert_eq!(report["failures"], 0);
    assert_eq!(report["retried"]["503 try-again"], 142, "every seventh of 1,000, once");
    assert_eq!(report["ledger"]["recorded"], 300);
    let settled = report["ledger"]["seconds"].as_f64().unwrap();
    let checked = report["ledger"]["checkedSeconds"].as_f64().unwrap();
    assert!(settled >= 0.19 && settled <= checked, "recorded after 0.2 s, seen so after {settled}, all by {checked}");
    assert_eq!(report["unitsGivenTwice"], 0);
    assert_eq!(report["replays"]["different"], 0);
    assert_eq!(report["replays"]["asked"], 150);
    assert_eq!(report["audit"]["verdict"], "clean");
    assert_eq!(report["latencyMs"]["accepted"]["count"], 300);
    assert_eq!(report["latencyMs"]["refused"]["count"], 700);
    assert_eq!(stub.users(), 1000, "each buyer is its own user");
    let achieved = report["arrivals"]["achievedPerSecond"].as_f64().unwrap();
    assert!((1.0..2001.0).contains(&achieved), "{achieved} per second where 2,000 were asked for");
}

#[tokio::test]
async fn several_units_each_and_all_at_once() {
    let stub = start(Stub { capacity: 10, ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 8 --rate 0 --quantity 3").await;
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    for part in ["8 buyers of 3, all at once", "accepted                          3", "\nOK\n"] {
        assert!(outcome.stdout.contains(part), "{part} in\n{}", outcome.stdout);
    }
    assert!(outcome.stderr.contains("rush: 8 of 8"), "progress without a terminal: {}", outcome.stderr);
}

#[tokio::test]
async fn a_unit_given_twice_is_found_and_named() {
    let stub = start(Stub { capacity: 100, give_twice: Some(41), ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 100 --rate 2000").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stdout.contains("unit 41 was given twice: to demo."), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("\nNOT OK\n"));
}

#[tokio::test]
async fn a_lost_reservation_is_found_and_named() {
    let stub = start(Stub { capacity: 100, lose: Some(5), ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 50 --rate 2000 --settle-seconds 1 --json").await;
    assert_eq!(outcome.code, 1);
    let report = outcome.json();
    assert_eq!((report["ledger"]["lost"].as_u64(), report["ledger"]["recorded"].as_u64()), (Some(1), Some(49)));
    assert!(report["findings"][0].as_str().unwrap().contains("was accepted and is not found"));
}

#[tokio::test]
async fn what_never_reaches_the_ledger_is_waited_for_and_then_said() {
    let stub = start(Stub { capacity: 5, record_after: Duration::from_secs(3600), ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 5 --rate 0 --settle-seconds 1 --json").await;
    assert_eq!(outcome.code, 1);
    let report = outcome.json();
    assert_eq!(report["ledger"]["notRecorded"], 5);
    assert_eq!(report["ledger"]["seconds"], Value::Null);
}

#[tokio::test]
async fn replays_that_differ_and_a_violated_audit_fail_the_run() {
    let stub =
        start(Stub { capacity: 5, forgetful: true, audit: vec!["unit 3 has two owners".into()], ..Stub::default() });
    let stub = stub.await;
    let outcome = run(&stub, "--buyers 5 --rate 0 --json").await;
    assert_eq!(outcome.code, 1);
    let report = outcome.json();
    assert_eq!(report["replays"]["different"], 5);
    assert_eq!(report["audit"]["verdict"], "violated");
    assert_eq!(report["audit"]["findings"][0], "unit 3 has two owners");
}

#[tokio::test]
async fn buyers_who_never_get_to_know_are_failures() {
    let stub = start(Stub { capacity: 5, always_busy: true, ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 5 --rate 0 --retries 2 --json").await;
    assert_eq!(outcome.code, 1);
    let report = outcome.json();
    assert_eq!(report["failuresByCause"]["503 try-again"], 5);
    assert_eq!(report["retried"]["503 try-again"], 10);
}

#[tokio::test]
async fn a_stall_counts_for_everybody_it_delays() {
    let stub = start(Stub { capacity: 100, stall: Duration::from_millis(500), ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 100 --rate 1000 --connections 1 --json").await;
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let report = outcome.json();
    let (felt, one_try) = (&report["latencyMs"]["accepted"]["p50"], &report["latencyMs"]["oneTry"]["p50"]);
    assert!(felt.as_f64().unwrap() > 400.0, "from the intended start: {felt} ms");
    assert!(one_try.as_f64().unwrap() < 100.0, "from the send: {one_try} ms");
    assert_eq!(report["arrivals"]["keptUp"], false);
}

#[tokio::test]
async fn connections_that_end_are_opened_again_at_no_cost_to_the_buyer() {
    let stub = start(Stub { capacity: 50, close: true, ..Stub::default() }).await;
    let outcome = run(&stub, "--buyers 200 --rate 2000 --connections 4 --json").await;
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let report = outcome.json();
    assert_eq!((report["accepted"].as_u64(), report["soldOut"].as_u64()), (Some(50), Some(150)));
    assert_eq!(report["retried"], serde_json::json!({}));
}

#[tokio::test]
async fn wrong_usage_is_2_and_says_what_is_right() {
    for (secret, args, says) in [
        (None, "token --user alice", "ONSALE_JWT_SECRET"),
        (Some("short"), "token --user alice", "ONSALE_JWT_SECRET"),
        (None, "run --sale demo --buyers 1", "ONSALE_JWT_SECRET"),
        (Some(SECRET), "run --sale demo --buyers 1 --gateway http://10.0.0.1:3000", "loopback only"),
        (Some(SECRET), "run --sale demo --buyers 1 --processor http://example.com", "loopback only"),
        (Some(SECRET), "run --sale Demo --buyers 1", "[a-z0-9-]{1,64}"),
        (Some(SECRET), "run --sale demo --buyers 0", "not in 1.."),
        (Some(SECRET), "run --buyers 1", "--sale"),
        (Some(SECRET), "", "Usage"),
    ] {
        let outcome = rush(secret, &args.split_whitespace().collect::<Vec<_>>()).await;
        assert_eq!(outcome.code, 2, "{args}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{args}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
}

#[tokio::test]
async fn what_makes_a_rush_pointless_is_said_before_it() {
    let nobody = ["run", "--sale", "demo", "--buyers", "1", "--gateway", "127.0.0.1:1"];
    let outcome = rush(Some(SECRET), &nobody).await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("nothing answers at http://127.0.0.1:1"), "{}", outcome.stderr);

    let stub = start(Stub { capacity: 1, ..Stub::default() }).await;
    let address = stub.address.to_string();
    for (secret, sale, says) in [
        (SECRET, "unknown", "knows no sale unknown"),
        ("another-secret-of-32-bytes-or-more-", "demo", "ONSALE_JWT_SECRET"),
    ] {
        let outcome = rush(Some(secret), &["run", "--sale", sale, "--buyers", "1", "--gateway", &address]).await;
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
    }
}

#[tokio::test]
async fn tokens_are_printed_and_nothing_else() {
    let outcome = rush(Some(SECRET), &["token", "--user", "alice", "--admin"]).await;
    assert_eq!(outcome.code, 0);
    let token = outcome.stdout.strip_suffix('\n').unwrap();
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(outcome.stderr, "");
}
