//! Two engines over one Postgres, each on a thread of its own and on real time.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::Field;
use postrider::domain::event::NewEvent;
use postrider::domain::ids::EventId;
use postrider::testing::{Reply, ScriptedReceivers, endpoint_change};
use postrider::{Error, Postrider};

use crate::support::database;
use crate::support::engine::event;
use crate::support::postgres::Cluster;

async fn engine(url: &DatabaseUrl, name: &str, receivers: &ScriptedReceivers) -> Postrider {
    let mut config = EngineConfig::default();
    config.node_name = name.to_owned();
    config.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
    let engine = Postrider::builder().database(url.clone()).config(config);
    engine
        .transport(Arc::new(receivers.clone()))
        .start()
        .await
        .unwrap()
}

fn with_id(id: &str, data: &str) -> NewEvent {
    NewEvent {
        id: EventId::parse(id).unwrap(),
        ..event("a.b", data)
    }
}

const EVENTS: usize = 3000;

/// What each publisher was told of each event.
type Answers = HashMap<usize, Vec<Result<bool, Field>>>;

/// Publishes all events at an engine, some alone and some in batches, in an order of its own. Every
/// fortieth has other content at each engine.
async fn publish_all(engine: &Postrider, own: usize) -> Answers {
    // 7 and 11 have no factor in common with 3000: each order has all of them.
    let order: Vec<usize> = (0..EVENTS).map(|n| n * [7, 11][own] % EVENTS).collect();
    let content = |n: usize| {
        if n.is_multiple_of(40) {
            format!("{own}")
        } else {
            "0".to_owned()
        }
    };
    let mut answers = Answers::new();
    for chunk in order.chunks(60) {
        let (alone, batched) = chunk.split_at(40);
        let alone = alone.iter().map(|n| async move {
            let answer = engine
                .publish(with_id(&format!("e{n}"), &content(*n)))
                .await;
            (*n, answer.map(|receipt| receipt.duplicate))
        });
        let batches = batched.chunks(5).map(|batch| async move {
            let events = batch
                .iter()
                .map(|n| with_id(&format!("e{n}"), &content(*n)))
                .collect();
            (batch, engine.publish_batch(events).await)
        });
        let (alone, batches) = futures_util::join!(join_all(alone), join_all(batches));
        let told = |answer: Result<bool, Error>| match answer {
            Ok(duplicate) => Ok(duplicate),
            Err(Error::EventIdConflict { field, .. }) => Err(field),
            Err(other) => panic!("{other}"),
        };
        for (n, answer) in alone {
            answers.entry(n).or_default().push(told(answer));
        }
        for (batch, answer) in batches {
            match answer {
                Ok(receipts) => {
                    for (n, receipt) in batch.iter().zip(receipts) {
                        answers.entry(*n).or_default().push(Ok(receipt.duplicate));
                    }
                }
                Err(error) => {
                    let field = told(Err(error)).unwrap_err();
                    let Field::OfEvent(index, _) = field else {
                        panic!("{field} names no event");
                    };
                    answers.entry(batch[index]).or_default().push(Err(field));
                }
            }
        }
    }
    answers
}

#[test]
fn an_event_that_two_engines_publish_at_once_is_stored_once_and_answered_rightly_by_both() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    actix::System::new().block_on(async {
        let (url, receivers) = (cluster.database(), ScriptedReceivers::default());
        receivers.otherwise("127.0.0.1", Reply::Status(200, std::time::Duration::ZERO));
        let (a, b) = (
            engine(&url, "a", &receivers).await,
            engine(&url, "b", &receivers).await,
        );
        let change =
            r#"{"url": "http://127.0.0.1/hook", "rate_limit": "unlimited", "concurrency": 100}"#;
        let change = endpoint_change(change).unwrap();
        a.create_endpoint(Default::default(), change, None)
            .await
            .unwrap();
        let (of_a, of_b) = futures_util::join!(publish_all(&a, 0), publish_all(&b, 1));

        let mut conflicts = 0;
        for n in 0..EVENTS {
            let both: Vec<_> = [&of_a, &of_b]
                .iter()
                .filter_map(|one| one.get(&n))
                .flatten()
                .collect();
            let new = both
                .iter()
                .filter(|answer| matches!(answer, Ok(false)))
                .count();
            let refused = both.iter().filter(|answer| answer.is_err()).count();
            conflicts += refused;
            assert!(new <= 1, "e{n} was new twice");
            if n.is_multiple_of(40) {
                assert!(refused <= 1, "e{n}: one of two contents stands: {both:?}");
            } else {
                assert_eq!(
                    refused, 0,
                    "e{n} was refused although it is the same: {both:?}"
                );
            }
        }
        // A batch that was refused stored nothing: each stored event is new to somebody, once.
        let news = [&of_a, &of_b]
            .into_iter()
            .flat_map(|one| one.values().flatten());
        let news = news.filter(|answer| matches!(answer, Ok(false))).count();
        let number = |sql: &str| database::number(&url, sql);
        assert_eq!(
            number("SELECT count(*) AS n FROM webhook_events"),
            news as i64
        );
        assert_eq!(
            number("SELECT count(*) AS n FROM webhook_deliveries"),
            news as i64
        );
        assert!(conflicts > 20, "{conflicts}");
        crate::support::until(
            "all is delivered",
            std::time::Duration::from_secs(60),
            || {
                number("SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'")
                    == news as i64
            },
        );
        let received = receivers.received("127.0.0.1").len();
        assert_eq!(received, news, "each was sent once");
        eprintln!("{news} events of {EVENTS} twice, {conflicts} conflicts");
        futures_util::join!(a.drain(), b.drain());
    });
}
