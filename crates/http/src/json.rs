//! JSON bodies: read with a limit, and refused so that a person finds the mistake.

use crate::{ApiError, Deadline, layers::MAX_BODY};
use axum::{
    body::Body,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use onsale_domain::{Invalid, Problem, ProblemType};
use serde::{Serialize, de::DeserializeOwned};

/// As an argument: the body, which must be `application/json` and what `T` takes. As an answer: `T` as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, parts.extensions.get().copied()).await?;
        if bytes.is_empty() {
            return Err(ApiError::new(ProblemType::Malformed, "A JSON body is needed."));
        }
        check_type(&parts.headers)?;
        parse(&bytes).map(Self).map_err(Into::into)
    }
}

async fn read(body: Body, deadline: Option<Deadline>) -> Result<axum::body::Bytes, ApiError> {
    let collecting = Limited::new(body, MAX_BODY).collect();
    let collected = match deadline {
        None => collecting.await,
        Some(deadline) => tokio::time::timeout_at(deadline.instant(), collecting)
            .await
            .map_err(|_| ApiError::new(ProblemType::Malformed, "The body did not arrive in time."))?,
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::new(ProblemType::Malformed, "The body broke off or is not well framed.")),
    }
}

pub(crate) fn too_large() -> ApiError {
    ApiError::new(ProblemType::TooLarge, format!("The body may have {MAX_BODY} bytes at most."))
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |detail: &str| Err(ApiError::new(ProblemType::UnsupportedMediaType, detail));
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let value = values.next().and_then(|v| v.to_str().ok()).unwrap_or_default();
    if values.next().is_some() || !is_json(value) {
        return wrong("Send the body with Content-Type: application/json.");
    }
    let coded =
        headers.get_all(header::CONTENT_ENCODING).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        return wrong("Send the body without a Content-Encoding.");
    }
    Ok(())
}

/// `application/json` or `application/*+json`, in UTF-8 if it says which.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let named = match essence.strip_prefix("application/") {
        Some("json") => true,
        Some(subtype) => subtype.strip_suffix("+json").is_some_and(|s| !s.is_empty()),
        None => false,
    };
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    };
    named && parts.all(utf8)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde takes an array for a struct, member by member; the contract knows objects only.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b == b'[') {
        return Err(Problem::new(ProblemType::Malformed, "The body must be an object."));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        explain(Some(path.as_str()).filter(|p| *p != "."), e.inner())
    })?;
    json.end().map_err(|e| explain(None, &e))?;
    Ok(value)
}

/// serde's message in the words of the API, and without what the caller sent, which may be huge.
fn explain(path: Option<&str>, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let (message, place) = text.rfind(" at line ").map_or((text.as_str(), ""), |i| text.split_at(i));
    if !error.is_data() {
        return Problem::new(ProblemType::Malformed, format!("The body is not JSON: {message}{place}."));
    }
    let (member, expected) = wording(message);
    let field = match (path, member) {
        // Whether the path ends with the member itself depends on where serde noticed.
        (Some(path), Some(member)) if path == member || path.ends_with(&format!(".{member}")) => Some(cut(path)),
        (Some(path), Some(member)) => Some(format!("{}.{}", cut(path), cut(member))),
        (path, member) => path.or(member).map(cut),
    };
    match field {
        Some(field) => {
            // The domain's own refusals name their field already.
            let expected = expected.strip_prefix(&format!("{field}: ")).unwrap_or(&expected).to_owned();
            Invalid::new(field, expected).into()
        }
        None => Problem::new(ProblemType::Malformed, format!("The body {expected}.")),
    }
}

