//! Rate limits, concurrency, and endpoints that do not hurt each other.

use std::time::Duration;

use postrider::domain::delivery::WaitingFor;
use postrider::domain::lifecycle::Status;
use postrider::testing::{Received, Reply, endpoint_change, on_virtual_time, pass};

use crate::support::database;
use crate::support::engine::{TestEngine, host, secs};

/// The most requests in any window of this length.
fn most_in(received: &[Received], window: Duration) -> usize {
    let within = |from: &Received| {
        received
            .iter()
            .filter(|one| one.at >= from.at && one.at - from.at <= window)
            .count()
    };
    received.iter().map(within).max().unwrap_or(0)
}

/// The same, by what the attempt log says.
fn most_logged_in(engine: &TestEngine, seconds: i64) -> i64 {
    let sql = format!(
        "SELECT max((SELECT count(*) FROM webhook_attempts b WHERE b.started_at >= a.started_at \
         AND b.started_at <= a.started_at + {seconds} * 1000000)) AS n FROM webhook_attempts a"
    );
    database::number(&engine.database(), &sql)
}

#[test]
fn ten_a_minute_is_ten_in_any_sixty_seconds() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        let mut ids = Vec::new();
        for _ in 0..35 {
            ids.push(engine.publish_one("a.b").await);
        }
        pass(secs(30)).await;
        assert_eq!(engine.received(1).len(), 10);
        assert_eq!(
            engine.delivery(&ids[34]).await.waiting_for,
            Some(WaitingFor::RateLimit)
        );
        let health = engine.postrider().endpoint(&endpoint).await.unwrap().health;
        assert_eq!(
            (health.backlog.pending, health.estimated_drain),
            (25, Some(secs(150)))
        );
        assert!(health.next_slot_at.is_some());

        engine.until(&ids[34], Status::Delivered, secs(300)).await;
        assert_eq!(
            most_in(&engine.received(1), secs(60)),
            10,
            "and it is used fully"
        );
        assert_eq!(most_logged_in(&engine, 60), 10);
    });
}

#[test]
fn the_limit_is_remembered_while_the_supervisor_is_gone_and_across_a_restart() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"concurrency": 10}"#).await;
        for _ in 0..10 {
            engine.publish_one("a.b").await;
        }
        pass(secs(30)).await;
        assert_eq!(
            engine.metric("postrider_supervisors").await,
            0.0,
            "idle endpoints own no actor"
        );
        let last = engine.publish_one("a.b").await;
        pass(secs(5)).await;
        assert_eq!(engine.received(1).len(), 10);

        let engine = engine.restart().await;
        pass(secs(10)).await;
        assert_eq!(
            engine.received(1).len(),
            10,
            "the log knows, whoever reads it"
        );
        engine.until(&last, Status::Delivered, secs(30)).await;
        assert_eq!(most_in(&engine.received(1), secs(60)), 10);
    });
}

#[test]
fn a_changed_limit_holds_for_what_was_sent_before_it() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine
            .endpoint(1, r#"{"rate_limit": "5/s", "concurrency": 100}"#)
            .await;
        engine.always(1, Reply::Status(200, secs(1)));
        for _ in 0..60 {
            engine.publish_one("a.b").await;
        }
        pass(secs(4)).await;
        let before = engine.received(1).len();
        assert!((20..=25).contains(&before), "{before}");
        let slower = endpoint_change(r#"{"rate_limit": "30/min"}"#).unwrap();
        engine
            .postrider()
            .update_endpoint(&endpoint, slower)
            .await
            .unwrap();
        pass(secs(200)).await;
        let received = engine.received(1);
        assert_eq!(received.len(), 60);
        // From the change on no window holds more than 30, what went before included.
        let since = &received[before..];
        assert_eq!(most_in(since, secs(60)), 30);
        for one in since {
            let inside = received
                .iter()
                .filter(|other| other.at <= one.at && one.at - other.at < secs(60))
                .count();
            assert!(
                inside <= 30,
                "{inside} in the minute before one that was sent under the new limit"
            );
        }
    });
}

