//! What receivers ask for, and the breaker.

use std::time::Duration;

use postrider::domain::breaker::BreakerState;
use postrider::domain::delivery::WaitingFor;
use postrider::domain::endpoint::PauseReason;
use postrider::domain::lifecycle::Status;
use postrider::domain::query::{DeliveryQuery, Page};
use postrider::testing::{Reply, on_virtual_time, pass};

use crate::support::database;
use crate::support::engine::{TestEngine, event, host, rarely, secs};

fn answer(status: u16, headers: &[(&str, &str)]) -> Reply {
    Reply::Answer(
        status,
        headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    )
}

fn retries_used(engine: &TestEngine) -> i64 {
    database::number(
        &engine.database(),
        "SELECT sum(retries_used) AS n FROM webhook_deliveries",
    )
}

#[test]
fn gone_pauses_the_endpoint_and_its_delivery_waits() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        engine.replies(1, [answer(410, &[])]);
        let id = engine.publish_one("a.b").await;
        pass(secs(600)).await;
        let view = engine.postrider().endpoint(&endpoint).await.unwrap();
        assert_eq!(view.endpoint.paused, Some(PauseReason::Gone));
        let delivery = engine.delivery(&id).await;
        assert_eq!(delivery.waiting_for, Some(WaitingFor::Paused));
        assert_eq!((delivery.attempts.len(), retries_used(&engine)), (1, 0));
        assert_eq!(view.health.state.consecutive_failures, 0);

        let engine = engine.restart().await;
        pass(secs(600)).await;
        assert_eq!(engine.received(1).len(), 1, "also after a restart");
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.until(&id, Status::Delivered, secs(5)).await;
    });
}

#[test]
fn retry_after_rests_the_whole_endpoint_and_uses_up_no_retry() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine
            .endpoint(1, r#"{"concurrency": 1, "retry_delays_s": []}"#)
            .await;
        engine.endpoint(2, r#"{"event_types": ["other"]}"#).await;
        engine.replies(
            1,
            [
                answer(429, &[("retry-after", "120")]),
                answer(503, &[("Retry-After", "60")]),
            ],
        );
        let first = engine.publish_one("a.b").await;
        let second = engine.publish_one("a.b").await;
        pass(secs(100)).await;
        assert_eq!(engine.received(1).len(), 1);
        assert_eq!(
            engine.delivery(&second).await.waiting_for,
            Some(WaitingFor::RetryAfter)
        );
        let held = engine
            .postrider()
            .endpoint(&endpoint)
            .await
            .unwrap()
            .health
            .state;
        assert!(
            held.hold_until
                .is_some_and(|until| until.since(engine.postrider().now()) <= secs(20))
        );

        // It holds across a restart, too.
        let engine = engine.restart().await;
        pass(secs(15)).await;
        assert_eq!(engine.received(1).len(), 1);
        engine.until(&first, Status::Delivered, secs(90)).await;
        engine.until(&second, Status::Delivered, secs(90)).await;
        assert_eq!(retries_used(&engine), 0);
        let received = engine.received(1);
        assert!(
            received[1].at - received[0].at >= secs(120)
                && received[2].at - received[1].at >= secs(60)
        );
    });
}

#[test]
fn too_many_without_a_time_rests_the_endpoint_until_that_deliverys_next_attempt() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"concurrency": 1, "retry_delays_s": [40]}"#)
            .await;
        engine.replies(1, [answer(429, &[])]);
        engine.publish_one("a.b").await;
        let second = engine.publish_one("a.b").await;
        engine.until(&second, Status::Delivered, secs(60)).await;
        let received = engine.received(1);
        assert!(
            received[1].at - received[0].at >= secs(40),
            "the second delivery waited with the first"
        );
        assert_eq!(retries_used(&engine), 1);
    });
}

