//! Panics, and what neighbours notice of them.

use std::time::Duration;

use postrider::domain::delivery::{Outcome, WaitingFor};
use postrider::domain::lifecycle::{HoldReason, State, Status, Wait};
use postrider::testing::{Reply, TransportError, on_virtual_time, pass};

use crate::support::database;
use crate::support::engine::{TestEngine, host, secs};

#[test]
fn an_attempt_that_panics_is_interrupted_sent_again_and_uses_up_no_retry() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"event_types": ["one"]}"#).await;
        engine.endpoint(2, r#"{"event_types": ["two"]}"#).await;
        engine.replies(1, [Reply::Panic]);
        engine.always(2, Reply::Status(200, secs(1)));
        let neighbour = engine.publish_one("two").await;
        let id = engine.publish_one("one").await;
        let view = engine.until(&id, Status::Delivered, secs(5)).await;
        let outcomes: Vec<_> = view
            .attempts
            .iter()
            .map(|attempt| (attempt.number, attempt.record.outcome))
            .collect();
        assert_eq!(
            outcomes,
            [(None, Outcome::Interrupted), (Some(1), Outcome::Delivered)]
        );
        assert_eq!(
            (
                view.delivery.life.attempt_count,
                view.delivery.life.retries_used
            ),
            (1, 0)
        );
        let neighbour = engine.until(&neighbour, Status::Delivered, secs(2)).await;
        assert_eq!(neighbour.attempts.len(), 1);
    });
}

#[test]
fn five_interruptions_in_a_row_hold_a_delivery_until_a_person_releases_it() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        engine.replies(1, std::iter::repeat_n(Reply::Panic, 5));
        let id = engine.publish_one("a.b").await;
        pass(secs(90)).await;
        let view = engine.delivery(&id).await;
        assert_eq!(
            view.delivery.life.state,
            State::Pending(Wait::Held(HoldReason::Interrupted))
        );
        assert_eq!(
            (view.attempts.len(), view.waiting_for),
            (5, Some(WaitingFor::Held))
        );
        assert_eq!(
            engine
                .postrider()
                .endpoint(&endpoint)
                .await
                .unwrap()
                .health
                .backlog
                .held,
            1
        );
        engine.postrider().release_delivery(&id).await.unwrap();
        engine.until(&id, Status::Delivered, secs(60)).await;
    });
}

#[test]
fn a_supervisor_that_panics_is_replaced_and_its_work_is_rehydrated() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine
            .endpoint(1, r#"{"event_types": ["one"], "rate_limit": "unlimited"}"#)
            .await;
        engine.endpoint(2, r#"{"event_types": ["two"]}"#).await;
        engine.always(1, Reply::Status(200, secs(4)));
        engine.always(2, Reply::Status(200, secs(4)));
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(engine.publish_one("one").await);
        }
        let neighbour = engine.publish_one("two").await;
        pass(secs(1)).await;
        assert!(engine.postrider().panic_supervisor(&endpoint).await);

        // Three were in flight: broken off, logged as such, and sent again with the same id.
        let mut interrupted = 0;
        for id in &ids {
            let view = engine.until(id, Status::Delivered, secs(20)).await;
            interrupted += view
                .attempts
                .iter()
                .filter(|one| one.record.outcome == Outcome::Interrupted)
                .count();
            assert_eq!(view.delivery.life.attempt_count, 1);
        }
        assert_eq!(interrupted, 3);
        assert!(
            engine.receivers().most_at_once(&host(1)) <= 3,
            "the old attempts end before new ones begin"
        );
        assert_eq!(
            engine.metric("postrider_supervisor_panics_total").await,
            1.0
        );
        let view = engine.until(&neighbour, Status::Delivered, secs(1)).await;
        assert_eq!(view.attempts.len(), 1, "the neighbour did not notice");
    });
}

#[test]
fn a_supervisor_that_panics_again_and_again_holds_what_was_in_flight() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        engine.always(1, Reply::Status(200, secs(4)));
        let id = engine.publish_one("a.b").await;
        for _ in 0..5 {
            engine.until(&id, Status::Sending, secs(5)).await;
            pass(secs(1)).await;
            assert!(engine.postrider().panic_supervisor(&endpoint).await);
            pass(Duration::from_millis(200)).await;
        }
        pass(secs(5)).await;
        let view = engine.delivery(&id).await;
        assert_eq!(
            view.delivery.life.state,
            State::Pending(Wait::Held(HoldReason::Interrupted))
        );
    });
}

#[test]
fn no_file_descriptor_left_releases_the_claim_and_fails_nothing() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"rate_limit": "1/h"}"#).await;
        let nothing_left = TransportError::Exhausted("too many open files".into());
        engine.replies(
            1,
            [Reply::Fail(nothing_left.clone()), Reply::Fail(nothing_left)],
        );
        let id = engine.publish_one("a.b").await;
        // The rate slot came back too, or this would take an hour.
        let view = engine.until(&id, Status::Delivered, secs(10)).await;
        assert_eq!(view.attempts.len(), 1);
        assert_eq!(engine.received(1).len(), 3);
    });
}

#[test]
fn a_drain_ends_what_is_in_flight_and_breaks_off_what_takes_too_long() {
    on_virtual_time(async {
        let engine = TestEngine::with(|config| config.drain_timeout = secs(5));
        engine.endpoint(1, r#"{"event_types": ["quick"]}"#).await;
        engine.endpoint(2, r#"{"event_types": ["slow"]}"#).await;
        engine.always(1, Reply::Status(200, secs(2)));
        engine.replies(2, [Reply::Hang]);
        let quick = engine.publish_one("quick").await;
        let slow = engine.publish_one("slow").await;
        pass(secs(1)).await;
        let engine = engine.restart().await;

        assert_eq!(engine.delivery(&quick).await.attempts.len(), 1);
        let view = engine.until(&slow, Status::Delivered, secs(10)).await;
        let outcomes: Vec<_> = view
            .attempts
            .iter()
            .map(|attempt| attempt.record.outcome)
            .collect();
        assert_eq!(outcomes, [Outcome::Interrupted, Outcome::Delivered]);
        let counted = "SELECT sum(interruptions) AS n FROM webhook_deliveries";
        assert_eq!(
            database::number(&engine.database(), counted),
            0,
            "a clean stop does not count"
        );
        assert_eq!(engine.received(1).len(), 1);
    });
}

#[test]
fn a_drain_does_not_wait_for_endpoints_where_nothing_is_at_work() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        for n in 1..4 {
            let endpoint = engine.endpoint(n, "{}").await;
            engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        }
        engine.publish("order.filled").await;
        let before = tokio::time::Instant::now();
        engine.postrider().drain().await;
        assert!(before.elapsed() < secs(1), "{:?}", before.elapsed());
    });
}
