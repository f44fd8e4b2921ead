//! From publish to delivered or failed.

use std::time::Duration;

use postrider::Error;
use postrider::domain::Resource;
use postrider::domain::delivery::{Outcome, WaitingFor};
use postrider::domain::lifecycle::{FailureReason, State, Status};
use postrider::domain::secret::SigningSecret;
use postrider::signature::{ReceiverKey, SignedContent};
use postrider::testing::{Received, Reply, TransportError, endpoint_change, on_virtual_time, pass};

use crate::support::database;
use crate::support::engine::{START, TestEngine, secs};

const AT_ONCE: Duration = Duration::ZERO;

fn offsets(received: &[Received]) -> Vec<f64> {
    received
        .iter()
        .map(|one| (one.at - received[0].at).as_secs_f64())
        .collect()
}

#[test]
fn a_consumer_that_answers_500_gets_five_attempts_at_the_promised_times() {
    on_virtual_time(async {
        let engine = TestEngine::with(|config| {
            config.event_id_header = Some("X-Example-Event-Id".into());
        });
        let endpoint = engine.endpoint(1, "{}").await;
        engine.always(1, Reply::Status(500, AT_ONCE));
        let key = ReceiverKey::Secret(engine.postrider().endpoint_secret(&endpoint).await.unwrap());

        let receipt = engine.publish("order.filled").await;
        let id = receipt.deliveries[0].0.clone();
        let view = engine.until(&id, Status::Failed, secs(200)).await;

        let received = engine.received(1);
        // 10, 20, 40 and 80 s after the end of the attempt before, and up to a tenth more.
        let offsets = offsets(&received);
        assert_eq!(offsets.len(), 5, "{offsets:?}");
        for (i, delay) in [10.0, 20.0, 40.0, 80.0].into_iter().enumerate() {
            let gap = offsets[i + 1] - offsets[i];
            assert!(
                (delay..delay * 1.1 + 0.1).contains(&gap),
                "retry {}: {gap} s",
                i + 1
            );
        }
        for one in &received {
            let signed_at = one.header("webhook-timestamp").unwrap();
            assert_eq!(one.header("webhook-id"), Some(receipt.id.as_str()));
            assert_eq!(one.header("x-example-event-id"), Some(receipt.id.as_str()));
            let signature = one.header("webhook-signature").unwrap();
            let now = START + (one.at - received[0].at);
            let content = |id| SignedContent::received(id, signed_at, &one.request.body).unwrap();
            content(receipt.id.as_str())
                .verify(&key, signature, now)
                .unwrap();
            // The id is part of what is signed.
            assert!(content("another").verify(&key, signature, now).is_err());
        }
        assert_ne!(
            received[0].header("webhook-timestamp"),
            received[4].header("webhook-timestamp")
        );

        assert_eq!(
            view.delivery.life.state,
            State::Failed(FailureReason::RetriesExhausted)
        );
        let numbers: Vec<_> = view.attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4), Some(5)]);
        assert!(
            view.attempts
                .iter()
                .all(|attempt| attempt.record.outcome == Outcome::Rejected)
        );
        assert!(
            view.attempts
                .iter()
                .all(|attempt| attempt.record.status_code == Some(500))
        );
        assert_eq!(
            database::words(
                &engine.database(),
                "SELECT status || ' ' || failure_reason AS w FROM webhook_deliveries"
            ),
            ["failed retries_exhausted"]
        );

        // A retry brings it back, with a fresh set of retries and its history.
        engine.always(1, Reply::Status(204, AT_ONCE));
        engine.postrider().retry_delivery(&id).await.unwrap();
        let view = engine.until(&id, Status::Delivered, secs(10)).await;
        assert_eq!(view.attempts.len(), 6);
        assert_eq!(view.attempts[5].number, Some(6));
        assert_eq!(
            engine.received(1)[5].header("webhook-id"),
            Some(receipt.id.as_str())
        );
    });
}

