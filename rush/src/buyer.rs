//! One buyer: who it is, what it asks for, how an answer is read and what comes next.
//!
//! The plan of this file is general admission: one request, one answer. A further scenario is a further plan with
//! its own `request` and `read`; arrivals, connections and retries stay as they are.

use crate::{progress::Counts, target::Target, token::Signer, wire::Trouble};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use http_body_util::Full;
use onsale_domain::{ProblemType, Reservation, ReservationId, ReservationState, SaleId, Timestamp, UnitNumber};
use rand::Rng;
use serde::Deserialize;
use std::{borrow::Cow, num::NonZeroUsize, thread, time::Duration};
use uuid::Builder;

/// The header that makes a request safe to send again.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How long a buyer's token holds; longer than any run.
const TOKEN_VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// A `Retry-After` beyond this is not waited for in full: the run is to end.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The first wait without a `Retry-After`; doubles from try to try.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait without a `Retry-After`.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Added to a `Retry-After` at random, so that those sent away together do not come back together.
const SPREAD: Duration = Duration::from_millis(250);
/// In the design's contract, though not sent by every version: the first try of this very key has not ended yet.
const REQUEST_IN_FLIGHT: &str = "request-in-flight";

/// One buyer, everything of its request made in advance.
pub struct Buyer {
    /// `Bearer <token>`, its own.
    pub authorization: HeaderValue,
    /// Its own key, the same for every try.
    pub key: HeaderValue,
}

impl Buyer {
    fn new(signer: &Signer, user: &str) -> Result<Self> {
        let token = signer.sign(user, None, TOKEN_VALID_FOR).context("cannot sign a token")?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))?;
        authorization.set_sensitive(true);
        // From this thread's generator: asking the kernel for each costs more than signing does.
        let key = Builder::from_random_bytes(rand::random()).into_uuid();
        Ok(Self { authorization, key: HeaderValue::try_from(key.to_string())? })
    }
}

/// `count` buyers that no run had before, on all cores. `run` tells the runs apart: a buyer who came twice would
/// meet the limit per user.
pub fn gather(signer: &Signer, run: &str, count: u32, counts: &Counts) -> Result<Vec<Buyer>> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = (count as usize).div_ceil(threads).max(1);
    let numbers: Vec<u32> = (0..count).collect();
    let shares: Vec<Result<Vec<Buyer>>> = thread::scope(|scope| {
        let workers: Vec<_> = numbers
            .chunks(share)
            .map(|numbers| {
                scope.spawn(move || {
                    let buyer = |n| Buyer::new(signer, &format!("rush-{run}-{n}")).inspect(|_| counts.step());
                    numbers.iter().map(buyer).collect()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a thread that signs tokens panicked"))))
            .collect()
    });
    let mut buyers = Vec::with_capacity(count as usize);
    for share in shares {
        buyers.extend(share?);
    }
    Ok(buyers)
}

/// What every buyer asks for: `quantity` units of `sale`, whichever they are.
pub struct Plan {
    sale: SaleId,
    quantity: u32,
    host: HeaderValue,
    uri: Uri,
    body: Bytes,
}

/// What a 202 gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To read it back by.
    pub reservation: ReservationId,
    /// The units, as numbered.
    pub units: Vec<UnitNumber>,
    /// Until when they are this buyer's without a payment.
    pub expires_at: Timestamp,
    /// The answer's body: a replay must have the same, byte for byte.
    pub body: Bytes,
}

/// What one try was answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// 202.
    Accepted(Grant),
    /// A refusal that no retry changes, by the name of its problem type.
    Refused(Cow<'static, str>),
    /// Nothing is known yet; `wait` is what the server asked for.
    Again {
        /// A short name to count by.
        why: Cow<'static, str>,
        /// `Retry-After`.
        wait: Option<Duration>,
    },
    /// An answer the contract does not have.
    Broken(String),
}

impl From<Trouble> for Answer {
    fn from(trouble: Trouble) -> Self {
        Self::Again { why: trouble.name().into(), wait: None }
    }
}

impl Plan {
    /// `quantity` units of `sale`, from `gateway`.
    pub fn new(gateway: &Target, sale: SaleId, quantity: u32) -> Result<Self> {
        let uri = format!("/v1/sales/{sale}/reservations").parse()?;
        let body = serde_json::to_vec(&serde_json::json!({ "quantity": quantity }))?.into();
        Ok(Self { sale, quantity, host: gateway.host.clone(), uri, body })
    }

    /// The request of `buyer`; the same for every try.
    pub fn request(&self, buyer: &Buyer) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(6);
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, buyer.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(IDEMPOTENCY_KEY, buyer.key.clone());
        request
    }

    /// What `response` says.
    pub fn read(&self, response: &Response<Bytes>) -> Answer {
        let (status, body) = (response.status(), response.body());
        if status == StatusCode::ACCEPTED {
            return self.grant(body).map_or_else(|why| Answer::Broken(format!("a 202 that {why}")), Answer::Accepted);
        }
        let problem = problem_name(body);
        // A 5xx says that nothing is known, whatever sent it, and the key makes asking again safe.
        if status.is_server_error() || problem.as_deref() == Some(REQUEST_IN_FLIGHT) {
            let why = format!("{} {}", status.as_u16(), problem.as_deref().unwrap_or("without a problem type"));
            return Answer::Again { why: why.into(), wait: retry_after(response.headers()) };
        }
        if status.is_client_error() {
            return Answer::Refused(problem.unwrap_or_else(|| format!("status {}", status.as_u16()).into()));
        }
        Answer::Broken(format!("status {}", status.as_u16()))
    }

    fn grant(&self, body: &Bytes) -> Result<Grant, String> {
        let r: Reservation = serde_json::from_slice(body).map_err(|e| format!("is no reservation: {e}"))?;
        if r.sale_id != self.sale || r.reservation_id.sale != self.sale {
            return Err(format!("is of another sale: {}", r.reservation_id));
        }
        if r.state != ReservationState::Held {
            return Err(format!("is not held but {}", r.state.name()));
        }
        if r.units.len() != self.quantity as usize {
            return Err(format!("has {} units of {}", r.units.len(), self.quantity));
        }
        Ok(Grant {
            reservation: r.reservation_id,
            units: r.units.iter().map(|u| u.number).collect(),
            expires_at: r.expires_at,
            // A copy: the original is a slice of a larger read buffer and would keep all of it.
            body: Bytes::copy_from_slice(body),
        })
    }
}

/// The last part of `type`, where the body is a problem of ours.
pub fn problem_name(body: &[u8]) -> Option<Cow<'static, str>> {
    #[derive(Deserialize)]
    struct Problem<'a> {
        #[serde(rename = "type", borrow)]
        urn: Cow<'a, str>,
    }
    let problem: Problem<'_> = serde_json::from_slice(body).ok()?;
    let name = problem.urn.strip_prefix("urn:onsale:problem:")?;
    let known = ProblemType::ALL.into_iter().map(ProblemType::name).find(|known| *known == name);
    Some(known.map_or_else(|| name.to_owned().into(), Cow::Borrowed))
}

