//! Claims and outcomes whose owner, or whose answer, went away.

use std::time::Duration;

use postrider::domain::delivery::Outcome;
use postrider::domain::lifecycle::Status;
use postrider::testing::{Reply, on_virtual_time, pass};

use crate::support::database as look;
use crate::support::engine::{Database, TestEngine, secs};

fn a_claim_whose_commit_was_not_answered_is_taken_back_by_the_poll(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let id = engine.publish_one("a.b").await;
        // What a commit leaves behind of which only the answer was lost.
        look::execute(
            &engine.database(),
            "UPDATE webhook_deliveries SET status = 'sending', claim_no = 1, \
             claimed_at = created_at, owner_epoch = (SELECT epoch FROM webhook_shards WHERE shard = webhook_deliveries.endpoint / 33554432)",
        );
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        let view = engine.until(&id, Status::Delivered, secs(10)).await;
        assert_eq!(
            view.attempts.len(),
            1,
            "a claim that was never started is no attempt"
        );
    });
}

fn an_outcome_whose_claim_was_taken_away_is_counted_and_dropped(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, "{}").await;
        engine.replies(1, [Reply::Status(500, secs(3))]);
        let id = engine.publish_one("a.b").await;
        pass(secs(1)).await;
        // Another owner took it over: its claim has the next number.
        look::execute(
            &engine.database(),
            "UPDATE webhook_deliveries SET claim_no = claim_no + 1",
        );
        pass(Duration::from_millis(2500)).await;
        assert_eq!(engine.metric("postrider_stale_outcomes_total").await, 1.0);
        let view = engine.delivery(&id).await;
        assert!(view.attempts.is_empty());
    });
}

/// The supervisor of a paused endpoint is gone; the registry itself finds its claim.
fn a_claim_of_a_paused_endpoint_that_no_attempt_holds_is_taken_back(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, "{}").await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let id = engine.publish_one("a.b").await;
        pass(secs(30)).await;
        look::execute(
            &engine.database(),
            "UPDATE webhook_deliveries SET status = 'sending', claim_no = 1, \
             claimed_at = created_at, owner_epoch = (SELECT epoch FROM webhook_shards WHERE shard = webhook_deliveries.endpoint / 33554432)",
        );
        pass(secs(5)).await;
        let view = engine.delivery(&id).await;
        assert_eq!(view.delivery.life.state.status(), Status::Pending);
        assert!(engine.received(1).is_empty(), "and it is still paused");
    });
}

/// A process that was killed leaves `sending` rows; the next owner takes all of them back.
fn what_a_dead_owner_left_is_taken_back_and_logged(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, "{}").await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let id = engine.publish_one("a.b").await;
        let engine = {
            let file = engine.database();
            let engine = engine.stop().await;
            look::execute(
                &file,
                "UPDATE webhook_deliveries SET status = 'sending', claim_no = 1, \
                 claimed_at = created_at, owner_epoch = 1",
            );
            look::execute(
                &file,
                "UPDATE webhook_shards SET holder = 'in_killed', expires_at = 0",
            );
            engine.start_again()
        };
        let view = engine.delivery(&id).await;
        assert_eq!(view.delivery.life.state.status(), Status::Pending);
        assert_eq!(
            (
                view.delivery.life.interruptions,
                view.delivery.life.retries_used
            ),
            (1, 0)
        );
        assert_eq!(
            (view.attempts[0].number, view.attempts[0].record.outcome),
            (None, Outcome::Interrupted)
        );
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        let view = engine.until(&id, Status::Delivered, secs(5)).await;
        assert_eq!((view.attempts.len(), view.attempts[1].number), (2, Some(1)));
    });
}

/// Another process changes an endpoint, or the one that did went away before it could tell.
fn a_change_that_nobody_told_of_is_heard_within_a_poll(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine
            .endpoint(1, r#"{"rate_limit": "unlimited", "concurrency": 1}"#)
            .await;
        engine.always(1, Reply::Status(200, secs(1)));
        for _ in 0..100 {
            engine.publish_one("a.b").await;
        }
        pass(secs(3)).await;
        let pause = |reason: &str| {
            let sql = format!(
                "UPDATE webhook_counters SET value = value + 1 WHERE name = 'endpoints'; \
                 UPDATE webhook_endpoints SET pause_reason = {reason}, version = version + 1, \
                 change_no = (SELECT value FROM webhook_counters WHERE name = 'endpoints')"
            );
            look::execute(&engine.database(), &sql);
        };
        pause("'operator'");
        pass(secs(3)).await;
        let paused = engine.received(1).len();
        pass(secs(5)).await;
        assert_eq!(engine.received(1).len(), paused);
        pause("NULL");
        pass(secs(5)).await;
        assert!(engine.received(1).len() > paused, "and resumed");
    });
}

/// An owner whose lease another one took over sends nothing more, and goes on accepting.
fn claims_of_a_former_owner_are_refused(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        let first = engine.publish_one("a.b").await;
        engine.until(&first, Status::Delivered, secs(5)).await;
        look::execute(
            &engine.database(),
            "UPDATE webhook_shards SET epoch = epoch + 1, holder = 'in_another', \
             expires_at = 9000000000000000000",
        );
        let second = engine.publish_one("a.b").await;
        pass(secs(30)).await;
        assert_eq!(
            engine.delivery(&second).await.delivery.life.state.status(),
            Status::Pending
        );
        assert_eq!(engine.received(1).len(), 1);
        let nodes = engine.postrider().nodes().await.unwrap();
        assert_eq!((nodes.len(), nodes[0].alive, nodes[0].shards), (1, true, 0));
        engine.postrider().drain().await;
    });
}

conformance! {
    a_change_that_nobody_told_of_is_heard_within_a_poll,
    claims_of_a_former_owner_are_refused,
    a_claim_of_a_paused_endpoint_that_no_attempt_holds_is_taken_back,
    a_claim_whose_commit_was_not_answered_is_taken_back_by_the_poll,
    an_outcome_whose_claim_was_taken_away_is_counted_and_dropped,
    what_a_dead_owner_left_is_taken_back_and_logged,
}
