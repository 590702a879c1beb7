//! The API document: generated from code, kept as a snapshot, served.

use onsale_tests::{Stack, program};
use serde_json::Value;
use std::{collections::BTreeSet, path::Path, process::Command};

const RENEW: &str = "the API has changed; if that is meant: cargo run --bin gateway -- --print-openapi > openapi.json";

fn printed() -> String {
    let output = Command::new(program("gateway")).arg("--print-openapi").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_snapshot_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi.json");
    let snapshot = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("openapi.json: {e}; {RENEW}"));
    let printed = printed();
    let difference = printed.lines().zip(snapshot.lines()).enumerate().find(|(_, (new, old))| new != old);
    assert_eq!(printed.lines().count(), snapshot.lines().count(), "{RENEW}; first difference: {difference:?}");
    assert!(difference.is_none(), "{RENEW}; first difference: {difference:?}");
}

#[tokio::test]
async fn the_gateway_serves_it() {
    let stack = Stack::shared().await;
    let served = stack.api().get("/openapi.json").await;
    assert_eq!(served.is(200), serde_json::from_str::<Value>(&printed()).unwrap());
    assert_eq!(served.header("content-type"), Some("application/json"));
}

/// Method and path of every operation there is.
const OPERATIONS: [(&str, &str); 6] = [
    ("put", "/v1/sales/{saleId}"),
    ("get", "/v1/sales/{saleId}"),
    ("get", "/v1/sales/{saleId}/seats"),
    ("post", "/v1/sales/{saleId}/reservations"),
    ("get", "/v1/reservations/{id}"),
    ("delete", "/v1/reservations/{id}"),
];

#[test]
fn every_operation_is_described_in_full() {
    let document: Value = serde_json::from_str(&printed()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let (mut operations, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            operations.insert(name.clone());
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: operationId");
            assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{name}: summary");
            described(&name, operation);
            parameters(&name, path, operation);
            if operation["security"] != serde_json::json!([{}]) {
                assert!(operation["responses"]["401"].is_object(), "{name} needs a token and never refuses one");
            }
        }
    }
    assert_eq!(operations, OPERATIONS.map(|(method, path)| format!("{method} {path}")).into());
    every_reference_leads_somewhere(&document, &document);
}

fn described(name: &str, operation: &Value) {
    let responses = operation["responses"].as_object().unwrap();
    assert!(responses.keys().any(|status| status.starts_with('2')), "{name}: no success");
    assert!(responses.contains_key("503"), "{name}: stores may be away");
    for (status, response) in responses {
        assert!(response["description"].as_str().is_some_and(|d| !d.is_empty()), "{name} {status}: description");
        let refusal = status.starts_with('4') || status.starts_with('5');
        let problem = &response["content"]["application/problem+json"]["schema"];
        assert_eq!(problem.is_object(), refusal, "{name} {status}: {response}");
    }
    let takes_a_body = operation["requestBody"]["content"]["application/json"]["schema"].is_object();
    assert_eq!(takes_a_body, name.starts_with("put") || name.starts_with("post"), "{name}: body");
    for status in ["413", "415"] {
        assert_eq!(responses.contains_key(status), takes_a_body, "{name}: {status}");
    }
}

/// Each `{parameter}` of the path is described, and no other.
fn parameters(name: &str, path: &str, operation: &Value) {
    let in_path: BTreeSet<_> = path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')).collect();
    let all = operation["parameters"].as_array().unwrap();
    let described = all.iter().filter(|p| p["in"] == "path").map(|p| {
        assert_eq!(p["required"], true, "{name}: {p}");
        p["name"].as_str().unwrap()
    });
    assert_eq!(described.collect::<BTreeSet<_>>(), in_path, "{name}");
}

fn every_reference_leads_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            members.values().for_each(|member| every_reference_leads_somewhere(document, member));
        }
        Value::Array(items) => items.iter().for_each(|item| every_reference_leads_somewhere(document, item)),
        _ => {}
    }
}
