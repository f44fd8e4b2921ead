//! Recoveries: what an endpoint has not got is sent again, in the background and across restarts.

use postrider::domain::ids::Tenant;
use postrider::domain::lifecycle::Status;
use postrider::domain::recovery::{Include, Progress, Recovery};
use postrider::testing::{Reply, on_virtual_time, pass};
use postrider::{Error, Notification};

use crate::support::database;
use crate::support::engine::{Database, START, TestEngine, secs};

/// Lets time pass until a recovery is done.
async fn until_done(engine: &TestEngine, recovery: &Recovery) -> Recovery {
    for _ in 0..600 {
        let seen = engine.postrider().recovery(&recovery.id).await.unwrap();
        if seen.progress == Progress::Done {
            return seen;
        }
        pass(secs(1)).await;
    }
    panic!("{recovery:?} does not end");
}

fn count(engine: &TestEngine, status: &str) -> i64 {
    let sql = format!("SELECT count(*) AS n FROM webhook_deliveries WHERE status = '{status}'");
    database::number(&engine.database(), &sql)
}

async fn until_delivered(engine: &TestEngine, number: i64) {
    for _ in 0..200 {
        if count(engine, "delivered") == number {
            return;
        }
        pass(secs(1)).await;
    }
    panic!("{} of {number} are delivered", count(engine, "delivered"));
}

const ONE_TRY: &str = r#"{"rate_limit": "unlimited", "concurrency": 50, "retry_delays_s": [], "breaker_after": 0,
                          "event_types": ["a.*"]}"#;

fn what_was_given_up_is_sent_again_and_nothing_else(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, ONE_TRY).await;
        let arrived = engine.publish_one("a.b").await;
        engine.until(&arrived, Status::Delivered, secs(5)).await;
        // Given up before the span, cancelled in it, and 450 that failed in it.
        engine.always(1, Reply::Status(500, secs(0)));
        let before = engine.publish_one("a.b").await;
        engine.until(&before, Status::Failed, secs(5)).await;
        pass(secs(10)).await;
        let since = engine.postrider().now();
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let cancelled = engine.publish_one("a.b").await;
        engine
            .postrider()
            .cancel_delivery(&cancelled)
            .await
            .unwrap();
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        for _ in 0..450 {
            engine.publish_one("a.b").await;
        }
        while count(&engine, "pending") + count(&engine, "sending") > 0 {
            pass(secs(1)).await;
        }
        assert_eq!(count(&engine, "failed"), 452);

        engine.always(1, Reply::Status(200, secs(0)));
        let wrong = engine
            .postrider()
            .recover_endpoint(&endpoint, Include::Failed, since, Some(START))
            .await;
        assert!(matches!(wrong, Err(Error::Invalid(_))));
        let recovery = engine
            .postrider()
            .recover_endpoint(&endpoint, Include::Failed, since, None)
            .await;
        let recovery = recovery.unwrap();
        // It is cut off by a stop, and goes on after the restart where it was.
        pass(std::time::Duration::from_millis(120)).await;
        let engine = engine.restart().await;
        let done = until_done(&engine, &recovery).await;
        assert_eq!((done.matched, done.requeued), (450, 450));
        until_delivered(&engine, 451).await;
        assert_eq!(
            count(&engine, "failed"),
            2,
            "what was cancelled, and what failed before"
        );
        assert_eq!(engine.received(1).len(), 1 + 1 + 450 + 450);
    });
}

fn what_an_endpoint_never_got_is_sent_where_it_wants_it_now(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.publish("a.b").await;
        pass(secs(60)).await;
        let since = engine.postrider().now();
        for _ in 0..300 {
            engine.publish("a.b").await;
        }
        engine.publish("other").await;
        let until = engine.postrider().now() + secs(1);
        pass(secs(60)).await;
        engine.publish("a.b").await;
        let endpoint = engine.endpoint(1, ONE_TRY).await;
        let had = engine.publish_one("a.b").await;
        engine.until(&had, Status::Delivered, secs(5)).await;
        let mut notifications = engine.postrider().subscribe();

        let span = engine
            .postrider()
            .recover_endpoint(&endpoint, Include::Missing, since, Some(until))
            .await;
        let done = until_done(&engine, &span.unwrap()).await;
        assert_eq!((done.matched, done.requeued), (300, 300));
        until_delivered(&engine, 301).await;
        assert!(matches!(
            notifications.recv().await.unwrap(),
            Notification::Delivered { .. }
        ));

        let all = engine
            .postrider()
            .recover_endpoint(&endpoint, Include::All, START, None)
            .await
            .unwrap();
        let done = until_done(&engine, &all).await;
        assert_eq!(done.matched, 2, "one before, and one after the span");
        until_delivered(&engine, 303).await;
        let again = engine
            .postrider()
            .recover_endpoint(&endpoint, Include::All, START, None)
            .await
            .unwrap();
        assert_eq!(until_done(&engine, &again).await.matched, 0);
        assert_eq!(engine.received(1).len(), 303);
        assert_eq!(again.tenant, Tenant::default());
    });
}

conformance! {
    what_an_endpoint_never_got_is_sent_where_it_wants_it_now,
    what_was_given_up_is_sent_again_and_nothing_else,
}
