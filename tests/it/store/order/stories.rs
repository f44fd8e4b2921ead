//! Order as a property: whatever is published, paused, failed, retried or crashed, in whichever
//! order.

use std::collections::HashMap;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use postrider::Error;
use postrider::config::DatabaseUrl;
use postrider::domain::clock::Timestamp;
use postrider::domain::event::NewEvent;
use postrider::domain::ids::{EndpointId, Tenant};
use postrider::domain::lifecycle::Status;
use postrider::domain::query::{DeliveryQuery, Page};
use postrider::testing::{Reply, ScriptedReceivers, on_virtual_time, pass};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{IN_ORDER, ids, keyed};
use crate::support::database;
use crate::support::engine::{Database, START, TestEngine, host, secs};

/// What may happen to an endpoint.
#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    /// Several in one transaction of a host's: committed, or rolled back.
    Transaction(Vec<u8>, bool),
    Pause,
    Resume,
    /// Its next requests fail.
    Fail(u8),
    Retry,
    Pass(u16),
    /// Everything in memory is gone, requests under way included.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3_u8).prop_map(Step::Publish),
        3 => (proptest::collection::vec(0..3_u8, 1..4), any::<bool>())
            .prop_map(|(keys, commit)| Step::Transaction(keys, commit)),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        3 => (1..6_u8).prop_map(Step::Fail),
        2 => Just(Step::Retry),
        6 => (0..1500_u16).prop_map(Step::Pass),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 10..60)
}

const TAKES_MS: u64 = 30;

struct Story {
    database: DatabaseUrl,
    receivers: ScriptedReceivers,
    endpoint: EndpointId,
    now: Timestamp,
    /// What was committed, by key, in order.
    committed: HashMap<u8, Vec<String>>,
    number: usize,
    /// How many requests there were at each crash.
    crashes: Vec<usize>,
}

impl Story {
    fn event(&mut self, key: u8) -> (NewEvent, String) {
        self.number += 1;
        let id = format!("{key}-{}", self.number);
        (keyed(&format!("key{key}"), &id), id)
    }

    async fn retry_failed(&self, engine: &TestEngine) {
        let list = DeliveryQuery {
            status: Some(Status::Failed),
            ..DeliveryQuery::default()
        };
        let failed = engine.postrider().deliveries(list, Page::first(100)).await;
        for failed in failed.unwrap().entries {
            let _ = engine.postrider().retry_delivery(&failed.id).await;
        }
    }

    /// Goes on until the next crash; false at the end.
    async fn run(&mut self, steps: &mut std::vec::IntoIter<Step>) -> bool {
        let engine = TestEngine::again(&self.database, &self.receivers, self.now);
        for step in steps.by_ref() {
            match step {
                Step::Publish(key) => {
                    let (event, id) = self.event(key);
                    engine.postrider().publish(event).await.unwrap();
                    self.committed.entry(key).or_default().push(id);
                }
                Step::Transaction(keys, commit) => {
                    let events: Vec<_> = keys.iter().map(|key| (*key, self.event(*key))).collect();
                    let made: Vec<NewEvent> =
                        events.iter().map(|(_, (event, _))| event.clone()).collect();
                    in_transaction(&engine, made, commit);
                    if commit {
                        for (key, (_, id)) in events {
                            self.committed.entry(key).or_default().push(id);
                        }
                    }
                }
                Step::Pause => drop(
                    engine
                        .postrider()
                        .pause_endpoint(&self.endpoint)
                        .await
                        .unwrap(),
                ),
                Step::Resume => drop(
                    engine
                        .postrider()
                        .resume_endpoint(&self.endpoint)
                        .await
                        .unwrap(),
                ),
                Step::Fail(n) => {
                    let fail = Reply::Status(500, std::time::Duration::from_millis(TAKES_MS));
                    self.receivers.next(&host(1), (0..n).map(|_| fail.clone()));
                }
                Step::Retry => self.retry_failed(&engine).await,
                Step::Pass(ms) => pass(std::time::Duration::from_millis(ms.into())).await,
                Step::Crash => {
                    self.crashes.push(self.receivers.received(&host(1)).len());
                    self.now = engine.postrider().now();
                    return true;
                }
            }
        }
        // Whatever happened, all of it arrives.
        engine
            .postrider()
            .resume_endpoint(&self.endpoint)
            .await
            .unwrap();
        let all: usize = self.committed.values().map(Vec::len).sum();
        let count = "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'";
        for _ in 0..200 {
            if database::number(&self.database, count) == i64::try_from(all).unwrap() {
                return false;
            }
            self.retry_failed(&engine).await;
            let held =
                "SELECT count(*) AS n FROM webhook_deliveries WHERE hold_reason = 'interrupted'";
            assert_eq!(database::number(&self.database, held), 0);
            pass(secs(2)).await;
        }
        panic!("not all of {all} are delivered");
    }