#[test]
fn a_consumer_that_hangs_is_given_its_time_and_the_row_says_sending() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"timeout_ms": 5000, "retry_delays_s": [10]}"#)
            .await;
        engine.always(1, Reply::Hang);
        let id = engine.publish_one("a.b").await;

        pass(secs(2)).await;
        let status = "SELECT status AS w FROM webhook_deliveries";
        assert_eq!(database::words(&engine.database(), status), ["sending"]);
        pass(secs(4)).await;
        assert_eq!(database::words(&engine.database(), status), ["pending"]);
        let view = engine.delivery(&id).await;
        assert_eq!(view.waiting_for, Some(WaitingFor::DueTime));

        let view = engine.until(&id, Status::Failed, secs(30)).await;
        assert_eq!(view.attempts.len(), 2);
        for attempt in &view.attempts {
            assert_eq!(attempt.record.outcome, Outcome::Timeout);
            assert!(
                (5000.0..5100.0).contains(&attempt.duration_ms),
                "{}",
                attempt.duration_ms
            );
        }
    });
}

#[test]
fn one_that_recovers_ends_delivered_and_every_outcome_is_told_apart() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, "{}").await;
        engine.replies(
            1,
            [
                Reply::Status(302, AT_ONCE),
                Reply::Fail(TransportError::Dns("no such name".into())),
                Reply::Fail(TransportError::Connect("refused".into())),
                Reply::Fail(TransportError::Tls("expired".into())),
                Reply::Status(201, AT_ONCE),
            ],
        );
        let id = engine.publish_one("a.b").await;
        let view = engine.until(&id, Status::Delivered, secs(200)).await;
        let outcomes: Vec<_> = view
            .attempts
            .iter()
            .map(|attempt| attempt.record.outcome)
            .collect();
        use Outcome::{ConnectError, Delivered, DnsError, Rejected, TlsError};
        assert_eq!(
            outcomes,
            [Rejected, DnsError, ConnectError, TlsError, Delivered]
        );
        assert_eq!(view.delivery.life.attempt_count, 5);
        assert!(view.delivery.life.delivered_at.is_some());
    });
}

#[test]
fn pause_stops_new_attempts_at_once_and_both_survive_a_restart() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine
            .endpoint(1, r#"{"concurrency": 1, "rate_limit": "unlimited"}"#)
            .await;
        engine.always(1, Reply::Status(200, secs(3)));
        let first = engine.publish_one("a.b").await;
        let second = engine.publish_one("a.b").await;
        pass(secs(1)).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();

        // What is in flight ends and is recorded; nothing new begins.
        engine.until(&first, Status::Delivered, secs(5)).await;
        pass(secs(60)).await;
        assert_eq!(engine.received(1).len(), 1);
        assert_eq!(
            engine.delivery(&second).await.waiting_for,
            Some(WaitingFor::Paused)
        );
        let third = engine.publish_one("a.b").await;

        let engine = engine.restart().await;
        pass(secs(60)).await;
        assert_eq!(engine.received(1).len(), 1, "still paused");
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.until(&second, Status::Delivered, secs(10)).await;
        engine.until(&third, Status::Delivered, secs(10)).await;

        let engine = engine.restart().await;
        let fourth = engine.publish_one("a.b").await;
        engine.until(&fourth, Status::Delivered, secs(10)).await;
    });
}

#[test]
fn a_failure_while_paused_leaves_its_retry_waiting() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        engine.replies(1, [Reply::Status(500, secs(3))]);
        let id = engine.publish_one("a.b").await;
        pass(secs(1)).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        pass(secs(120)).await;
        let view = engine.delivery(&id).await;
        assert_eq!(
            (view.attempts.len(), view.delivery.life.state.status()),
            (1, Status::Pending)
        );
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.until(&id, Status::Delivered, secs(5)).await;
    });
}

