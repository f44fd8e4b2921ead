//! Ordering keys: what shares one arrives in order and one at a time, whatever happens in between.

mod stories;

use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::prelude::*;
use std::time::Duration;

use postrider::Error;
use postrider::config::DatabaseUrl;
use postrider::domain::delivery::WaitingFor;
use postrider::domain::event::NewEvent;
use postrider::domain::ids::{DeliveryId, EventId};
use postrider::domain::lifecycle::{FailureReason, State, Status};
use postrider::domain::query::{DeliveryQuery, Page};
use postrider::domain::recovery::Include;
use postrider::testing::{Reply, ScriptedReceivers, endpoint_change, on_virtual_time, pass};

use crate::support::engine::{Database, TestEngine, event, host, secs};

const IN_ORDER: &str = r#"{"rate_limit": "unlimited", "concurrency": 4, "ordering": "key", "breaker_after": 0,
                           "retry_delays_s": [1, 1], "event_types": ["a.*"]}"#;
const ONE_TRY: &str = r#"{"rate_limit": "unlimited", "concurrency": 4, "ordering": "key", "breaker_after": 0,
                          "retry_delays_s": [], "event_types": ["a.*"]}"#;

fn keyed(key: &str, id: &str) -> NewEvent {
    NewEvent {
        id: EventId::parse(id).unwrap(),
        ordering_key: Some(key.to_owned()),
        ..event("a.b", &format!("\"{id}\""))
    }
}

async fn publish(engine: &TestEngine, key: &str, id: &str) -> DeliveryId {
    engine
        .postrider()
        .publish(keyed(key, id))
        .await
        .unwrap()
        .deliveries[0]
        .0
        .clone()
}

fn received(engine: &TestEngine) -> Vec<String> {
    ids(engine.receivers())
}

fn ids(receivers: &ScriptedReceivers) -> Vec<String> {
    let all = receivers.received(&host(1));
    all.iter()
        .map(|one| one.header("webhook-id").unwrap().to_owned())
        .collect()
}

async fn waits_for(engine: &TestEngine, id: &DeliveryId) -> Option<WaitingFor> {
    engine.delivery(id).await.waiting_for
}

fn a_retry_keeps_its_key_waiting_and_no_other(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, IN_ORDER).await;
        engine.replies(1, [Reply::Status(500, secs(0))]);
        publish(&engine, "k", "k1").await;
        pass(std::time::Duration::from_millis(100)).await;
        let second = publish(&engine, "k", "k2").await;
        let third = publish(&engine, "k", "k3").await;
        publish(&engine, "other", "o1").await;
        engine.publish("a.b").await;
        pass(std::time::Duration::from_millis(200)).await;
        assert_eq!(waits_for(&engine, &second).await, Some(WaitingFor::Order));
        let refused = engine
            .postrider()
            .release_delivery(&second)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("blocked by an earlier one"),
            "{refused}"
        );
        engine.until(&third, Status::Delivered, secs(10)).await;
        let of_key: Vec<_> = received(&engine)
            .into_iter()
            .filter(|id| id.starts_with('k'))
            .collect();
        assert_eq!(of_key, ["k1", "k1", "k2", "k3"]);
        let first_other = received(&engine).iter().position(|id| id == "o1").unwrap();
        assert!(
            first_other < 2,
            "it waited for another key: {:?}",
            received(&engine)
        );
    });
}