    fn check(&self) {
        let all = self.receivers.received(&host(1));
        let seen = ids(&self.receivers);
        for (key, expected) in &self.committed {
            let of_key: Vec<usize> = (0..seen.len())
                .filter(|place| seen[*place].starts_with(&format!("{key}-")))
                .collect();
            let mut order: Vec<&String> = of_key.iter().map(|place| &seen[*place]).collect();
            order.dedup();
            assert_eq!(order, expected.iter().collect::<Vec<_>>(), "key {key}");
            for pair in of_key.windows(2) {
                let crashed = self
                    .crashes
                    .iter()
                    .any(|at| (pair[0] + 1..=pair[1]).contains(at));
                let apart = all[pair[1]].at.saturating_duration_since(all[pair[0]].at);
                assert!(
                    crashed || apart.as_millis() >= TAKES_MS.into(),
                    "two of key {key} at once"
                );
            }
        }
    }
}

fn in_transaction(engine: &TestEngine, events: Vec<NewEvent>, commit: bool) {
    fn run<C: postrider::host::HostConnection>(
        engine: &TestEngine,
        conn: &mut C,
        events: Vec<NewEvent>,
        commit: bool,
    ) -> Result<(), Error> {
        engine.postrider().transaction(conn, |host| {
            for event in events {
                host.publish(&event)?;
            }
            if commit {
                Ok(())
            } else {
                Err(Error::EndpointDeleted)
            }
        })
    }
    let done = match engine.database() {
        DatabaseUrl::Sqlite(path) => {
            let conn = &mut SqliteConnection::establish(path.to_str().unwrap()).unwrap();
            conn.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL")
                .unwrap();
            run(engine, conn, events, commit)
        }
        DatabaseUrl::Postgres(url) => run(
            engine,
            &mut PgConnection::establish(url.reveal()).unwrap(),
            events,
            commit,
        ),
        other => panic!("{other:?}"),
    };
    assert_eq!(done.is_ok(), commit, "{done:?}");
}

fn whatever_happens_the_order_is_kept_and_nothing_lost(database: Database) {
    let cases = std::env::var("POSTRIDER_TEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(12);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let story = |steps: Vec<Step>| {
        let receivers = ScriptedReceivers::default();
        let takes = std::time::Duration::from_millis(TAKES_MS);
        receivers.otherwise(&host(1), Reply::Status(200, takes));
        let dir = tempfile::tempdir().unwrap();
        let url = database.fresh(dir.path()).expect("there is one");
        let endpoint = on_virtual_time(async {
            let engine = TestEngine::again(&url, &receivers, START);
            engine.endpoint_of(Tenant::default(), 1, IN_ORDER).await
        });
        let mut story = Story {
            database: url,
            receivers,
            endpoint,
            now: START,
            committed: HashMap::new(),
            number: 0,
            crashes: Vec::new(),
        };
        let mut steps = steps.into_iter();
        while on_virtual_time(story.run(&mut steps)) {}
        story.check();
    };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            story(steps);
            Ok(())
        })
        .unwrap();
}

conformance! {
    whatever_happens_the_order_is_kept_and_nothing_lost,
}
