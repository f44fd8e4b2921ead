//! Invariants for arbitrary input from outside, for property tests and the fuzz targets. Each function
//! panics if its invariant is broken.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use postrider::domain::breaker::{LONGEST_HOLD, Verdict};
use postrider::domain::clock::Timestamp;
use postrider::domain::event::{Content, MAX_BODY_BYTES};
use postrider::domain::settings::{Change, EndpointChange, Settings, parse_url};
use postrider::testing::parsers::{AddressPolicy, read_event, verdict_of_response};
use url::{Host, Url};

const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Checks that a valid endpoint URL leads to no address of this machine or network.
pub fn url_and_address_policy(text: &str) {
    let Ok(url) = parse_url(text) else {
        return;
    };
    let Ok(settings) = Settings::create(EndpointChange::to(url)) else {
        return;
    };
    let url: &Url = &settings.url;
    assert!(
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
    );
    let policy = AddressPolicy::default();
    if policy.check_literal(url).is_err() {
        return;
    }
    match url.host() {
        Some(Host::Ipv4(v4)) => {
            let closed =
                v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
            assert!(
                !closed && !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_documentation(),
                "{url}"
            );
        }
        Some(Host::Ipv6(v6)) => {
            let canonical = v6.to_canonical();
            assert!(
                canonical.is_ipv4() || v6.segments()[0] & 0xe000 == 0x2000,
                "{url}"
            );
            assert!(policy.check_address(canonical).is_ok(), "{url}");
        }
        Some(Host::Domain(name)) => {
            // A private address among the answers blocks the name.
            let private = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])];
            assert!(policy.check_resolved(name, &private).is_err(), "{url}");
        }
        None => panic!("{url} has no host"),
    }
}

/// Checks that valid endpoint headers can be sent unchanged and include no reserved ones.
pub fn header_map(headers: BTreeMap<String, String>) {
    let change = EndpointChange {
        headers: Change::Set(headers),
        ..EndpointChange::to(parse_url("https://a.example/").expect("a constant"))
    };
    let Ok(settings) = Settings::create(change) else {
        return;
    };
    assert!(settings.headers.len() <= 50);
    for (name, value) in &settings.headers {
        assert!(
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b':'),
            "{name:?}"
        );
        assert!(
            value.len() <= 8192 && value.bytes().all(|b| (0x20..0x7f).contains(&b)),
            "{name:?}"
        );
        for reserved in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "upgrade",
        ] {
            assert_ne!(name, reserved);
        }
        assert!(
            !name.starts_with("webhook-") && !name.starts_with("proxy-"),
            "{name:?}"
        );
    }
}

/// Checks that `Retry-After` always yields a delay, and at most a day.
pub fn retry_after(value: &str) {
    for status in [200, 410, 429, 500, 503] {
        let verdict = verdict_of_response(
            status,
            &vec![("Retry-After".to_owned(), value.to_owned())],
            NOW,
        );
        if let Verdict::RetryAfter(asked) = verdict {
            assert!(status == 429 || status == 503);
            let delay = asked.delay(NOW);
            assert!(
                delay >= Duration::from_secs(1) && delay <= LONGEST_HOLD,
                "{value:?}: {delay:?}"
            );
        }
    }
}

/// Checks that an accepted event is sent with its data byte for byte, inside one JSON object.
pub fn publish_json(request: &[u8]) {
    let Some(event) = read_event(request) else {
        return;
    };
    let content = event.content.clone();
    let Ok(stored) = event.freeze(NOW) else {
        return;
    };
    assert!(stored.body.len() <= MAX_BODY_BYTES);
    match content {
        Content::Payload { body, .. } => assert_eq!(stored.body, body),
        Content::Data(data) => {
            let text = std::str::from_utf8(&stored.body).expect("JSON is UTF-8");
            assert!(
                text.contains(&format!(r#""data":{},"id":"{}""#, data.get(), stored.id)),
                "{text}"
            );
            let members: BTreeMap<&str, &serde_json::value::RawValue> =
                serde_json::from_str(text).expect("one JSON object");
            assert_eq!(
                members.keys().copied().collect::<Vec<_>>(),
                ["data", "id", "timestamp", "type"]
            );
            assert_eq!(members["data"].get(), data.get());
        }
    }
}