fn a_failed_one_blocks_until_it_is_released_or_retried(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, ONE_TRY).await;
        for way in ["release", "retry", "recover"] {
            let before = received(&engine).len();
            let since = engine.postrider().now();
            engine.replies(1, [Reply::Status(500, secs(0))]);
            let first = publish(&engine, way, &format!("{way}1")).await;
            let second = publish(&engine, way, &format!("{way}2")).await;
            engine.until(&first, Status::Failed, secs(5)).await;
            pass(secs(60)).await;
            assert_eq!(
                engine.delivery(&second).await.delivery.life.state.status(),
                Status::Pending
            );
            assert_eq!(waits_for(&engine, &second).await, Some(WaitingFor::Order));
            let view = engine.postrider().endpoint(&endpoint).await.unwrap();
            assert_eq!(
                (view.health.backlog.pending, view.health.backlog.held),
                (1, 0)
            );
            match way {
                "release" => {
                    let released = engine.postrider().release_delivery(&first).await.unwrap();
                    assert_eq!(
                        released.delivery.life.state,
                        State::Failed(FailureReason::RetriesExhausted)
                    );
                    let again = engine
                        .postrider()
                        .release_delivery(&first)
                        .await
                        .unwrap_err();
                    assert!(matches!(again, Error::Refused(_)), "{again}");
                }
                "retry" => {
                    engine.postrider().retry_delivery(&first).await.unwrap();
                }
                _ => {
                    engine
                        .postrider()
                        .recover_endpoint(&endpoint, Include::Failed, since, None)
                        .await
                        .unwrap();
                }
            }
            engine.until(&second, Status::Delivered, secs(60)).await;
            let all: Vec<_> = received(&engine).split_off(before);
            match way {
                "release" => assert_eq!(all, ["release1", "release2"]),
                _ => assert_eq!(
                    all,
                    [format!("{way}1"), format!("{way}1"), format!("{way}2")]
                ),
            }
            // A person's resend, out of any line.
            engine.postrider().retry_delivery(&first).await.unwrap();
            engine.until(&first, Status::Delivered, secs(5)).await;
        }
    });
}

fn with_skip_the_next_one_goes_on(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let settings = ONE_TRY.replace("\"ordering\"", "\"on_failed\": \"skip\", \"ordering\"");
        engine.endpoint(1, &settings).await;
        engine.replies(1, [Reply::Status(500, secs(1))]);
        let first = publish(&engine, "k", "k1").await;
        let second = publish(&engine, "k", "k2").await;
        engine.until(&second, Status::Delivered, secs(5)).await;
        assert_eq!(
            engine.delivery(&first).await.delivery.life.state.status(),
            Status::Failed
        );
        assert_eq!(received(&engine), ["k1", "k2"]);
    });
}

fn what_is_cancelled_or_expires_lets_the_next_one_go_on(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let settings = IN_ORDER.replace("\"ordering\"", "\"max_age_s\": 3600, \"ordering\"");
        let endpoint = engine.endpoint(1, &settings).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let mut all = Vec::new();
        for n in 1..=4 {
            all.push(publish(&engine, "k", &format!("k{n}")).await);
        }
        engine.postrider().cancel_delivery(&all[0]).await.unwrap();
        engine.postrider().cancel_delivery(&all[2]).await.unwrap();
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.until(&all[3], Status::Delivered, secs(5)).await;
        assert_eq!(received(&engine), ["k2", "k4"]);
    });
}

fn a_pause_and_a_restart_keep_the_order(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, IN_ORDER).await;
        engine.always(1, Reply::Status(500, secs(0)));
        let mut last = publish(&engine, "k", "k1").await;
        for n in 2..=20 {
            last = publish(&engine, "k", &format!("k{n}")).await;
        }
        pass(secs(1)).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        engine.always(1, Reply::Status(200, secs(0)));
        let engine = engine.restart().await;
        pass(secs(10)).await;
        let before = received(&engine);
        assert!(before.iter().all(|id| id == "k1"), "{before:?}");
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.until(&last, Status::Delivered, secs(20)).await;
        let mut seen = received(&engine);
        seen.dedup();
        assert_eq!(seen, (1..=20).map(|n| format!("k{n}")).collect::<Vec<_>>());
    });
}

