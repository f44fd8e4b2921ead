//! Input from outside, however odd. `tests/fuzz` looks for what these do not find.

use proptest::prelude::*;

use crate::support::invariants;

/// Text that is made of what matters to who reads it.
fn text_of(parts: &'static [&'static str]) -> impl Strategy<Value = String> {
    let part = prop_oneof![
        proptest::sample::select(parts).prop_map(str::to_owned),
        "\\PC{0,3}",
        "[0-9a-fA-FxX]{1,5}"
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn urls(text in text_of(&["http://", "https://", "127.0.0.1", "[::", "ffff:", "]", "@", "localhost", ".", ":", "/", "\\", "%2e", "0x7f", "\u{ff11}", "\u{3002}", "10", "169.254"])) {
        invariants::url_and_address_policy(&text);
        invariants::url_and_address_policy(&format!("http://{text}/"));
    }

    #[test]
    fn headers(map in proptest::collection::btree_map(
        text_of(&["x-", "Host", "webhook-", "Proxy-", "content-length", "\r\n", " ", ":", "te"]),
        text_of(&["v", "\r\n", "\0", "***", "\t"]),
        0..60,
    )) {
        invariants::header_map(map);
    }

    #[test]
    fn retry_after(value in text_of(&["-", "+", "120", "99999999999999999999", "Sun, 06 Nov 1994 08:49:37 GMT", "Mon", ", ", " ", ":", "GMT", "."])) {
        invariants::retry_after(&value);
    }

    #[test]
    fn events(body in text_of(&["{", "}", "[", "]", ",", ":", "\"type\"", "\"a.b\"", "\"data\":", "\"payload\":", "\"id\"", "null", "1e9", "\\u0000", "\""])) {
        invariants::publish_json(body.as_bytes());
        invariants::publish_json(format!(r#"{{"type":"a.b","data":{body}}}"#).as_bytes());
        invariants::publish_json(format!(r#"{{"type":"a.b","data":{}}}"#, serde_json::json!(body)).as_bytes());
    }

    #[test]
    fn events_of_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        invariants::publish_json(&body);
    }
}
