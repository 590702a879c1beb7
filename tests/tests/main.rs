//! Everything together: the compiled programs over real stores.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod bad_input;
mod end_to_end;
mod faults;
mod lambda;
mod openapi;

use onsale_tests::{Answer, Api, Stack, units_of};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A sale of equal units that is open.
fn general(capacity: u32, per_user_limit: u32) -> Value {
    json!({
        "title": "Moonlight", "artist": "The Tides", "opensAt": "2020-01-01T00:00:00Z",
        "unitPrice": {"amount": 5000, "currency": "EUR"},
        "capacity": capacity, "perUserLimit": per_user_limit, "holdSeconds": 3600,
    })
}

/// A sale of seats that is open: 4 in A at the sale's price, 6 in B at another.
fn seated(per_user_limit: u32) -> Value {
    json!({
        "title": "Moonlight", "artist": "The Tides", "opensAt": "2020-01-01T00:00:00Z",
        "unitPrice": {"amount": 5000, "currency": "EUR"},
        "seats": [
            {"section": "A", "rows": 2, "seatsPerRow": 2},
            {"section": "B", "rows": 2, "seatsPerRow": 3, "unitPrice": {"amount": 2000, "currency": "EUR"}},
        ],
        "perUserLimit": per_user_limit, "holdSeconds": 3600,
    })
}

/// Puts on a sale of its own for a test.
async fn on_sale(stack: &Stack, api: &Api, label: &str, config: &Value) -> String {
    let sale = stack.sale(label);
    let path = format!("/v1/sales/{sale}");
    let put = api.insist(|| api.request_as_admin(Method::PUT, &path).json(config)).await;
    // 200 where the answer to the first was lost.
    assert!(put.status == 201 || put.status == 200, "{put:?}");
    sale
}

fn id_of(reservation: &Value) -> String {
    reservation["reservationId"].as_str().expect("a reservationId").to_owned()
}

/// Buyers who all come at once, each for one unit, and insist on an answer; their answers in no order.
async fn rush(api: &Api, sale: &str, buyers: std::ops::Range<u32>) -> Vec<(String, Answer)> {
    let mut crowd = tokio::task::JoinSet::new();
    for n in buyers {
        let (api, sale, user) = (api.clone(), sale.to_owned(), format!("buyer-{n}"));
        crowd.spawn(async move {
            let answer = api.buy(&user, &sale, "one-each", &json!({"quantity": 1})).await;
            (user, answer)
        });
    }
    crowd.join_all().await
}

/// The reservations accepted in a rush, by user; everybody else must have been told that the sale is sold out.
fn accepted(answers: &[(String, Answer)]) -> BTreeMap<String, Value> {
    let mut accepted = BTreeMap::new();
    for (user, answer) in answers {
        if answer.status == 202 {
            accepted.insert(user.clone(), answer.json());
        } else {
            answer.refuses(409, "sold-out");
        }
    }
    accepted
}

/// Waits until the ledger has all of `accepted`, and fails the test unless it has exactly these, each held by its user
/// with its units, no unit twice, and the audit is clean.
async fn assert_recorded(stack: &Stack, sale: &str, accepted: &BTreeMap<String, Value>) {
    stack.wait_clean(sale).await;
    let rows = stack.reservations(sale).await;
    let recorded: BTreeMap<_, _> = rows.iter().map(|row| (row.id.clone(), row)).collect();
    assert_eq!(recorded.len(), rows.len());
    let mut sold = BTreeSet::new();
    for (user, reservation) in accepted {
        let id = id_of(reservation);
        let row = recorded.get(&id).unwrap_or_else(|| panic!("accepted and lost: {reservation}"));
        assert_eq!((row.state, &row.user), (0, user), "{row:?}");
        assert_eq!(row.units, units_of(reservation), "{row:?}");
        assert_eq!(row.owns, row.units, "{row:?}");
        for unit in &row.units {
            assert!(sold.insert(*unit), "unit {unit} was sold twice");
        }
    }
    let held = rows.iter().filter(|row| row.state == 0).count();
    assert_eq!(held, accepted.len(), "the ledger holds reservations that nobody was promised: {rows:?}");
    assert!(rows.iter().all(|row| row.state != 4), "something was sold twice and rejected: {rows:?}");
}