/// `Retry-After` in seconds; its other form, a date, is not used here.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// How it ended for a buyer.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With units.
    Accepted(Grant),
    /// With a refusal, by the name of its problem type.
    Refused(Cow<'static, str>),
    /// Without knowing: the last try got no answer, or none the contract has.
    Failed(String),
}

/// What a buyer does after a try.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// It is over.
    Stop(End),
    /// The same request once more, later.
    Retry {
        /// A short name to count by.
        why: Cow<'static, str>,
        /// How much later.
        wait: Duration,
    },
}

/// Decides after the `tries`-th try (from 1), where up to `retries` more than the first are allowed.
pub fn next(answer: Answer, tries: u32, retries: u32, rng: &mut impl Rng) -> Next {
    match answer {
        Answer::Accepted(grant) => Next::Stop(End::Accepted(grant)),
        Answer::Refused(name) => Next::Stop(End::Refused(name)),
        Answer::Broken(what) => Next::Stop(End::Failed(what)),
        Answer::Again { why, .. } if tries > retries => Next::Stop(End::Failed(why.into_owned())),
        Answer::Again { why, wait: Some(asked) } => {
            Next::Retry { why, wait: asked.min(LONGEST_WAIT) + rng.random_range(Duration::ZERO..SPREAD) }
        }
        Answer::Again { why, wait: None } => {
            let most = FIRST_BACKOFF.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_BACKOFF);
            Next::Retry { why, wait: rng.random_range(most / 2..=most) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan() -> Plan {
        let gateway = Target::parse("http://127.0.0.1:3000").unwrap();
        Plan::new(&gateway, SaleId::parse("saleId", "demo").unwrap(), 2).unwrap()
    }

    fn granted() -> Value {
        json!({
            "reservationId": "demo.019a5c1e-7b1a-7c3e-9f00-0123456789ab", "saleId": "demo", "state": "held",
            "units": [{"number": 3}, {"number": 4}], "expiresAt": "2026-12-01T11:00:00.000Z",
            "amount": {"amount": 200, "currency": "EUR"}
        })
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &Value) -> Answer {
        let mut response = Response::new(Bytes::from(serde_json::to_vec(body).unwrap()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        plan().read(&response)
    }

    fn problem(name: &str) -> Value {
        json!({ "type": format!("urn:onsale:problem:{name}"), "title": "t", "status": 0, "detail": "d" })
    }

    fn again(why: &'static str, seconds: Option<u64>) -> Answer {
        Answer::Again { why: why.into(), wait: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn a_request_is_the_contracts() {
        let signer_free =
            Buyer { authorization: HeaderValue::from_static("Bearer x"), key: HeaderValue::from_static("k") };
        let request = plan().request(&signer_free);
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "/v1/sales/demo/reservations");
        for (name, value) in [
            ("host", "127.0.0.1:3000"),
            ("authorization", "Bearer x"),
            ("idempotency-key", "k"),
            ("content-type", "application/json"),
        ] {
            assert_eq!(request.headers()[name], value);
        }
        assert_eq!(plan().body, r#"{"quantity":2}"#);
    }

    #[test]
    fn a_202_gives_its_units() {
        let Answer::Accepted(grant) = answer(202, &[], &granted()) else { panic!() };
        assert_eq!(grant.units, [3, 4]);
        assert_eq!(grant.reservation.to_string(), granted()["reservationId"]);
        assert_eq!(serde_json::from_slice::<Value>(&grant.body).unwrap(), granted());
    }

    #[test]
    fn a_202_that_breaks_the_contract_is_no_acceptance() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 5] = [
            ("no reservation", |b| b["units"] = json!("3")),
            ("no reservation", |b| b["reservationId"] = json!("demo")),
            ("another sale", |b| b["saleId"] = json!("other")),
            ("not held but rejected", |b| b["state"] = json!("rejected")),
            ("1 units of 2", |b| b["units"] = json!([{"number": 3}])),
        ];
        for (why, change) in cases {
            let mut body = granted();
            change(&mut body);
            let Answer::Broken(what) = answer(202, &[], &body) else { panic!("{body}") };
            assert!(what.contains(why), "{why}: {what}");
        }
    }

    #[test]
    fn refusals_go_by_the_name_of_their_type() {
        for name in ["sold-out", "limit-reached", "not-open", "something-new"] {
            assert_eq!(answer(409, &[], &problem(name)), Answer::Refused(name.into()));
        }
        assert_eq!(answer(429, &[("retry-after", "1")], &json!({})), Answer::Refused("status 429".into()));
        assert_eq!(answer(200, &[], &granted()), Answer::Broken("status 200".into()));
        assert_eq!(answer(302, &[], &json!({})), Answer::Broken("status 302".into()));
    }

    #[test]
    fn what_leaves_it_open_is_asked_again() {
        let wait = [("retry-after", "2")];
        assert_eq!(answer(503, &wait, &problem("try-again")), again("503 try-again", Some(2)));
        assert_eq!(answer(503, &[], &problem("try-again")), again("503 try-again", None));
        assert_eq!(answer(502, &[], &json!({})), again("502 without a problem type", None));
        assert_eq!(answer(409, &[], &problem("request-in-flight")), again("409 request-in-flight", None));
        assert_eq!(Answer::from(Trouble::Timeout), again("timeout", None));
    }

    #[test]
    fn retries_end_and_the_last_one_is_a_failure() {
        let rng = &mut rand::rng();
        for tries in 1..=3 {
            assert!(matches!(next(again("timeout", None), tries, 3, rng), Next::Retry { .. }), "{tries}");
        }
        assert_eq!(next(again("timeout", None), 4, 3, rng), Next::Stop(End::Failed("timeout".into())));
        assert_eq!(next(again("timeout", None), 1, 0, rng), Next::Stop(End::Failed("timeout".into())));
    }

    #[test]
    fn refusals_and_broken_answers_are_never_retried() {
        let rng = &mut rand::rng();
        let refused = next(Answer::Refused("sold-out".into()), 1, 3, rng);
        assert_eq!(refused, Next::Stop(End::Refused("sold-out".into())));
        let broken = next(Answer::Broken("status 200".into()), 1, 3, rng);
        assert_eq!(broken, Next::Stop(End::Failed("status 200".into())));
    }

    #[test]
    fn waits_follow_retry_after_or_grow() {
        let rng = &mut rand::rng();
        let mut waits = |wait, tries| match next(again("x", wait), tries, u32::MAX, rng) {
            Next::Retry { wait, .. } => wait,
            Next::Stop(end) => panic!("{end:?}"),
        };
        for _ in 0..100 {
            let asked = waits(Some(2), 1);
            assert!((Duration::from_secs(2)..Duration::from_secs(2) + SPREAD).contains(&asked), "{asked:?}");
            assert!(waits(Some(86_400), 1) < LONGEST_WAIT + SPREAD);
            assert!((FIRST_BACKOFF / 2..=FIRST_BACKOFF).contains(&waits(None, 1)));
            assert!((FIRST_BACKOFF * 2..=FIRST_BACKOFF * 4).contains(&waits(None, 3)));
            assert!(waits(None, 1_000_000) <= LONGEST_BACKOFF);
        }
    }

    #[test]
    fn buyers_are_all_different() {
        temp_secret(|signer| {
            let counts = Counts::default();
            let buyers = gather(signer, "test", 101, &counts).unwrap();
            let keys: std::collections::HashSet<_> = buyers.iter().map(|b| &b.key).collect();
            let tokens: std::collections::HashSet<_> = buyers.iter().map(|b| &b.authorization).collect();
            assert_eq!((buyers.len(), keys.len(), tokens.len()), (101, 101, 101));
            assert_eq!(counts.done.into_inner(), 101);
        });
    }

    fn temp_secret(test: impl FnOnce(&Signer)) {
        test(&Signer::new(b"0123456789abcdef0123456789abcdef").unwrap());
    }
}
