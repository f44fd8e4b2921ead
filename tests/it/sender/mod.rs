//! Signing, by known answers.

use postrider::domain::clock::Timestamp;
use postrider::domain::ids::EventId;
use postrider::domain::secret::Secret;
use postrider::signature::{self, Untrusted};
use serde_json::Value;

fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../vectors/standard-webhooks.json")).unwrap();
    let all = file["vectors"].as_array().unwrap().clone();
    all.into_iter().filter(|vector| vector["scheme"] == "v1").collect()
}

#[test]
fn signatures_are_the_known_answers() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let text = |field: &str| vector[field].as_str().unwrap();
        let secret = Secret::parse(text("secret")).unwrap();
        let id = EventId::parse(text("id")).unwrap();
        let timestamp = vector["timestamp"].as_i64().unwrap();
        let signed =
            signature::signature_header([&secret].into_iter(), &id, timestamp, text("payload").as_bytes());
        assert_eq!(signed, text("signature"));
    }
}

#[test]
fn what_was_changed_on_its_way_is_not_trusted() {
    let secret = Secret::generate();
    let other = Secret::generate();
    let (id, body) = (EventId::parse("e1").unwrap(), b"{}");
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let at = now.as_seconds();
    let header = signature::signature_header([&other, &secret].into_iter(), &id, at, body);
    assert_eq!(header.split(' ').count(), 2, "one for each key");
    let verify = |id: &str, at: i64, header: &str, body: &[u8]| {
        signature::verify(&secret, id, &at.to_string(), header, body, now)
    };
    assert_eq!(verify("e1", at, &header, body), Ok(()));
    assert_eq!(verify("e2", at, &header, body), Err(Untrusted::Mismatch));
    assert_eq!(verify("e1", at + 1, &header, body), Err(Untrusted::Mismatch));
    assert_eq!(verify("e1", at, &header, b"{ }"), Err(Untrusted::Mismatch));
    assert_eq!(verify("e1", at, "v1,", body), Err(Untrusted::Mismatch));
    assert_eq!(verify("e1", at - 301, &header, body), Err(Untrusted::Stale));
    assert_eq!(verify("e1", at + 301, &header, body), Err(Untrusted::Stale));
    assert_eq!(signature::verify(&secret, "e1", "soon", &header, body, now), Err(Untrusted::NoTimestamp));
    let unsigned = signature::signature_header(std::iter::empty(), &id, at, body);
    assert_eq!(verify("e1", at, &unsigned, body), Err(Untrusted::Mismatch));
}
