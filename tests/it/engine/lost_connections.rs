//! A reused connection that ends before a response says nothing about the receiver.

use std::time::Duration;

use postrider::domain::breaker::BreakerState;
use postrider::domain::delivery::Outcome;
use postrider::domain::lifecycle::{State, Status, Wait};
use postrider::testing::{Reply, TransportError, on_virtual_time, pass};

use crate::support::database;
use crate::support::engine::{TestEngine, secs};

const LOST: Reply = Reply::Fail(TransportError::ConnectionLost);

fn ids_received(engine: &TestEngine) -> Vec<String> {
    let received = engine.received(1);
    received
        .iter()
        .map(|one| one.header("webhook-id").unwrap().to_owned())
        .collect()
}

#[test]
fn a_lost_connection_has_a_row_costs_nothing_and_goes_first_on_a_new_connection() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let settings = r#"{"retry_delays_s": [], "breaker_after": 1, "concurrency": 1, "rate_limit": "unlimited"}"#;
        let endpoint = engine.endpoint(1, settings).await;
        engine.always(1, Reply::Status(200, secs(1)));
        engine.replies(1, [LOST]);
        let first = engine.publish_one("a.b").await;
        let second = engine.publish_one("a.b").await;
        let view = engine.until(&first, Status::Delivered, secs(3)).await;
        engine.until(&second, Status::Delivered, secs(3)).await;

        let rows: Vec<_> = view
            .attempts
            .iter()
            .map(|one| (one.number, one.record.outcome))
            .collect();
        assert_eq!(
            rows,
            [
                (None, Outcome::ConnectionLost),
                (Some(1), Outcome::Delivered)
            ]
        );
        let told = "the connection was closed before a response; the request may have arrived";
        assert_eq!(view.attempts[0].record.error.as_deref(), Some(told));
        assert_eq!(
            (
                view.delivery.life.attempt_count,
                view.delivery.life.retries_used
            ),
            (1, 0)
        );
        let interruptions = "SELECT sum(interruptions) AS n FROM webhook_deliveries";
        assert_eq!(database::number(&engine.database(), interruptions), 0);

        let received = engine.received(1);
        assert_eq!(
            ids_received(&engine)[0],
            ids_received(&engine)[1],
            "it went before the next delivery"
        );
        let fresh: Vec<_> = received
            .iter()
            .map(|one| one.request.fresh_connection)
            .collect();
        assert_eq!(fresh, [false, true, false]);
        let attempts = database::number(
            &engine.database(),
            "SELECT count(*) AS n FROM webhook_attempts",
        );
        assert_eq!(attempts, 3, "each request has its row");

        let health = engine
            .postrider()
            .endpoint(&endpoint)
            .await
            .unwrap()
            .health
            .state;
        assert_eq!(
            (health.consecutive_failures, health.breaker.state()),
            (0, BreakerState::Closed)
        );
        let stats = engine
            .postrider()
            .endpoint_stats(&endpoint, secs(3600))
            .await
            .unwrap();
        let (delivered, failed) = stats.series.iter().fold((0, 0), |(ok, bad), one| {
            (ok + one.delivered, bad + one.failed)
        });
        assert_eq!((delivered, failed), (2, 0), "rates leave it out");
        assert_eq!(
            stats.outcomes[&Outcome::ConnectionLost],
            1,
            "and it is seen"
        );
    });
}

#[test]
fn each_request_takes_a_slot_of_the_rate_limit() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"rate_limit": "2/min"}"#).await;
        engine.replies(1, [LOST, LOST, LOST]);
        let id = engine.publish_one("a.b").await;
        engine.until(&id, Status::Delivered, secs(70)).await;
        let at: Vec<_> = engine.received(1).iter().map(|one| one.at).collect();
        assert_eq!(at.len(), 4);
        assert!(
            at[2] - at[0] >= secs(60) && at[3] - at[1] >= secs(60),
            "{at:?}"
        );
    });
}

#[test]
fn it_stays_the_head_of_its_ordering_key() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(
                1,
                r#"{"ordering": "key", "rate_limit": "unlimited", "concurrency": 5}"#,
            )
            .await;
        engine.replies(1, [LOST, LOST]);
        let mut published = Vec::new();
        for data in ["1", "2", "3"] {
            let mut event = crate::support::engine::event("a.b", data);
            event.ordering_key = Some("k".into());
            let receipt = engine.postrider().publish(event).await.unwrap();
            published.push((receipt.id.to_string(), receipt.deliveries[0].0.clone()));
        }
        engine
            .until(&published[2].1, Status::Delivered, secs(5))
            .await;
        let [one, two, three] = [0, 1, 2].map(|n: usize| published[n].0.clone());
        assert_eq!(
            ids_received(&engine),
            [one.clone(), one.clone(), one, two, three]
        );
    });
}

#[test]
fn where_it_was_the_breakers_probe_it_is_the_next_probe() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let settings =
            r#"{"breaker_after": 1, "retry_delays_s": [5, 5, 5, 5], "rate_limit": "unlimited"}"#;
        let endpoint = engine.endpoint(1, settings).await;
        let state = async || {
            engine
                .postrider()
                .endpoint(&endpoint)
                .await
                .unwrap()
                .health
                .state
        };
        engine.replies(1, [Reply::status(500), LOST]);
        engine.always(1, Reply::Status(200, secs(2)));
        let first = engine.publish_one("a.b").await;
        pass(secs(1)).await;
        assert_eq!(state().await.breaker.state(), BreakerState::Open);
        let others = [
            engine.publish_one("a.b").await,
            engine.publish_one("a.b").await,
        ];
        engine.until(&first, Status::Delivered, secs(120)).await;
        for other in others {
            engine.until(&other, Status::Delivered, secs(120)).await;
        }
        let ids = ids_received(&engine);
        assert_eq!(ids[1], ids[2], "the lost probe is the next one: {ids:?}");
        let received = engine.received(1);
        assert!(
            received[2].at - received[1].at < secs(1),
            "at once, not a breaker's wait later"
        );
        assert!(received[3].at - received[2].at >= secs(2), "and alone");
        assert_eq!(state().await.consecutive_failures, 0);
    });
}

#[test]
fn after_a_restart_it_is_due_at_once() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, r#"{"rate_limit": "1/min"}"#).await;
        engine.replies(1, [LOST]);
        let id = engine.publish_one("a.b").await;
        pass(secs(5)).await;
        let view = engine.delivery(&id).await;
        let State::Pending(Wait::Until(due)) = view.delivery.life.state else {
            panic!("{:?}", view.delivery)
        };
        assert!(
            due <= engine.postrider().now(),
            "due at once; the rate limit makes it wait"
        );
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let engine = engine.restart().await;
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        let view = engine
            .until(&id, Status::Delivered, Duration::from_secs(70))
            .await;
        assert_eq!(
            (view.attempts.len(), view.delivery.life.retries_used),
            (2, 0)
        );
    });
}