#[test]
fn a_deleted_endpoint_fails_what_waits_and_what_was_in_flight_when_it_fails() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, r#"{"concurrency": 1}"#).await;
        engine.always(1, Reply::Status(500, secs(3)));
        let in_flight = engine.publish_one("a.b").await;
        let waiting = engine.publish_one("a.b").await;
        pass(secs(1)).await;
        engine.postrider().delete_endpoint(&endpoint).await.unwrap();
        for id in [&waiting, &in_flight] {
            let view = engine.until(id, Status::Failed, secs(5)).await;
            assert_eq!(
                view.delivery.life.state,
                State::Failed(FailureReason::EndpointDeleted)
            );
            assert!(matches!(
                engine.postrider().retry_delivery(id).await,
                Err(Error::Refused(_))
            ));
        }
        assert!(matches!(
            engine.postrider().endpoint(&endpoint).await,
            Err(Error::NotFound(Resource::Endpoint))
        ));
        assert_eq!(
            engine.delivery(&in_flight).await.attempts.len(),
            1,
            "its history stays readable"
        );
        assert!(engine.publish("a.b").await.deliveries.is_empty());
    });
}

#[test]
fn cancel_works_from_pending_and_is_refused_while_sending() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"concurrency": 1}"#).await;
        engine.always(1, Reply::Status(500, secs(3)));
        let first = engine.publish_one("a.b").await;
        let second = engine.publish_one("a.b").await;
        pass(secs(1)).await;
        assert!(matches!(
            engine.postrider().cancel_delivery(&first).await,
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            engine.postrider().release_delivery(&second).await,
            Err(Error::Refused(_))
        ));
        let view = engine.postrider().cancel_delivery(&second).await.unwrap();
        assert_eq!(
            view.delivery.life.state,
            State::Failed(FailureReason::Cancelled)
        );
        pass(secs(60)).await;
        assert!(engine.delivery(&second).await.attempts.is_empty());
    });
}

#[test]
fn an_endpoint_that_is_made_from_a_changed_schedule_follows_it_at_once() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        engine.always(1, Reply::Status(500, secs(1)));
        let id = engine.publish_one("a.b").await;
        pass(Duration::from_millis(500)).await;
        // The budget is judged against the schedule as it stands when the attempt ends.
        let none = endpoint_change(r#"{"retry_delays_s": []}"#).unwrap();
        engine
            .postrider()
            .update_endpoint(&endpoint, none)
            .await
            .unwrap();
        let view = engine.until(&id, Status::Failed, secs(5)).await;
        assert_eq!(view.attempts.len(), 1);
    });
}

#[test]
fn rotated_keys_sign_beside_the_new_ones_until_their_grace_ends() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, r#"{"signing": ["v1", "v1a"]}"#).await;
        let public = |view: &postrider::EndpointView| view.endpoint.public_key().unwrap();
        let before = engine.postrider().endpoint(&endpoint).await.unwrap();
        let old = [
            ReceiverKey::Secret(engine.postrider().endpoint_secret(&endpoint).await.unwrap()),
            ReceiverKey::Public(public(&before)),
        ];
        let secret = engine
            .postrider()
            .rotate_secret(&endpoint, None, secs(60))
            .await
            .unwrap();
        let after = engine.postrider().endpoint(&endpoint).await.unwrap();
        assert_ne!(public(&before), public(&after));
        let SigningSecret::Symmetric(secret) = secret else {
            panic!("no key pair was asked for")
        };
        let new = [
            ReceiverKey::Secret(secret),
            ReceiverKey::Public(public(&after)),
        ];

        let sent_and_verified = async |keys: &[ReceiverKey]| {
            let id = engine.publish_one("a.b").await;
            engine.until(&id, Status::Delivered, secs(5)).await;
            let received = engine.received(1).pop().unwrap();
            let header = |name: &str| received.header(name).unwrap();
            let content = SignedContent::received(
                header("webhook-id"),
                header("webhook-timestamp"),
                &received.request.body,
            );
            let (content, now) = (content.unwrap(), engine.postrider().now());
            let good = keys.iter().filter(|key| {
                content
                    .verify(key, header("webhook-signature"), now)
                    .is_ok()
            });
            (good.count(), header("webhook-signature").split(' ').count())
        };
        assert_eq!(sent_and_verified(&new).await, (2, 4));
        assert_eq!(
            sent_and_verified(&old).await,
            (2, 4),
            "receivers that have not changed over yet"
        );
        pass(secs(61)).await;
        assert_eq!(sent_and_verified(&new).await, (2, 2));
        assert_eq!(sent_and_verified(&old).await, (0, 2));
    });
}
