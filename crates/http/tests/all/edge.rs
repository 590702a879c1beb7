//! The layers around a router.

use crate::*;
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn what_no_route_takes_is_a_problem_too() {
    let app = app();
    fetch(&app, "/nowhere").await.problem(404, "not-found");
    fetch(&app, "/").await.problem(404, "not-found");
    let wrong = send(&app, Request::delete("/plain").body(Body::empty()).unwrap()).await;
    wrong.problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "GET,HEAD");
    let odd = send(&app, Request::builder().method("BREW").uri("/plain").body(Body::empty()).unwrap()).await;
    odd.problem(405, "method-not-allowed");
}

#[tokio::test]
async fn our_own_faults_are_masked() {
    let app = app();
    fetch(&app, "/panic").await.problem(500, "internal");
    fetch(&app, "/internal").await.problem(500, "internal");
    let unavailable = fetch(&app, "/unavailable").await;
    unavailable.problem(503, "try-again");
    assert_eq!(unavailable.header("retry-after"), "1");
    // One panic leaves the rest serving.
    assert_eq!(fetch(&app, "/plain").await.status, 200);
}

#[tokio::test]
async fn a_router_without_its_edge_is_our_fault_not_a_way_in() {
    let bare = routes();
    let request = Request::get("/me").header("authorization", format!("Bearer {}", token("alice", false)));
    assert_eq!(send(&bare, request.body(Body::empty()).unwrap()).await.status, 500);
    assert_eq!(fetch(&bare, "/deadline").await.status, 500);
}

#[tokio::test]
async fn answers_are_not_cached_unless_the_handler_says_so() {
    let app = app();
    assert_eq!(fetch(&app, "/plain").await.header("cache-control"), "no-store");
    let cacheable = fetch(&app, "/cacheable").await;
    assert_eq!(cacheable.header("cache-control"), "public, max-age=1");
    assert_eq!(cacheable.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn the_request_id_is_the_callers_where_it_is_sane() {
    let app = app();
    let id = async |name: &str, value: &[u8]| {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        let answer = send(&app, Request::get("/plain").header(name, value).body(Body::empty()).unwrap()).await;
        answer.header("x-request-id").to_owned()
    };
    assert_eq!(id("x-request-id", b"abc-123").await, "abc-123");
    let trace = "Root=1-67891233-abcdef012345678912345678;Sampled=1";
    assert_eq!(id("x-amzn-trace-id", trace.as_bytes()).await, trace);
    for insane in [&b""[..], b"a b", b"{\"a\":1}", b"\xff\xfe", &[b'x'; 129], b"<script>"] {
        let fresh = id("x-request-id", insane).await;
        assert_eq!(uuid::Uuid::parse_str(&fresh).unwrap().get_version_num(), 7, "{fresh}");
    }
}

#[tokio::test]
async fn one_request_too_many_is_shed_at_once() {
    let app = onsale_http::edge(routes(), &settings().max_in_flight(1).deadline(Duration::from_secs(30)));
    let stuck = tokio::spawn({
        let app = app.clone();
        async move { fetch(&app, "/stuck").await }
    });
    tokio::task::yield_now().await;
    // Another route and a path without one count as well.
    for path in ["/plain", "/stuck", "/nowhere"] {
        let shed = fetch(&app, path).await;
        shed.problem(503, "try-again");
        assert_eq!(shed.header("retry-after"), "1");
    }
    // A caller who hangs up frees the place.
    stuck.abort();
    assert!(stuck.await.unwrap_err().is_cancelled());
    assert_eq!(fetch(&app, "/plain").await.status, 200);
    fetch(&app, "/panic").await.problem(500, "internal");
    assert_eq!(fetch(&app, "/plain").await.status, 200);
}

#[tokio::test]
async fn a_request_has_its_deadline_and_not_much_more() {
    let app = onsale_http::edge(routes(), &settings().deadline(Duration::from_millis(200)));
    let left: u64 = fetch(&app, "/deadline").await.text.parse().unwrap();
    assert!((1..=200).contains(&left), "{left}");
    let began = std::time::Instant::now();
    let late = fetch(&app, "/stuck").await;
    late.problem(503, "try-again");
    assert_eq!(late.header("retry-after"), "1");
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_deadline_passes() {
    let soon = Deadline::after(Duration::from_millis(20));
    assert!(!soon.passed() && soon.remaining() <= Duration::from_millis(20));
    std::thread::sleep(Duration::from_millis(25));
    assert!(soon.passed());
    assert_eq!(soon.remaining(), Duration::ZERO);
}

#[test]
fn metrics_are_counted_by_route_not_by_path() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let app = app();
            fetch(&app, "/reservations/a.b?q=1").await;
            fetch(&app, "/reservations/c.d").await;
            fetch(&app, "/nowhere/7").await;
            send(&app, Request::builder().method("BREW").uri("/plain").body(Body::empty()).unwrap()).await;
        });
    });
    let text = handle.render();
    for line in [
        r#"onsale_http_requests_total{route="/reservations/{id}",method="GET",status="400"} 2"#,
        r#"onsale_http_requests_total{route="unmatched",method="GET",status="404"} 1"#,
        r#"onsale_http_requests_total{route="/plain",method="other",status="405"} 1"#,
        r#"onsale_http_request_duration_seconds_count{route="/reservations/{id}",method="GET"} 2"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_has_the_cause_once_with_the_request_id_and_nothing_of_the_caller() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter("error,onsale_http=debug")
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bearer = token("alice-the-user", false);
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let app = app();
            let request = Request::get("/internal?query=private").header("x-request-id", "id-1");
            send(&app, request.body(Body::empty()).unwrap()).await;
            let request = Request::get("/me?query=private").header("authorization", format!("Bearer {bearer}"));
            assert_eq!(send(&app, request.body(Body::empty()).unwrap()).await.status, 200);
            let request = Request::get("/panic").header("x-request-id", "id-2");
            send(&app, request.body(Body::empty()).unwrap()).await;
        });
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let causes: Vec<_> = lines.iter().filter(|l| l["level"] == "ERROR").collect();
    assert_eq!(causes.len(), 2, "{text}");
    assert_eq!(causes[0]["error"], "connecting: password hunter2 refused");
    assert_eq!(causes[0]["span"]["request_id"], "id-1");
    assert_eq!(causes[0]["span"]["route"], "/internal");
    assert_eq!(causes[1]["error"], "panicked: the secret is hunter2");
    assert_eq!(causes[1]["span"]["request_id"], "id-2");
    let answered: Vec<_> = lines.iter().filter(|l| l["message"] == "answered").collect();
    assert_eq!(answered.len(), 3, "{text}");
    assert_eq!(answered[1]["status"], 200);
    assert!(answered[1]["latency_ms"].as_f64().unwrap() > 0.0);
    for private in ["private", "alice-the-user", bearer.as_str()] {
        assert!(!text.contains(private), "{private} in {text}");
    }
}