#[test]
fn three_in_flight_are_never_four() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        engine.always(1, Reply::Status(200, secs(2)));
        let mut last = None;
        for _ in 0..30 {
            last = Some(engine.publish_one("a.b").await);
        }
        engine
            .until(&last.unwrap(), Status::Delivered, secs(60))
            .await;
        assert_eq!(
            engine.receivers().most_at_once(&host(1)),
            3,
            "and three are used"
        );
    });
}

#[test]
fn one_that_hangs_does_not_delay_another() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"event_types": ["hang"], "rate_limit": "unlimited"}"#)
            .await;
        engine
            .endpoint(2, r#"{"event_types": ["fine"], "rate_limit": "unlimited"}"#)
            .await;
        engine.always(1, Reply::Hang);
        for _ in 0..50 {
            engine.publish_one("hang").await;
        }
        pass(secs(1)).await;
        for _ in 0..20 {
            let id = engine.publish_one("fine").await;
            engine.until(&id, Status::Delivered, secs(1)).await;
        }
    });
}

#[test]
fn deliveries_of_one_endpoint_go_out_oldest_first() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"rate_limit": "unlimited", "concurrency": 1}"#)
            .await;
        engine.always(1, Reply::Status(200, Duration::from_millis(10)));
        let mut ids = Vec::new();
        for _ in 0..50 {
            ids.push(engine.publish("a.b").await.id);
        }
        pass(secs(5)).await;
        let received = engine.received(1);
        let got: Vec<_> = received
            .iter()
            .map(|one| one.header("webhook-id").unwrap().to_owned())
            .collect();
        let published: Vec<_> = ids.iter().map(|id| id.to_string()).collect();
        assert_eq!(got, published);
    });
}

#[test]
fn a_limit_that_changes_again_and_again_ends_as_the_last_one() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine
            .endpoint(1, r#"{"rate_limit": "5/s", "concurrency": 100}"#)
            .await;
        for _ in 0..5 {
            engine.publish("a.b").await;
        }
        pass(secs(9)).await;
        for _ in 0..40 {
            // Also around the moment at which an idle supervisor leaves.
            pass(Duration::from_millis(100)).await;
            for limit in ["5/min", "3/h"] {
                let change = endpoint_change(&format!(r#"{{"rate_limit": "{limit}"}}"#)).unwrap();
                engine
                    .postrider()
                    .update_endpoint(&endpoint, change)
                    .await
                    .unwrap();
            }
            engine.publish("a.b").await;
        }
        pass(secs(600)).await;
        assert_eq!(
            engine.received(1).len(),
            5,
            "five in this hour are more than three"
        );
    });
}

#[test]
fn the_engine_as_a_whole_has_a_limit_and_every_endpoint_gets_its_turn() {
    on_virtual_time(async {
        let engine = TestEngine::with(|config| config.max_in_flight = 2);
        for n in 1..=5 {
            let settings = format!(r#"{{"event_types": ["e{n}"], "rate_limit": "unlimited"}}"#);
            engine.endpoint(n, &settings).await;
            engine.always(n, Reply::Status(200, secs(1)));
        }
        let mut ids = Vec::new();
        for n in (1..=5).flat_map(|n| [n; 4]) {
            ids.push(engine.publish_one(&format!("e{n}")).await);
        }
        pass(Duration::from_millis(3900)).await;
        let waiting = engine.delivery(&ids[19]).await;
        assert_eq!(waiting.waiting_for, Some(WaitingFor::Concurrency));
        let starts: Vec<_> = (1..=5).flat_map(|n| engine.received(n)).collect();
        assert_eq!(starts.len(), 8, "two each second");
        for n in 1..=5 {
            assert!(!engine.received(n).is_empty(), "endpoint {n} had no turn");
        }
        engine.until(&ids[19], Status::Delivered, secs(10)).await;
        let mut starts: Vec<_> = (1..=5).flat_map(|n| engine.received(n)).collect();
        starts.sort_by_key(|one| one.at);
        assert_eq!(
            (starts.len(), most_in(&starts, Duration::from_millis(900))),
            (20, 2)
        );
    });
}
