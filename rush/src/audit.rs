//! The processor's own audit, asked after the rush.

use crate::{target::Target, wire::Connection};
use onsale_domain::SaleId;
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(500);
/// An audit reads every unit of a sale.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How the audit ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Audit {
    /// Nothing is wrong.
    Clean,
    /// Something is, in the audit's own words.
    Dirty(Vec<String>),
    /// There was none.
    Unavailable(String),
}

/// The part of the report that is read here.
#[derive(Deserialize)]
struct Report {
    clean: bool,
    #[serde(default)]
    findings: Vec<Value>,
}

/// Asks `processor` until `sale` is clean or `patience` ends: what a rush stirred up takes seconds to settle.
pub async fn audit(processor: &Target, sale: &SaleId, patience: Duration) -> Audit {
    let deadline = Instant::now() + patience;
    let mut connection = Connection::new(processor.clone());
    loop {
        let audit = ask(&mut connection, processor, sale).await;
        if audit == Audit::Clean || Instant::now() >= deadline {
            return audit;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(connection: &mut Connection, processor: &Target, sale: &SaleId) -> Audit {
    let uri = match format!("/audit?sale={sale}").parse() {
        Ok(uri) => uri,
        Err(e) => return Audit::Unavailable(format!("{sale}: {e}")),
    };
    match connection.get(uri, None, READ_LIMIT).await {
        Ok(response) => read(response.body()).unwrap_or_else(|| {
            Audit::Unavailable(format!("{processor}/audit answered {} and no report", response.status()))
        }),
        Err(trouble) => Audit::Unavailable(format!("{processor}: {trouble}")),
    }
}

/// The verdict in a report, whatever status it came with.
fn read(body: &[u8]) -> Option<Audit> {
    let report: Report = serde_json::from_slice(body).ok()?;
    if report.clean {
        return Some(Audit::Clean);
    }
    let text = |finding: Value| match finding {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Some(Audit::Dirty(report.findings.into_iter().map(text).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_by_two_members() {
        assert_eq!(read(br#"{"clean":true,"findings":[],"sales":{}}"#), Some(Audit::Clean));
        let dirty = read(br#"{"clean":false,"findings":["unit 3 has two owners",{"unit":4}]}"#);
        assert_eq!(dirty, Some(Audit::Dirty(vec!["unit 3 has two owners".into(), r#"{"unit":4}"#.into()])));
        assert_eq!(read(br#"{"clean":false}"#), Some(Audit::Dirty(vec![])));
        for bad in [&b""[..], b"{}", b"not found", br#"{"clean":"yes"}"#] {
            assert_eq!(read(bad), None);
        }
    }
}
