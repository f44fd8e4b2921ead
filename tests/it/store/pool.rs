//! An engine on a host's own pool of connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, R2D2Connection};
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::ids::Tenant;
use postrider::host::{HostConnection, HostPool};
use postrider::testing::endpoint_change;
use postrider::{Notification, Postrider};
use tokio::sync::broadcast;

use crate::support::database;
use crate::support::engine::{Database, event};
use crate::support::receiver::Receiver;

/// What a host sets on its connections.
#[derive(Debug)]
struct AsHostsDo;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for AsHostsDo {
    fn on_acquire(&self, conn: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        let settings =
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";
        conn.batch_execute(settings)
            .map_err(diesel::r2d2::Error::QueryError)
    }
}

fn sqlite(path: &std::path::Path) -> Pool<ConnectionManager<SqliteConnection>> {
    let manager = ConnectionManager::new(path.to_str().unwrap());
    Pool::builder()
        .max_size(6)
        .connection_customizer(Box::new(AsHostsDo))
        .build(manager)
        .unwrap()
}

fn config() -> EngineConfig {
    let mut config = EngineConfig::default();
    config.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

async fn start(pool: impl Into<HostPool>) -> Result<Postrider, String> {
    let started = Postrider::builder()
        .pool(pool)
        .config(config())
        .start()
        .await;
    started.map_err(|error| error.to_string())
}

/// Waits until so many deliveries have succeeded, and nothing else has happened.
async fn delivered(notifications: &mut broadcast::Receiver<Notification>, count: usize) {
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(20), notifications.recv()).await;
        let next = next.expect("it happens within 20 s").unwrap();
        assert!(matches!(next, Notification::Delivered { .. }), "{next:?}");
    }
}

/// Publishes from a transaction on the pool, and without one; all of it arrives, and every
/// connection comes back.
async fn story<C>(pool: Pool<ConnectionManager<C>>, database: &DatabaseUrl)
where
    C: HostConnection + R2D2Connection + SimpleConnection + Send + 'static,
{
    let receiver = Receiver::start();
    let size = pool.max_size();
    pool.get()
        .unwrap()
        .batch_execute("CREATE TABLE own (id INTEGER)")
        .unwrap();
    for round in 1..=2_usize {
        let postrider = start(pool.clone()).await.unwrap();
        if round == 1 {
            let change = serde_json::json!({"url": receiver.url("/ok"), "rate_limit": "unlimited"});
            let change = endpoint_change(&change.to_string()).unwrap();
            postrider
                .create_endpoint(Tenant::default(), change, None)
                .await
                .unwrap();
        }
        let mut notifications = postrider.subscribe();
        for _ in 0..20 {
            let mut conn = pool.get().unwrap();
            let done: Result<_, postrider::Error> =
                postrider.transaction(&mut *conn, |host| host.publish(&event("a.b", "1")));
            done.unwrap();
        }
        postrider.publish(event("a.b", "2")).await.unwrap();
        delivered(&mut notifications, 21).await;
        assert_eq!(receiver.got().len(), 21 * round);
        postrider.drain().await;
        drop(postrider);
        // The threads of the engine let go of what they hold: whoever asks for all of it gets it.
        let own = pool.clone();
        let all = move || {
            (0..size)
                .map(|_| own.get())
                .collect::<Result<Vec<_>, _>>()
                .map(|all| all.len())
        };
        assert_eq!(
            tokio::task::spawn_blocking(all).await.unwrap().ok(),
            Some(size as usize)
        );
    }
    assert_eq!(
        database::number(database, "SELECT count(*) AS n FROM own"),
        0
    );
}

fn an_engine_runs_on_a_hosts_own_pool(database: Database) {
    let dir = tempfile::tempdir().unwrap();
    let url = database.fresh(dir.path()).expect("there is one");
    let system = actix::System::new();
    match &url {
        DatabaseUrl::Sqlite(path) => system.block_on(story(sqlite(path), &url)),
        DatabaseUrl::Postgres(server) => {
            let manager = ConnectionManager::<PgConnection>::new(server.reveal());
            system.block_on(story(
                Pool::builder().max_size(6).build(manager).unwrap(),
                &url,
            ));
        }
        other => panic!("{other:?}"),
    }
}

/// What diesel's instrumentation tells: each statement's text, how often it ran, and how often it
/// was prepared to be kept.
#[derive(Debug, Default, Clone)]
struct Statements(Arc<Mutex<HashMap<String, (usize, usize)>>>);