/// A long line must not stand in the way of the others.
fn a_long_line_does_not_hold_other_keys_up(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine
            .endpoint(1, &IN_ORDER.replace("[1, 1]", "[600]"))
            .await;
        engine.replies(1, [Reply::Status(500, secs(0))]);
        publish(&engine, "k", "k0").await;
        pass(secs(1)).await;
        let many: Vec<NewEvent> = (1..=900).map(|n| keyed("k", &format!("k{n}"))).collect();
        engine.postrider().publish_batch(many).await.unwrap();
        let other = publish(&engine, "other", "o1").await;
        let before = engine.postrider().now();
        engine.until(&other, Status::Delivered, secs(30)).await;
        let took = engine.postrider().now().since(before);
        assert!(took < secs(5), "it took {took:?}");
        let last = DeliveryQuery {
            status: Some(Status::Pending),
            ..DeliveryQuery::default()
        };
        let last = engine
            .postrider()
            .deliveries(last, Page::first(1))
            .await
            .unwrap();
        engine
            .until(&last.entries[0].id, Status::Delivered, secs(3600))
            .await;
        let mut seen = received(&engine);
        seen.retain(|id| id.starts_with('k'));
        seen.dedup();
        assert_eq!(seen, (0..=900).map(|n| format!("k{n}")).collect::<Vec<_>>());
    });
}

fn a_change_of_the_order_holds_for_what_waits(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, ONE_TRY).await;
        let change = |json: &str| {
            let change = endpoint_change(json).unwrap();
            engine.postrider().update_endpoint(&endpoint, change)
        };
        // From blocking to skipping.
        engine.replies(1, [Reply::Status(500, secs(0))]);
        let first = publish(&engine, "a", "a1").await;
        let second = publish(&engine, "a", "a2").await;
        engine.until(&first, Status::Failed, secs(5)).await;
        pass(secs(5)).await;
        change(r#"{"on_failed": "skip"}"#).await.unwrap();
        engine.until(&second, Status::Delivered, secs(5)).await;
        // From an order to none.
        change(r#"{"on_failed": "block"}"#).await.unwrap();
        engine.replies(1, [Reply::Hang]);
        let mut all = Vec::new();
        for n in 1..=4 {
            all.push(publish(&engine, "b", &format!("b{n}")).await);
        }
        pass(secs(1)).await;
        change(r#"{"ordering": "none"}"#).await.unwrap();
        engine.until(&all[3], Status::Delivered, secs(5)).await;
        assert_eq!(
            engine.delivery(&all[0]).await.delivery.life.state.status(),
            Status::Sending
        );
        engine.until(&all[0], Status::Failed, secs(20)).await;
        // And back: what waits is put in order, what failed before blocks nobody.
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let mut all = vec![publish(&engine, "b", "b5").await];
        for n in 1..=4 {
            all.push(publish(&engine, "c", &format!("c{n}")).await);
        }
        change(r#"{"ordering": "key"}"#).await.unwrap();
        engine.always(1, Reply::Status(200, secs(1)));
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.until(&all[0], Status::Delivered, secs(3)).await;
        engine.until(&all[4], Status::Delivered, secs(10)).await;
        let of_c: Vec<_> = received(&engine)
            .into_iter()
            .filter(|id| id.starts_with('c'))
            .collect();
        assert_eq!(of_c, ["c1", "c2", "c3", "c4"]);
    });
}

/// A delivery that was put in line by its key stayed there when the key was taken away and given
/// back.
fn a_line_goes_on_after_its_order_was_taken_away_and_given_back(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine
            .endpoint(
                1,
                r#"{"ordering": "key", "rate_limit": "unlimited", "retry_delays_s": [600]}"#,
            )
            .await;
        let change = |json: &str| {
            let change = endpoint_change(json).unwrap();
            engine.postrider().update_endpoint(&endpoint, change)
        };
        for round in 0..3 {
            engine.replies(1, [Reply::Status(500, secs(0))]);
            let mut all = Vec::new();
            for n in 0..4 {
                all.push(publish(&engine, "k", &format!("r{round}-{n}")).await);
            }
            pass(secs(1)).await;
            // The first one waits for its retry, the others for it.
            change(r#"{"ordering": "none"}"#).await.unwrap();
            pass(Duration::from_millis(round * 40)).await;
            change(r#"{"ordering": "key"}"#).await.unwrap();
            for id in &all {
                engine.until(id, Status::Delivered, secs(700)).await;
            }
        }
    });
}

/// What failed and is never looked after goes with the retention, and what waited for it goes on or
/// expires.
fn what_blocks_is_removed_in_the_end(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on_with(database, |config| {
            crate::support::engine::rarely(config, secs(60));
            config.retention = secs(5 * 3600);
        });
        engine.endpoint(1, ONE_TRY).await;
        engine.replies(1, [Reply::Status(500, secs(0))]);
        let first = publish(&engine, "k", "k1").await;
        engine.until(&first, Status::Failed, secs(5)).await;
        pass(secs(3 * 3600)).await;
        let second = publish(&engine, "k", "k2").await;
        pass(secs(3600)).await;
        assert_eq!(received(&engine), ["k1"]);
        pass(secs(2 * 3600)).await;
        engine.until(&second, Status::Delivered, secs(1)).await;
        pass(secs(4 * 3600)).await;
        let gone = engine.postrider().delivery(&first).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound(_)), "{gone}");
    });
}

