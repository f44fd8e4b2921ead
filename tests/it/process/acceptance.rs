//! Acceptance with the real binary: a consumer that answers 500, one that hangs,
//! and one that recovers.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider::domain::clock::Clock as _;
use postrider::ports::SystemClock;
use postrider::signature::SignedContent;
use serde_json::json;

use crate::support::database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

#[test]
fn a_webhook_is_pending_sending_failed_or_delivered_under_one_event_id() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let arguments = [
        "--event-id-header",
        "X-Example-Event-Id",
        "--default-retry-delays-s",
        "1,1",
    ];
    let server = Server::start(folder.path(), &arguments);
    let api = server.api();
    let cases = [
        ("refuses", "/status/500"),
        ("hangs", "/hang"),
        ("recovers", "/recovers/2"),
    ];
    let mut ids = Vec::new();
    for (name, path) in cases {
        let settings = json!({"event_types": [name], "timeout_ms": 1000}).to_string();
        let endpoint = api.endpoint(&receiver.url(path), &settings);
        let secret = api
            .get(&format!("/endpoints/{endpoint}/secret"))
            .text("secret")
            .parse()
            .unwrap();
        let answer = api.post(
            "/events",
            &json!({"type": name, "data": {"order": 7}}).to_string(),
        );
        let delivery = answer.body["deliveries"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        ids.push((path, answer.text("id"), delivery, secret));
    }

    // As anyone can see it in the table, in the order of its life.
    let (mut seen, mut states) = (BTreeSet::new(), Vec::new());
    until("all have ended", Duration::from_secs(30), || {
        states = database::words(
            &server.database(),
            "SELECT status AS w FROM webhook_deliveries ORDER BY event_seq, endpoint",
        );
        seen.extend(states.iter().cloned());
        states
            .iter()
            .all(|state| state == "failed" || state == "delivered")
    });
    assert_eq!(states, ["failed", "failed", "delivered"]);
    assert_eq!(
        seen,
        ["delivered", "failed", "pending", "sending"]
            .map(String::from)
            .into()
    );

    for (path, event, delivery, key) in &ids {
        let got = receiver.at(path);
        assert_eq!(got.len(), 3, "{path}: one attempt and two retries");
        for one in &got {
            assert_eq!(
                (one.id.as_str(), one.header("x-example-event-id")),
                (event.as_str(), Some(event.as_str()))
            );
            let header = |name: &str| one.header(name).unwrap();
            let check = |id: &str| {
                let (at, signed) = (header("webhook-timestamp"), header("webhook-signature"));
                let content = SignedContent::received(id, at, one.body.as_bytes())?;
                content.verify(key, signed, SystemClock::new().now())
            };
            assert_eq!(check(event), Ok(()));
            assert!(
                check("another").is_err(),
                "the id is part of what is signed"
            );
        }
        let shown = api.get(&format!("/deliveries/{delivery}")).body;
        let attempts = shown["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 3, "every attempt is logged");
        let outcomes: Vec<_> = attempts
            .iter()
            .map(|attempt| attempt["outcome"].as_str().unwrap())
            .collect();
        match *path {
            "/hang" => assert_eq!(outcomes, ["timeout"; 3]),
            "/status/500" => assert_eq!(outcomes, ["rejected"; 3]),
            _ => assert_eq!(outcomes, ["rejected", "rejected", "delivered"]),
        }
    }
    let (path, _, failed, _) = &ids[0];
    assert_eq!(
        api.post(&format!("/deliveries/{failed}/retry"), "").status,
        202
    );
    until("it is sent again", Duration::from_secs(10), || {
        receiver.at(path).len() > 3
    });
}
