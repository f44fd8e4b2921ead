//! What counts for an endpoint's health, and what does not.

use postrider::domain::breaker::BreakerState;
use postrider::domain::endpoint::PauseReason;
use postrider::domain::lifecycle::{FailureReason, State, Status};
use postrider::testing::{Reply, endpoint_change, on_virtual_time, pass};

use crate::support::engine::{TestEngine, rarely, secs};

fn busy(retry_after: &str) -> Reply {
    Reply::Answer(503, vec![("retry-after".into(), retry_after.into())])
}

#[test]
fn a_retry_after_of_nothing_is_an_ordinary_failure_that_uses_a_retry() {
    on_virtual_time(async {
        for value in ["0", "Thu, 01 Jan 1970 00:00:00 GMT", "-5", "soon", ""] {
            let engine = TestEngine::start();
            let settings = r#"{"retry_delays_s": [3, 5], "rate_limit": "unlimited"}"#;
            let endpoint = engine.endpoint(1, settings).await;
            engine.always(1, busy(value));
            let id = engine.publish_one("a.b").await;
            let view = engine.until(&id, Status::Failed, secs(30)).await;
            assert_eq!(
                view.delivery.life.state,
                State::Failed(FailureReason::RetriesExhausted)
            );
            assert_eq!(view.attempts.len(), 3, "`{value}`");
            let health = engine
                .postrider()
                .endpoint(&endpoint)
                .await
                .unwrap()
                .health
                .state;
            assert_eq!(
                (health.hold_until, health.consecutive_failures),
                (None, 3),
                "`{value}`"
            );
        }
    });
}

#[test]
fn a_short_retry_after_does_not_shorten_the_deliverys_own_delay() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"retry_delays_s": [40], "rate_limit": "unlimited"}"#)
            .await;
        engine.replies(1, [busy("1")]);
        let first = engine.publish_one("a.b").await;
        let second = engine.publish_one("a.b").await;
        engine.until(&first, Status::Delivered, secs(60)).await;
        engine.until(&second, Status::Delivered, secs(60)).await;
        let received = engine.received(1);
        let first = received
            .iter()
            .filter(|one| one.header("webhook-id") == received[0].header("webhook-id"));
        let at: Vec<_> = first.map(|one| one.at).collect();
        assert!(at[1] - at[0] >= secs(40), "{at:?}");
    });
}

#[test]
fn each_rest_in_a_row_lasts_longer_and_after_five_days_the_endpoint_is_paused() {
    on_virtual_time(async {
        let engine = TestEngine::with(|config| rarely(config, secs(300)));
        let endpoint = engine
            .endpoint(1, r#"{"retry_delays_s": [1], "rate_limit": "unlimited"}"#)
            .await;
        engine.always(1, busy("1"));
        let id = engine.publish_one("a.b").await;
        pass(secs(3600)).await;
        let received = engine.received(1);
        let gaps: Vec<_> = received
            .windows(2)
            .map(|two| (two[1].at - two[0].at).as_secs())
            .collect();
        for (k, gap) in gaps.iter().enumerate() {
            let least = 2_u64.saturating_pow(u32::try_from(k).unwrap()).min(600);
            assert!(
                *gap >= least,
                "rest {k} lasted {gap} s, not {least} s: {gaps:?}"
            );
        }
        assert!(
            (10..20).contains(&received.len()),
            "{} requests in an hour",
            received.len()
        );
        assert_eq!(engine.delivery(&id).await.delivery.life.retries_used, 0);
        pass(secs(4 * 86400)).await;
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
        pass(secs(2 * 86400)).await;
        let paused = engine
            .postrider()
            .endpoint(&endpoint)
            .await
            .unwrap()
            .endpoint
            .paused;
        assert_eq!(paused, Some(PauseReason::Failing));
        assert_eq!(
            engine.delivery(&id).await.delivery.life.state.status(),
            Status::Pending,
            "nothing is lost"
        );
    });
}

#[test]
fn a_2xx_begins_the_rests_anew() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(
                1,
                r#"{"retry_delays_s": [0], "rate_limit": "unlimited", "concurrency": 1}"#,
            )
            .await;
        engine.replies(
            1,
            [
                busy("1"),
                busy("1"),
                busy("1"),
                Reply::status(200),
                busy("1"),
            ],
        );
        let first = engine.publish_one("a.b").await;
        engine.until(&first, Status::Delivered, secs(30)).await;
        let second = engine.publish_one("a.b").await;
        let before = engine.postrider().now();
        engine.until(&second, Status::Delivered, secs(30)).await;
        assert!(
            engine.postrider().now().since(before) < secs(3),
            "one second again"
        );
    });
}

/// A rest of a day, ended by the receiver's own time, was counted as a day without success.
#[test]
fn days_of_silence_and_one_failure_pause_nothing() {
    on_virtual_time(async {
        let engine = TestEngine::with(|config| rarely(config, secs(300)));
        let endpoint = engine
            .endpoint(1, r#"{"retry_delays_s": [], "breaker_after": 1}"#)
            .await;
        engine.always(1, Reply::status(500));
        engine.publish_one("a.b").await;
        pass(secs(6 * 86400)).await;
        engine.publish_one("a.b").await;
        pass(secs(60)).await;
        let view = engine.postrider().endpoint(&endpoint).await.unwrap();
        assert_eq!(view.endpoint.paused, None, "{:?}", view.health.state);
    });
}

#[test]
fn the_breaker_closes_when_it_is_taken_away() {
    on_virtual_time(async {
        for change in [r#"{"breaker_after": 0}"#, r#"{"breaker_after": null}"#] {
            let engine = TestEngine::start();
            let settings =
                r#"{"breaker_after": 1, "retry_delays_s": [], "rate_limit": "unlimited"}"#;
            let endpoint = engine.endpoint(1, settings).await;
            engine.replies(1, [Reply::status(500)]);
            engine.publish_one("a.b").await;
            pass(secs(1)).await;
            let state = async || {
                engine
                    .postrider()
                    .endpoint(&endpoint)
                    .await
                    .unwrap()
                    .health
                    .state
            };
            assert_eq!(state().await.breaker.state(), BreakerState::Open);
            let waits = engine.publish_one("a.b").await;
            let change = endpoint_change(change).unwrap();
            engine
                .postrider()
                .update_endpoint(&endpoint, change)
                .await
                .unwrap();
            assert_eq!(state().await.breaker.state(), BreakerState::Closed);
            engine.until(&waits, Status::Delivered, secs(2)).await;
        }
    });
}
