//! Signing, by known answers.

use postrider::domain::clock::Timestamp;
use postrider::domain::endpoint::SigningKeys;
use postrider::domain::secret::{PrivateKey, Secret};
use postrider::domain::settings::Signing;
use postrider::ports::OsRandom;
use postrider::signature::{ReceiverKey, SignedContent, Untrusted};
use serde_json::Value;

#[test]
fn signatures_are_the_known_answers() {
    let file: Value =
        serde_json::from_str(include_str!("../vectors/standard-webhooks.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let text = |field: &str| vector[field].as_str().unwrap();
        let mut keys = SigningKeys::generate(None, &OsRandom);
        let (scheme, key): (Signing, String) = match text("scheme") {
            "v1" => {
                keys.secret = Secret::parse(text("secret")).unwrap();
                (Signing::V1, text("secret").into())
            }
            _ => {
                keys.private_key = PrivateKey::parse(text("secret")).unwrap();
                assert_eq!(keys.private_key.public().to_string(), text("public"));
                (Signing::V1a, text("public").into())
            }
        };
        let timestamp = vector["timestamp"].as_i64().unwrap();
        let content = SignedContent {
            id: text("id"),
            timestamp,
            body: text("payload").as_bytes(),
        };
        let header = content.signature_header([&keys].into_iter(), &[scheme]);
        assert_eq!(header, text("signature"));
        let now = Timestamp::from_micros(timestamp * 1_000_000);
        assert_eq!(content.verify(&key.parse().unwrap(), &header, now), Ok(()));
    }
}

#[test]
fn what_was_changed_on_its_way_is_not_trusted() {
    let (keys, other) = (
        SigningKeys::generate(None, &OsRandom),
        SigningKeys::generate(None, &OsRandom),
    );
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let at = now.as_seconds();
    let content = SignedContent {
        id: "e1",
        timestamp: at,
        body: b"{}",
    };
    let header =
        content.signature_header([&other, &keys].into_iter(), &[Signing::V1, Signing::V1a]);
    assert_eq!(header.split(' ').count(), 4, "one for each key and scheme");
    let public = ReceiverKey::Public(keys.private_key.public());
    for key in [ReceiverKey::Secret(keys.secret.clone()), public] {
        let verify = |content: SignedContent<'_>, header: &str| content.verify(&key, header, now);
        assert_eq!(verify(content, &header), Ok(()));
        assert_eq!(
            verify(
                SignedContent {
                    id: "e2",
                    ..content
                },
                &header
            ),
            Err(Untrusted::Mismatch)
        );
        assert_eq!(
            verify(
                SignedContent {
                    timestamp: at + 1,
                    ..content
                },
                &header
            ),
            Err(Untrusted::Mismatch)
        );
        assert_eq!(
            verify(
                SignedContent {
                    body: b"{ }",
                    ..content
                },
                &header
            ),
            Err(Untrusted::Mismatch)
        );
        assert_eq!(
            verify(
                SignedContent {
                    timestamp: at - 301,
                    ..content
                },
                &header
            ),
            Err(Untrusted::Stale)
        );
        assert_eq!(
            verify(
                SignedContent {
                    timestamp: at + 301,
                    ..content
                },
                &header
            ),
            Err(Untrusted::Stale)
        );
        for nothing in [
            "",
            "v1,",
            "v1a,",
            "v1",
            "v2,AAAA",
            &header.replace("v1", "v9"),
        ] {
            assert_eq!(
                verify(content, nothing),
                Err(Untrusted::Mismatch),
                "{nothing}"
            );
        }
        let by_others =
            content.signature_header([&other].into_iter(), &[Signing::V1, Signing::V1a]);
        assert_eq!(verify(content, &by_others), Err(Untrusted::Mismatch));
    }
    assert_eq!(
        SignedContent::received("e1", "soon", b"").err(),
        Some(Untrusted::NoTimestamp)
    );
}
