//! Expiry and retention.

use postrider::Error;
use postrider::config::DatabaseUrl;
use postrider::domain::Resource;
use postrider::domain::ids::Tenant;
use postrider::domain::lifecycle::{FailureReason, State, Status};
use postrider::testing::{Reply, on_virtual_time, pass};

use crate::support::database;
use crate::support::engine::{TestEngine, rarely, secs};

#[test]
fn what_waits_longer_than_max_age_expires_even_when_paused() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, r#"{"max_age_s": 600}"#).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let id = engine.publish_one("a.b").await;
        pass(secs(590)).await;
        assert_eq!(
            engine.delivery(&id).await.delivery.life.state.status(),
            Status::Pending
        );
        let view = engine.until(&id, Status::Failed, secs(120)).await;
        assert_eq!(
            view.delivery.life.state,
            State::Failed(FailureReason::Expired)
        );
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        pass(secs(60)).await;
        assert!(
            engine.received(1).is_empty(),
            "nothing old is sent on resume"
        );
    });
}

/// A retry of a delivery older than `max_age` was expired by the next sweep.
#[test]
fn what_a_person_retries_starts_to_age_anew() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"max_age_s": 600, "retry_delays_s": [60]}"#)
            .await;
        engine.always(1, Reply::Status(500, std::time::Duration::ZERO));
        let id = engine.publish_one("a.b").await;
        pass(secs(3600)).await;
        engine.postrider().retry_delivery(&id).await.unwrap();
        let view = engine.until(&id, Status::Failed, secs(200)).await;
        assert_eq!(
            view.delivery.life.state,
            State::Failed(FailureReason::RetriesExhausted)
        );
        assert_eq!(view.attempts.len(), 4);
    });
}

#[test]
fn retention_removes_what_has_ended_and_nothing_else() {
    on_virtual_time(async {
        let day = 24 * 3600;
        let engine = TestEngine::with(|config| {
            config.retention = secs(2 * day);
            config.maintenance_interval = secs(3600);
            rarely(config, secs(600));
        });
        engine
            .endpoint(1, r#"{"event_types": ["done"], "rate_limit": "unlimited"}"#)
            .await;
        let paused = engine.endpoint(2, r#"{"event_types": ["waits"]}"#).await;
        engine.postrider().pause_endpoint(&paused).await.unwrap();
        let mut done = Vec::new();
        for _ in 0..450 {
            done.push(engine.publish("done").await);
        }
        let waits = engine.publish("waits").await;
        pass(secs(3 * day)).await;

        let count = |table: &str| {
            database::number(
                &engine.database(),
                &format!("SELECT count(*) AS n FROM {table}"),
            )
        };
        assert_eq!(
            (
                count("webhook_events"),
                count("webhook_deliveries"),
                count("webhook_attempts")
            ),
            (1, 1, 0)
        );
        let gone = engine
            .postrider()
            .event(&Tenant::default(), &done[0].id)
            .await;
        assert!(matches!(gone, Err(Error::NotFound(Resource::Event))));
        let view = engine
            .postrider()
            .event(&Tenant::default(), &waits.id)
            .await
            .unwrap();
        assert_eq!(view.deliveries[0].life.state.status(), Status::Pending);
        if let DatabaseUrl::Sqlite(_) = engine.database() {
            let free = "SELECT freelist_count AS n FROM pragma_freelist_count";
            assert!(
                database::number(&engine.database(), free) < 20,
                "freed pages go back to the file system"
            );
            assert_eq!(
                database::words(
                    &engine.database(),
                    "SELECT CAST(auto_vacuum AS TEXT) AS w FROM pragma_auto_vacuum"
                ),
                ["2"]
            );
        }
    });
}