/// The member a message of serde is about, where the message says so, and what is wrong.
fn wording(message: &str) -> (Option<&str>, String) {
    if let Some(member) = message.strip_prefix("missing field `") {
        return (Some(member.trim_end_matches('`')), "is needed".to_owned());
    }
    if let Some(member) = message.strip_prefix("duplicate field `") {
        return (Some(member.trim_end_matches('`')), "must be there once".to_owned());
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (member, known) = rest.find("`, ").map_or((rest, ""), |i| (&rest[..i], &rest[i + 3..]));
        return (Some(member), format!("is not known here: {}", cut(known)));
    }
    let described = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant `"];
    match message.rfind(", expected ") {
        Some(i) if described.iter().any(|d| message.starts_with(d)) => {
            (None, format!("must be {}", in_words(&message[i + ", expected ".len()..])))
        }
        _ => (None, cut(message)),
    }
}

/// Rust's types in the words of JSON.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "string" | "str" | "a borrowed string" => "a string".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "an object".to_owned(),
        other if other.starts_with("struct ") => "an object".to_owned(),
        other => cut(other),
    }
}

/// The first 200 characters.
fn cut(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((i, _)) => format!("{}…", &text[..i]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_domain::{SaleConfig, SaleId};
    use serde::Deserialize;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code, reason = "only how they are read matters")]
    struct Order {
        quantity: u32,
        #[serde(default)]
        seats: Vec<Seat>,
        #[serde(default)]
        sale_id: Option<SaleId>,
        #[serde(default)]
        kind: Option<Kind>,
        #[serde(default)]
        small: Option<u8>,
        #[serde(default)]
        flag: bool,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Seat {
        row: i64,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Points,
        Card,
    }

    fn refusal(body: &str) -> (Option<String>, String) {
        let problem = parse::<Order>(body.as_bytes()).unwrap_err();
        assert_eq!(problem.kind, ProblemType::Malformed);
        let field = problem.extensions.get("field").map(|f| f.as_str().unwrap().to_owned());
        assert!(problem.detail.chars().count() < 700, "{}", problem.detail);
        (field, problem.detail)
    }

    #[test]
    fn refusals_name_the_field_and_say_what_it_must_be() {
        for (body, field, detail) in [
            (r#"{"quantity":"2"}"#, "quantity", "quantity: must be a whole number from 0 to 4294967295"),
            (r#"{"quantity":-1}"#, "quantity", "quantity: must be a whole number from 0 to 4294967295"),
            (r#"{"quantity":1.5}"#, "quantity", "quantity: must be a whole number from 0 to 4294967295"),
            (r#"{"quantity":null}"#, "quantity", "quantity: must be a whole number from 0 to 4294967295"),
            (r#"{"quantity":1,"small":256}"#, "small", "small: must be a whole number from 0 to 255"),
            (r#"{}"#, "quantity", "quantity: is needed"),
            (r#"{"quantity":1,"quantity":2}"#, "quantity", "quantity: must be there once"),
            (r#"{"quantity":1,"seats":{}}"#, "seats", "seats: must be an array"),
            (r#"{"quantity":1,"seats":[{"row":1},{}]}"#, "seats[1].row", "seats[1].row: is needed"),
            (r#"{"quantity":1,"seats":[{"row":"1"}]}"#, "seats[0].row", "seats[0].row: must be a whole number"),
            (r#"{"quantity":1,"seats":[7]}"#, "seats[0]", "seats[0]: must be an object"),
            (r#"{"quantity":1,"saleId":"A B"}"#, "saleId", "saleId: must match [a-z0-9-]{1,64}"),
            (r#"{"quantity":1,"flag":1}"#, "flag", "flag: must be true or false"),
            (r#"{"quantity":1,"kind":"cash"}"#, "kind", "kind: must be `points` or `card`"),
        ] {
            assert_eq!(refusal(body), (Some(field.to_owned()), detail.to_owned()), "{body}");
        }
        let (field, detail) = refusal(r#"{"quantity":1,"colour":"red"}"#);
        assert_eq!(field.unwrap(), "colour");
        assert!(detail.starts_with("colour: is not known here: expected one of `quantity`"), "{detail}");
        let (field, _) = refusal(r#"{"quantity":1,"seats":[{"row":1,"x":1}]}"#);
        assert_eq!(field.unwrap(), "seats[0].x");
        let problem = parse::<SaleConfig>(br#"{"title":"t","artist":"a","opensAt":"tomorrow"}"#).unwrap_err();
        assert_eq!(problem.extensions["field"], "opensAt");
    }

    #[test]
    fn what_is_no_object_is_refused_without_a_field() {
        for (body, detail) in [
            ("[1]", "The body must be an object."),
            (" [1]", "The body must be an object."),
            ("7", "The body must be an object."),
            ("null", "The body must be an object."),
            ("\"x\"", "The body must be an object."),
        ] {
            assert_eq!(refusal(body), (None, detail.to_owned()), "{body}");
        }
        for body in ["{", "}", "{\"quantity\":1}x", "{\"quantity\":1}{}", "\u{feff}{}", "{'quantity':1}", "NaN", "   "]
        {
            let (_, detail) = refusal(body);
            assert!(detail.starts_with("The body is not JSON: "), "{body}: {detail}");
        }
        assert!(parse::<Order>(b"{\"quantity\":1,\"kind\":\"\xff\"}").is_err());
        assert!(parse::<Order>(b"\xff\xfe{}").is_err());
        assert_eq!(parse::<Order>(b" {\"quantity\":1}\r\n").unwrap().quantity, 1);
    }

    #[test]
    fn huge_and_deep_bodies_are_neither_echoed_nor_followed() {
        let long = "x".repeat(60_000);
        for body in [
            format!(r#"{{"quantity":"{long}"}}"#),
            format!(r#"{{"{long}":1}}"#),
            format!(r#"{{"quantity":1,"kind":"{long}"}}"#),
            format!(r#"{{"quantity":1,"saleId":"{long}, expected {long}"}}"#),
            format!("{{\"quantity\":{}", "[".repeat(10_000)),
            format!("{}1", "{\"seats\":".repeat(10_000)),
        ] {
            let (field, _) = refusal(&body);
            assert!(field.is_none_or(|f| f.chars().count() < 450));
        }
        // Where anything is taken, depth is bounded too.
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse::<serde_json::Value>(deep.as_bytes()).unwrap_err().detail.contains("recursion limit"));
    }

    #[test]
    fn content_types() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/problem+json",
            "application/json; profile=x",
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/+json",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=application/json",
            "json",
        ] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