impl Instrumentation for Statements {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        let mut counts = self.0.lock().unwrap();
        match event {
            InstrumentationEvent::StartQuery { query, .. } => {
                let text = query.to_string();
                let text = text.split(" -- binds").next().unwrap().to_owned();
                counts.entry(text).or_default().0 += 1;
            }
            InstrumentationEvent::CacheQuery { sql, .. } => {
                counts.entry(sql.to_owned()).or_default().1 += 1;
            }
            _ => {}
        }
    }
}

impl<C: Connection> CustomizeConnection<C, diesel::r2d2::Error> for Statements {
    fn on_acquire(&self, conn: &mut C) -> Result<(), diesel::r2d2::Error> {
        conn.set_instrumentation(self.clone());
        Ok(())
    }
}

/// A statement that runs for each delivery is parsed and planned once a connection.
fn what_runs_for_each_delivery_is_prepared_once(database: Database) {
    const EVENTS: usize = 200;
    async fn story(pool: impl Into<HostPool>) {
        let receiver = Receiver::start();
        let postrider = start(pool).await.unwrap();
        let change = serde_json::json!({"url": receiver.url("/ok"), "rate_limit": "unlimited"});
        let change = endpoint_change(&change.to_string()).unwrap();
        postrider
            .create_endpoint(Tenant::default(), change, None)
            .await
            .unwrap();
        let mut notifications = postrider.subscribe();
        for _ in 0..EVENTS {
            postrider.publish(event("a.b", "1")).await.unwrap();
        }
        delivered(&mut notifications, EVENTS).await;
        assert_eq!(receiver.got().len(), EVENTS);
        postrider.drain().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let (system, statements) = (actix::System::new(), Statements::default());
    let customizer = Box::new(statements.clone());
    match database.fresh(dir.path()).expect("there is one") {
        DatabaseUrl::Sqlite(path) => {
            let path = path.to_str().unwrap();
            SqliteConnection::establish(path)
                .unwrap()
                .batch_execute("PRAGMA journal_mode = WAL")
                .unwrap();
            let manager = ConnectionManager::<SqliteConnection>::new(path);
            let pool = Pool::builder()
                .max_size(6)
                .connection_customizer(customizer)
                .build(manager);
            system.block_on(story(pool.unwrap()));
        }
        DatabaseUrl::Postgres(server) => {
            let manager = ConnectionManager::<PgConnection>::new(server.reveal());
            let pool = Pool::builder()
                .max_size(6)
                .connection_customizer(customizer)
                .build(manager);
            system.block_on(story(pool.unwrap()));
        }
        other => panic!("{other:?}"),
    }
    let counts = statements.0.lock().unwrap().clone();
    let often: Vec<_> = counts
        .iter()
        .filter(|(_, (runs, _))| *runs > EVENTS / 2)
        .collect();
    let inserts = often
        .iter()
        .filter(|(text, _)| text.contains("INSERT INTO"))
        .count();
    assert!(inserts >= 3, "events, deliveries and attempts: {often:?}");
    for (text, (runs, kept)) in often {
        let plain = ["BEGIN", "COMMIT", "ROLLBACK", "SET ", "SELECT 1"];
        let plain = plain.iter().any(|plain| text.starts_with(plain));
        assert!(
            plain || (1..=6).contains(kept),
            "run {runs} times and kept {kept} times: {text}"
        );
    }
}

#[actix_web::test]
async fn a_pool_that_cannot_serve_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let pool = |path: &str, size| {
        Pool::builder()
            .max_size(size)
            .build(ConnectionManager::<SqliteConnection>::new(path))
            .unwrap()
    };
    let path = dir.path().join("host.db");
    let small = start(pool(path.to_str().unwrap(), 4)).await.unwrap_err();
    assert!(
        small.contains("at least 6") && small.contains("max_size"),
        "{small}"
    );
    let memory = start(pool(":memory:", 6)).await.unwrap_err();
    assert!(memory.contains("in memory"), "{memory}");
    let journal = start(pool(path.to_str().unwrap(), 6)).await.unwrap_err();
    assert!(journal.contains("`wal` is required"), "{journal}");
    // And a file has one sender, however it is opened.
    let first = start(sqlite(&path)).await.unwrap();
    let second = start(sqlite(&path)).await.unwrap_err();
    assert!(second.contains("already sends from"), "{second}");
    first.drain().await;
}

conformance! {
    an_engine_runs_on_a_hosts_own_pool,
    what_runs_for_each_delivery_is_prepared_once,
}