#[test]
fn an_hour_down_with_a_long_backlog_costs_a_handful_of_attempts_and_fails_nothing() {
    const BACKLOG: usize = 10_000;
    on_virtual_time(async {
        let engine = TestEngine::start();
        let settings =
            r#"{"rate_limit": "100/s", "concurrency": 20, "retry_delays_s": [60, 300, 900, 3600]}"#;
        let endpoint = engine.endpoint(1, settings).await;
        engine.always(1, Reply::Status(503, Duration::from_millis(100)));
        for _ in 0..BACKLOG / 1000 {
            let events = (0..1000).map(|_| event("a.b", "1")).collect();
            engine.postrider().publish_batch(events).await.unwrap();
        }
        pass(secs(600)).await;
        let health = engine.postrider().endpoint(&endpoint).await.unwrap().health;
        assert_eq!(
            (health.state.breaker.state(), health.backlog.pending),
            (BreakerState::Open, 10_000)
        );
        let newest = engine
            .postrider()
            .deliveries(DeliveryQuery::default(), Page::first(1))
            .await
            .unwrap();
        let last = &newest.entries[0].id;
        assert_eq!(
            engine.delivery(last).await.waiting_for,
            Some(WaitingFor::Breaker)
        );

        let engine = engine.restart().await;
        pass(secs(3000)).await;
        let spent = engine.received(1).len();
        assert!(spent < 60, "{spent} attempts in an hour");
        assert_eq!(
            engine
                .postrider()
                .endpoint(&endpoint)
                .await
                .unwrap()
                .health
                .state
                .breaker
                .state(),
            BreakerState::Open
        );

        engine.always(1, Reply::Status(200, Duration::from_millis(100)));
        pass(secs(1200)).await;
        let of = |status: &str| {
            let sql =
                format!("SELECT count(*) AS n FROM webhook_deliveries WHERE status = '{status}'");
            database::number(&engine.database(), &sql)
        };
        assert_eq!(
            (of("delivered") + of("pending"), of("failed")),
            (10_000, 0),
            "the outage failed nothing"
        );
        let health = engine.postrider().endpoint(&endpoint).await.unwrap().health;
        assert_eq!(
            (
                health.state.breaker.state(),
                health.state.consecutive_failures
            ),
            (BreakerState::Closed, 0)
        );
        let received = engine.received(1);
        let burst = received.iter().enumerate().map(|(i, one)| {
            received[i..]
                .iter()
                .take_while(|later| later.at - one.at <= secs(1))
                .count()
        });
        assert!(burst.max().unwrap() <= 100, "no burst above the limit");
        assert!(engine.receivers().most_at_once(&host(1)) <= 20);
        // After the outage one at a time, then two, then four.
        let back: Vec<_> = received[spent..].iter().map(|one| one.at).collect();
        assert!(
            back[1] - back[0] >= Duration::from_millis(100),
            "the probe goes out alone"
        );
        pass(secs(3600)).await;
        assert_eq!(of("delivered"), 10_000);
    });
}

#[test]
fn five_days_without_an_answer_pause_the_endpoint() {
    on_virtual_time(async {
        let engine = TestEngine::with(|config| rarely(config, secs(300)));
        let endpoint = engine
            .endpoint(
                1,
                r#"{"retry_delays_s": [86400, 86400, 86400, 86400, 86400, 86400, 86400, 86400]}"#,
            )
            .await;
        engine.always(1, Reply::Hang);
        for _ in 0..200 {
            engine.publish("a.b").await;
        }
        let day = 24 * 3600;
        pass(secs(4 * day)).await;
        assert_eq!(
            engine
                .postrider()
                .endpoint(&endpoint)
                .await
                .unwrap()
                .endpoint
                .paused,
            None
        );
        pass(secs(2 * day)).await;
        let paused = engine
            .postrider()
            .endpoint(&endpoint)
            .await
            .unwrap()
            .endpoint
            .paused;
        assert_eq!(paused, Some(PauseReason::Failing));
        engine.always(1, Reply::Status(200, Duration::ZERO));
        let view = engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        assert_eq!(
            view.health.state,
            Default::default(),
            "a resume closes the breaker"
        );
        pass(secs(5)).await;
        assert!(!engine.received(1).is_empty());
    });
}

#[test]
fn without_a_breaker_every_delivery_spends_its_own_retries() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let settings = r#"{"breaker_after": 0, "rate_limit": "unlimited", "concurrency": 50, "retry_delays_s": [1]}"#;
        let endpoint = engine.endpoint(1, settings).await;
        engine.always(1, Reply::Status(500, Duration::ZERO));
        for _ in 0..30 {
            engine.publish("a.b").await;
        }
        pass(secs(10)).await;
        assert_eq!(engine.received(1).len(), 60);
        let health = engine.postrider().endpoint(&endpoint).await.unwrap().health;
        assert_eq!(
            (
                health.state.breaker.state(),
                health.state.consecutive_failures
            ),
            (BreakerState::Closed, 60)
        );
    });
}