/// Missing events are recovered in their order, and one at a time with what is under way.
fn missing_events_come_in_order(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let since = engine.postrider().now();
        let none = engine.postrider().publish(keyed("k", "k1")).await.unwrap();
        assert!(none.deliveries.is_empty());
        for n in 2..=5 {
            engine
                .postrider()
                .publish(keyed("k", &format!("k{n}")))
                .await
                .unwrap();
        }
        pass(secs(1)).await;
        let endpoint = engine.endpoint(1, IN_ORDER).await;
        engine
            .postrider()
            .recover_endpoint(&endpoint, Include::Missing, since, None)
            .await
            .unwrap();
        pass(secs(20)).await;
        assert_eq!(received(&engine), ["k1", "k2", "k3", "k4", "k5"]);
    });
}

/// A host that publishes under a key and does not commit keeps those waiting who publish under it,
/// too; and nobody else.
fn an_open_transaction_holds_up_its_own_key_alone(database: Database) {
    let Database::Postgres = database else { return };
    on_virtual_time(async {
        let engine = TestEngine::on_with(database, |config| config.commit_timeout = secs(2));
        engine.endpoint(1, IN_ORDER).await;
        let DatabaseUrl::Postgres(url) = engine.database() else {
            panic!()
        };
        let mut conn = PgConnection::establish(url.reveal()).unwrap();
        AnsiTransactionManager::begin_transaction(&mut conn).unwrap();
        engine
            .postrider()
            .publish_in(&mut conn, &keyed("k", "k1"))
            .unwrap();
        let refused = engine
            .postrider()
            .publish(keyed("k", "k2"))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("ordering key"), "{refused}");
        let other = publish(&engine, "other", "o1").await;
        engine.until(&other, Status::Delivered, secs(5)).await;
        AnsiTransactionManager::commit_transaction(&mut conn).unwrap();
        let late = publish(&engine, "k", "k2").await;
        engine.until(&late, Status::Delivered, secs(5)).await;
        assert_eq!(received(&engine), ["o1", "k1", "k2"]);
    });
}

conformance! {
    a_retry_keeps_its_key_waiting_and_no_other,
    a_failed_one_blocks_until_it_is_released_or_retried,
    with_skip_the_next_one_goes_on,
    what_is_cancelled_or_expires_lets_the_next_one_go_on,
    a_pause_and_a_restart_keep_the_order,
    a_long_line_does_not_hold_other_keys_up,
    a_change_of_the_order_holds_for_what_waits,
    a_line_goes_on_after_its_order_was_taken_away_and_given_back,
    what_blocks_is_removed_in_the_end,
    missing_events_come_in_order,
    an_open_transaction_holds_up_its_own_key_alone,
}
