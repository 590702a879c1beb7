//! A function as Lambda runs it: a process that asks the runtime API for events of a REST API.
//!
//! The process is this test program again, with the variables Lambda would set.

use crate::*;
use axum::{
    extract::{Path, State},
    response::Response,
};
use std::{
    collections::VecDeque,
    process::{Child, Command, ExitCode, Output, Stdio},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

#[test]
#[ignore = "the other tests of this module start it as a process"]
fn function() {
    assert_eq!(onsale_http::start("test", |_| async { Ok(routes()) }), ExitCode::SUCCESS);
}

fn process(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "lambda::function", "--ignored", "--nocapture"]);
    command.env("ONSALE_JWT_SECRET", SECRET).env("RUST_LOG", "info").env_remove("AWS_LAMBDA_RUNTIME_API");
    command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends the process with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The runtime API: hands out events, takes answers.
#[derive(Clone, Default)]
struct Runtime {
    events: Arc<Mutex<VecDeque<(Value, u64)>>>,
    answers: Arc<Mutex<Vec<(String, Value)>>>,
}

async fn next(State(runtime): State<Runtime>) -> Response {
    let event = runtime.events.lock().unwrap().pop_front();
    let Some((event, milliseconds)) = event else { return futures::future::pending().await };
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 + milliseconds;
    let headers = [
        ("lambda-runtime-aws-request-id", "1".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:test".to_owned()),
    ];
    (headers, event.to_string()).into_response()
}

async fn done(State(runtime): State<Runtime>, Path((_, what)): Path<(String, String)>, body: String) -> StatusCode {
    runtime.answers.lock().unwrap().push((what, serde_json::from_str(&body).unwrap()));
    StatusCode::ACCEPTED
}

/// The answers to `events`, each with the milliseconds it has, from a function with these variables.
async fn invoke_within(variables: &[(&str, &str)], events: Vec<(Value, u64)>) -> Vec<Answer> {
    let (runtime, count) = (Runtime::default(), events.len());
    runtime.events.lock().unwrap().extend(events);
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/{what}", post(done))
        .with_state(runtime.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let mut command = process(variables);
    command.env("AWS_LAMBDA_RUNTIME_API", address);
    command.env("AWS_LAMBDA_FUNCTION_NAME", "test").env("AWS_LAMBDA_FUNCTION_VERSION", "1");
    command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128");
    let _running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    for _ in 0..600 {
        if runtime.answers.lock().unwrap().len() == count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answers = runtime.answers.lock().unwrap().clone();
    assert_eq!(answers.len(), count, "{answers:?}");
    answers.into_iter().map(|(what, body)| answer(&what, &body)).collect()
}

async fn invoke(variables: &[(&str, &str)], events: Vec<Value>) -> Vec<Answer> {
    invoke_within(variables, events.into_iter().map(|event| (event, 30_000)).collect()).await
}

/// What API Gateway makes of the function's answer.
fn answer(what: &str, body: &Value) -> Answer {
    assert_eq!(what, "response", "{body}");
    assert_eq!(body["isBase64Encoded"], false);
    assert_eq!(body["headers"], json!({}));
    let headers = body["multiValueHeaders"].as_object().unwrap().iter();
    let headers = headers.flat_map(|(name, values)| values.as_array().unwrap().iter().map(move |v| (name, v)));
    Answer {
        status: body["statusCode"].as_u64().unwrap() as u16,
        headers: headers.map(|(n, v)| (n.parse().unwrap(), v.as_str().unwrap().parse().unwrap())).collect(),
        text: body["body"].as_str().unwrap_or_default().to_owned(),
    }
}

fn event(change: impl FnOnce(&mut Value)) -> Value {
    let mut event: Value = serde_json::from_slice(&fixture("rest-event.json")).unwrap();
    let bearer = format!("Bearer {}", token("alice", false));
    event["headers"]["authorization"] = json!(bearer);
    event["multiValueHeaders"]["authorization"] = json!([bearer]);
    change(&mut event);
    event
}

fn get_of(path: &str) -> Value {
    event(|e| {
        e["httpMethod"] = json!("GET");
        e["path"] = json!(path);
        e["body"] = Value::Null;
    })
}

#[tokio::test]
async fn the_stage_is_never_part_of_the_path() {
    for variables in [&[][..], &[("AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH", "true")]] {
        let events = vec![
            event(|_| ()),
            event(|e| e["requestContext"]["stage"] = json!("sales")),
            event(|e| e["requestContext"]["stage"] = json!("$default")),
            event(|e| e["requestContext"]["stage"] = Value::Null),
        ];
        for answer in invoke(variables, events).await {
            assert_eq!(answer.status, 202, "{variables:?} {answer:?}");
            assert_eq!(answer.json(), json!({"user": "alice", "sale": "demo", "key": "k-1", "quantity": 2}));
            assert_eq!(answer.header("x-request-id"), "Root=1-67891233-abcdef012345678912345678");
        }
    }
}

#[tokio::test]
async fn bodies_headers_and_paths_come_through_as_sent() {
    let answers = invoke(
        &[],
        vec![
            // The body in base64, as for a binary media type.
            event(|e| {
                e["body"] = json!("eyJxdWFudGl0eSI6M30=");
                e["isBase64Encoded"] = json!(true);
            }),
            // Some invokers send single values only.
            event(|e| e["multiValueHeaders"] = Value::Null),
            get_of("/deadline"),
            event(|e| e["multiValueHeaders"]["idempotency-key"] = json!(["k-1", "k-2"])),
            event(|e| e["body"] = Value::Null),
            event(|e| e["body"] = json!(" ".repeat(64 * 1024 + 1))),
            get_of("/reservations/%ff"),
            get_of("/panic"),
            get_of("/nowhere"),
        ],
    )
    .await;
    assert_eq!(answers[0].json()["quantity"], 3);
    assert_eq!(answers[1].status, 202);
    assert!(answers[2].text.parse::<u64>().unwrap() <= 5000);
    assert_eq!(answers[3].problem(400, "malformed")["field"], "Idempotency-Key");
    answers[4].problem(400, "malformed");
    answers[5].problem(413, "too-large");
    answers[6].problem(400, "malformed");
    answers[7].problem(500, "internal");
    answers[8].problem(404, "not-found");
}

#[tokio::test]
async fn whatever_can_be_sent_gets_an_answer() {
    // Several of these end the invocation with an error, a 502 to its caller, if lambda_http gets them as they are.
    let header = |name: &str, value: &str| {
        event(|e| {
            e["headers"][name] = json!(value);
            e["multiValueHeaders"][name] = json!([value]);
        })
    };
    let fine = vec![
        header("CloudFront-Viewer-City", "São Paulo"),
        header("not a name", "x"),
        header("x", "line\nend"),
        header("Host", "a b:99999999"),
        header("X-Forwarded-Proto", "no scheme"),
        event(|e| e["requestContext"]["domainName"] = json!("a b")),
        event(|e| e["multiValueQueryStringParameters"] = json!({"a b": ["\"<ä>&=#"], "": [""]})),
        event(|e| drop(e.as_object_mut().unwrap().remove("stageVariables"))),
    ];
    for (i, answer) in invoke(&[], fine).await.iter().enumerate() {
        assert_eq!(answer.status, 202, "{i}: {answer:?}");
    }
    let wrong = vec![
        (header("idempotency-key", "ä"), 400),
        (get_of("/sales/a b/ä\u{0}\"<>\\^`{|}"), 404),
        (get_of(":99999"), 404),
        (get_of("//evil.example/%2e%2e/x"), 404),
        (get_of(""), 404),
        (event(|e| e["path"] = Value::Null), 404),
        (event(|e| e["httpMethod"] = json!("BREW")), 405),
        (event(|e| e["httpMethod"] = json!("NOT A METHOD")), 400),
        (json!({}), 400),
        (json!([1]), 400),
        (Value::Null, 400),
        (json!({"Records": [{"eventSource": "aws:sqs"}]}), 400),
    ];
    let (events, statuses): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
    for (answer, status) in invoke(&[], events).await.iter().zip(statuses) {
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(matches!(answer.header("content-type"), "application/problem+json"));
    }
}

#[tokio::test]
async fn the_deadline_lies_before_the_end_of_the_invocation() {
    let events = vec![(get_of("/deadline"), 1500), (get_of("/deadline"), 400), (get_of("/stuck"), 800)];
    let answers = invoke_within(&[("ONSALE_DEADLINE_MS", "3000")], events).await;
    let left: u64 = answers[0].text.parse().unwrap();
    assert!((1..=1000).contains(&left), "{left}");
    assert_eq!(answers[1].text, "0");
    answers[2].problem(503, "try-again");
}

fn ended(variables: &[(&str, &str)]) -> (bool, String) {
    let Output { status, stdout, .. } = process(variables).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap())
}

#[test]
fn a_function_that_cannot_start_says_which_variable_is_wrong() {
    for (variables, said) in [
        (&[][..], "AWS_LAMBDA_RUNTIME_API: must be set"),
        (&[("ONSALE_JWT_SECRET", "hunter2")], "ONSALE_JWT_SECRET: must have 32 bytes or more"),
        (&[("ONSALE_DEADLINE_MS", "hunter2")], "ONSALE_DEADLINE_MS: must be 50 to 60000"),
        (&[("LOG_FORMAT", "hunter2")], "LOG_FORMAT: must be json or text"),
        (&[("RUST_LOG", "hunter2=hunter2")], "RUST_LOG: must be a log filter"),
    ] {
        let (success, output) = ended(variables);
        assert!(!success);
        assert!(output.contains(said), "{said}: {output}");
        assert!(!output.contains("hunter2") && !output.contains(SECRET), "{output}");
    }
}
