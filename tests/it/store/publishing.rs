//! Publishing: ids, duplicates, conflicts, batches, fan-out.

use postrider::Error;
use postrider::domain::Field;
use postrider::domain::event::NewEvent;
use postrider::domain::ids::{EventId, Tenant};
use postrider::domain::query::{EventQuery, Page};
use postrider::testing::on_virtual_time;

use crate::support::database;
use crate::support::engine::{Database, TestEngine, event};

fn with_id(id: &str, data: &str) -> NewEvent {
    NewEvent {
        id: EventId::parse(id).unwrap(),
        ..event("a.b", data)
    }
}

fn the_same_event_twice_is_stored_once_and_answered_with_the_first_deliveries(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, "{}").await;
        let first = engine
            .postrider()
            .publish(with_id("e1", "1"))
            .await
            .unwrap();
        engine.endpoint(2, "{}").await;
        let second = engine
            .postrider()
            .publish(with_id("e1", "1"))
            .await
            .unwrap();
        assert!(!first.duplicate && second.duplicate);
        assert_eq!(
            first.deliveries, second.deliveries,
            "the endpoint added since gets nothing of it"
        );
        assert_eq!(first.created_at, second.created_at);
        assert_eq!(
            database::number(
                &engine.database(),
                "SELECT count(*) AS n FROM webhook_events"
            ),
            1
        );
    });
}

fn the_same_id_with_other_content_is_a_conflict_and_changes_nothing(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine
            .postrider()
            .publish(with_id("e1", "1"))
            .await
            .unwrap();
        let other = engine.postrider().publish(with_id("e1", "2")).await;
        assert!(
            matches!(other, Err(Error::EventIdConflict { field, .. }) if field == Field::EventId)
        );
        let elsewhere = NewEvent {
            tenant: Tenant::parse("other").unwrap(),
            ..with_id("e1", "2")
        };
        assert!(
            !engine
                .postrider()
                .publish(elsewhere)
                .await
                .unwrap()
                .duplicate,
            "ids are unique per tenant"
        );
    });
}

fn a_batch_is_stored_whole_or_not_at_all(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, "{}").await;
        engine
            .postrider()
            .publish(with_id("taken", "1"))
            .await
            .unwrap();
        let batch = vec![
            with_id("n1", "1"),
            with_id("n2", "1"),
            with_id("taken", "2"),
            with_id("n3", "1"),
        ];
        let refused = engine.postrider().publish_batch(batch).await;
        assert!(
            matches!(refused, Err(Error::EventIdConflict { field, .. }) if field == Field::EventId.of_event(Some(2)))
        );
        let events = "SELECT count(*) AS n FROM webhook_events";
        assert_eq!(database::number(&engine.database(), events), 1);

        let batch = vec![
            with_id("n1", "1"),
            with_id("taken", "1"),
            with_id("n1", "1"),
        ];
        let receipts = engine.postrider().publish_batch(batch).await.unwrap();
        let marks: Vec<_> = receipts.iter().map(|receipt| receipt.duplicate).collect();
        assert_eq!(marks, [false, true, true]);
        assert_eq!(receipts[0].deliveries, receipts[2].deliveries);
        assert_eq!(database::number(&engine.database(), events), 2);
        assert!(engine.postrider().publish_batch(vec![]).await.is_err());
    });
}

fn events_go_to_the_endpoints_of_their_tenant_that_want_them(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let all = engine.endpoint(1, "{}").await;
        let prefix = engine
            .endpoint(2, r#"{"event_types": ["invoice.*"]}"#)
            .await;
        engine
            .endpoint(3, r#"{"event_types": ["order.filled"]}"#)
            .await;
        let receipt = engine.publish("invoice.paid").await;
        let to: Vec<_> = receipt
            .deliveries
            .into_iter()
            .map(|(_, endpoint)| endpoint)
            .collect();
        assert_eq!(to, [all, prefix.clone()]);
        let elsewhere = NewEvent {
            tenant: Tenant::parse("other").unwrap(),
            ..event("invoice.paid", "1")
        };
        assert!(
            engine
                .postrider()
                .publish(elsewhere)
                .await
                .unwrap()
                .deliveries
                .is_empty()
        );

        // A test event goes to one endpoint, whatever it wants.
        let receipt = engine.postrider().test_endpoint(&prefix).await.unwrap();
        assert_eq!(receipt.deliveries.len(), 1);
        assert_eq!(receipt.event_type.as_str(), "postrider.test");
    });
}

fn many_publishers_at_once_share_commits_and_get_their_own_answers(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let publish = |i: u32| {
            let postrider = engine.postrider().clone();
            // Every tenth is a conflict, which fails no neighbour in its group.
            let id = if i.is_multiple_of(10) {
                "same".to_owned()
            } else {
                format!("e{i}")
            };
            actix::spawn(async move { postrider.publish(with_id(&id, &i.to_string())).await })
        };
        let answers: Vec<_> = (0..500).map(publish).collect();
        let (mut stored, mut conflicts) = (0, 0);
        for answer in answers {
            match answer.await.unwrap() {
                Ok(receipt) => stored += i64::from(!receipt.duplicate),
                Err(Error::EventIdConflict { .. }) => conflicts += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((stored, conflicts), (451, 49));
        assert_eq!(
            database::number(
                &engine.database(),
                "SELECT count(*) AS n FROM webhook_events"
            ),
            451
        );
        let commits = engine
            .metric("postrider_commit_duration_seconds_count")
            .await;
        assert!(commits < 100.0, "{commits} commits for 500 publishers");
    });
}

/// A refused batch's event had gone in before the refusal was known, and stayed as another one's.
fn what_a_refused_batch_leaves_free_is_its_next_publishers(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine
            .postrider()
            .publish(with_id("taken", "1"))
            .await
            .unwrap();
        // Both queue before the committer runs: they share a commit.
        let batch = vec![with_id("free", r#""refused""#), with_id("taken", "2")];
        let (refused, stored) = tokio::join!(
            engine.postrider().publish_batch(batch),
            engine.postrider().publish(with_id("free", r#""stored""#)),
        );
        assert!(refused.is_err() && !stored.unwrap().duplicate);
        let id = EventId::parse("free").unwrap();
        let found = engine
            .postrider()
            .event(&Tenant::default(), &id)
            .await
            .unwrap()
            .event;
        let body = String::from_utf8_lossy(&found.body).into_owned();
        assert!(body.contains(r#""data":"stored""#), "{body}");
        let again = engine
            .postrider()
            .publish(with_id("free", r#""stored""#))
            .await
            .unwrap();
        assert!(again.duplicate);
    });
}

fn lists_go_through_everything_once_newest_first(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        for i in 0..25 {
            engine
                .postrider()
                .publish(with_id(&format!("e{i}"), "1"))
                .await
                .unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after, limit: 10 };
            let page = engine
                .postrider()
                .events(EventQuery::default(), page)
                .await
                .unwrap();
            seen.extend(page.entries.iter().map(|event| event.id.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = (0..25).rev().map(|i| format!("e{i}")).collect();
        assert_eq!(seen, expected);
    });
}

conformance! {
    the_same_event_twice_is_stored_once_and_answered_with_the_first_deliveries,
    the_same_id_with_other_content_is_a_conflict_and_changes_nothing,
    a_batch_is_stored_whole_or_not_at_all,
    events_go_to_the_endpoints_of_their_tenant_that_want_them,
    many_publishers_at_once_share_commits_and_get_their_own_answers,
    lists_go_through_everything_once_newest_first,
    what_a_refused_batch_leaves_free_is_its_next_publishers,
}
