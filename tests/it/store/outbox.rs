//! Publishing within a host's own transaction, in a host's own database.

use std::sync::Arc;

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager as _};
use diesel::prelude::*;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use postrider::config::DatabaseUrl;
use postrider::domain::event::{Event, NewEvent};
use postrider::domain::ids::{EventId, Tenant};
use postrider::domain::lifecycle::Status;
use postrider::host::{HostConnection, Outbox};
use postrider::testing::{TokioClock, on_virtual_time, pass};
use postrider::{Error, Notification, Postrider};

use crate::support::database;
use crate::support::engine::{Database, TestEngine, event, secs};

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderPlaced {
    event_id: EventId,
    order: i64,
}

impl Event for OrderPlaced {
    const TYPE: &'static str = "order.placed";
}

fn order(order: i64) -> NewEvent {
    NewEvent::body(|id| OrderPlaced {
        event_id: id.clone(),
        order,
    })
    .unwrap()
}

/// What a host does with either connection.
trait Host: HostConnection + SimpleConnection {}
impl<C: HostConnection + SimpleConnection> Host for C {}

/// Runs one of two that are the same, on a connection of the host's own.
macro_rules! on_host {
    ($url:expr, |$conn:ident| $work:expr) => {
        match $url {
            DatabaseUrl::Sqlite(path) => {
                let $conn = &mut SqliteConnection::establish(path.to_str().unwrap()).unwrap();
                $conn
                    .batch_execute("PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL")
                    .unwrap();
                $work
            }
            DatabaseUrl::Postgres(url) => {
                let $conn = &mut PgConnection::establish(url.reveal()).unwrap();
                $work
            }
            other => panic!("{other:?}"),
        }
    };
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("out of stock")]
    Out,
    #[error(transparent)]
    Postrider(#[from] Error),
    #[error(transparent)]
    Diesel(#[from] diesel::result::Error),
}

/// An order and its webhook are committed together or not at all.
fn what_is_published_in_a_transaction_is_kept_or_forgotten_with_it(database: Database) {
    fn tell(conn: &mut impl Host, engine: &TestEngine) -> (NewEvent, NewEvent) {
        let (postrider, place) = (&engine.postrider(), engine.database());
        let events = || database::number(&place, "SELECT count(*) AS n FROM webhook_events");
        conn.batch_execute("CREATE TABLE orders (id BIGINT PRIMARY KEY)")
            .unwrap();

        let kept = order(1);
        let done: Result<(), Failed> = postrider.transaction(conn, |host| {
            host.conn().batch_execute("INSERT INTO orders VALUES (1)")?;
            assert!(!host.publish(&kept)?.duplicate);
            assert_eq!(events(), 0, "nobody else sees it yet");
            assert!(host.publish(&kept)?.duplicate, "it is visible within");
            Ok(())
        });
        done.unwrap();
        assert_eq!(events(), 1);

        let undone: Result<(), Failed> = postrider.transaction(conn, |host| {
            host.conn().batch_execute("INSERT INTO orders VALUES (2)")?;
            host.publish(&order(2))?;
            Err(Failed::Out)
        });
        assert!(matches!(undone, Err(Failed::Out)));
        assert_eq!(events(), 1);

        // Neither a duplicate nor a conflict nor a wrong field ends the host's transaction.
        let after = order(3);
        let done: Result<(), Failed> = postrider.transaction(conn, |host| {
            host.conn().batch_execute("INSERT INTO orders VALUES (3)")?;
            assert!(host.publish(&kept)?.duplicate);
            let other = NewEvent {
                id: kept.id.clone(),
                ..order(4)
            };
            assert!(matches!(
                host.publish(&other),
                Err(Error::EventIdConflict { .. })
            ));
            let wrong = NewEvent {
                ordering_key: Some(String::new()),
                ..order(4)
            };
            assert!(matches!(host.publish(&wrong), Err(Error::Invalid(_))));
            host.publish(&after)?;
            Ok(())
        });
        done.unwrap();
        assert_eq!(
            (
                events(),
                database::number(&place, "SELECT count(*) AS n FROM orders")
            ),
            (2, 2)
        );
        (kept, after)
    }
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        let mut notifications = engine.postrider().subscribe();
        let (kept, after) = on_host!(engine.database(), |conn| tell(conn, &engine));
        for event in [&kept, &after] {
            let view = engine
                .postrider()
                .event(&event.tenant, &event.id)
                .await
                .unwrap();
            engine
                .until(&view.deliveries[0].id, Status::Delivered, secs(5))
                .await;
        }
        let received = engine.received(1);
        assert_eq!(received.len(), 2);
        let body = String::from_utf8(received[0].request.body.to_vec()).unwrap();
        assert_eq!(
            body,
            format!(r#"{{"eventId":"{}","order":1}}"#, kept.id),
            "as the host wrote it"
        );
        assert_eq!(received[0].header("webhook-id"), Some(kept.id.as_str()));
        let told = notifications.recv().await.unwrap();
        assert!(matches!(told, Notification::Delivered { event, .. } if event == kept.id));
    });
}

/// A host that begins and commits by itself: the poll finds what nobody told of.
fn a_hosts_own_transaction_is_joined(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        let (own, event) = (&engine.postrider(), event("a.b", "1"));
        // A write of the engine within the host's deferred transaction would make it busy.
        pass(secs(1)).await;
        on_host!(engine.database(), |conn| {
            let undone = conn.transaction::<(), Failed, _>(|conn| {
                own.publish_in(conn, &event)?;
                Err(Failed::Out)
            });
            assert!(undone.is_err());
            conn.transaction::<(), Failed, _>(|conn| {
                assert!(
                    !own.publish_in(conn, &event)?.duplicate,
                    "the first one was rolled back"
                );
                Ok(())
            })
            .unwrap();
            // And one of its own, where none is open.
            assert!(own.outbox().publish_in(conn, &event).unwrap().duplicate);
        });
        let view = own.event(&event.tenant, &event.id).await.unwrap();
        engine
            .until(&view.deliveries[0].id, Status::Delivered, secs(3))
            .await;
    });
}

/// A cron job publishes, and another process sends.
fn no_engine_is_needed_to_publish(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine
            .endpoint(
                1,
                r#"{"event_types": ["order.*"], "rate_limit": "unlimited"}"#,
            )
            .await;
        let engine = engine.stop().await;
        let event = order(1);
        on_host!(engine.database(), |conn| {
            let now = TokioClock::starting_at(engine.postrider().now());
            let receipt = Outbox::new()
                .clock(Arc::new(now))
                .publish_in(conn, &event)
                .unwrap();
            assert_eq!(receipt.deliveries.len(), 1);
            assert_eq!(Outbox::new().hazard(conn).unwrap(), None);
        });
        let engine = engine.start_again();
        let view = engine
            .postrider()
            .event(&event.tenant, &event.id)
            .await
            .unwrap();
        engine
            .until(&view.deliveries[0].id, Status::Delivered, secs(5))
            .await;
    });
}

/// The host's migrations and ours go up and down beside each other.
fn a_hosts_own_migrations_are_left_alone(database: Database) {
    fn tell<DB: diesel::backend::Backend>(
        conn: &mut (impl Host + MigrationHarness<DB>),
        place: &DatabaseUrl,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("migrations/2020-01-01-000000_orders");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(
            own.join("up.sql"),
            "CREATE TABLE orders (id BIGINT PRIMARY KEY);",
        )
        .unwrap();
        std::fs::write(own.join("down.sql"), "DROP TABLE orders;").unwrap();
        let own = || FileBasedMigrations::from_path(folder.path().join("migrations")).unwrap();
        let recorded =
            |table: &str| database::number(place, &format!("SELECT count(*) AS n FROM {table}"));

        conn.run_pending_migrations(own()).unwrap();
        postrider::schema::migrate(conn).unwrap();
        postrider::schema::migrate(conn).unwrap();
        assert_eq!(recorded("__diesel_schema_migrations"), 1);
        assert_eq!(recorded("webhook_schema_migrations"), 1);
        conn.revert_all_migrations(own()).unwrap();
        assert_eq!(
            (
                recorded("__diesel_schema_migrations"),
                recorded("webhook_events")
            ),
            (0, 0)
        );
        conn.run_pending_migrations(own()).unwrap();
        assert!(postrider::schema::revert(conn).unwrap().is_some());
        assert_eq!(postrider::schema::revert(conn).unwrap(), None);
        assert_eq!(recorded("orders"), 0, "the host's table is there");

        // One that is the host's own is named, and left as it is.
        conn.batch_execute(
            "CREATE TABLE webhook_deliveries (mine BIGINT); INSERT INTO webhook_deliveries VALUES (7)",
        )
        .unwrap();
        let refused = postrider::schema::migrate(conn).unwrap_err().to_string();
        assert!(refused.contains("`webhook_deliveries`"), "{refused}");
        assert_eq!(
            database::number(place, "SELECT mine AS n FROM webhook_deliveries"),
            7
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let place = database.fresh(folder.path()).unwrap();
    on_host!(place.clone(), |conn| tell(conn, &place));
}

conformance! {
    a_hosts_own_migrations_are_left_alone,
    a_hosts_own_transaction_is_joined,
    no_engine_is_needed_to_publish,
    what_is_published_in_a_transaction_is_kept_or_forgotten_with_it,
}

/// How a host's file keeps its journal is the host's to change.
#[test]
fn a_hosts_file_that_is_not_in_wal_mode_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let mut conn = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    conn.batch_execute("CREATE TABLE orders (id BIGINT PRIMARY KEY)")
        .unwrap();
    let start = || {
        actix::System::new().block_on(async {
            Postrider::builder()
                .database(DatabaseUrl::Sqlite(file.clone()))
                .start()
                .await
        })
    };
    let refused = start().unwrap_err().to_string();
    assert!(refused.contains("PRAGMA journal_mode = WAL"), "{refused}");
    let outbox = Outbox::new();
    conn.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        .unwrap();
    assert!(outbox.hazard(&mut conn).unwrap().unwrap().contains("FULL"));
    conn.batch_execute("PRAGMA synchronous = FULL").unwrap();
    assert_eq!(outbox.hazard(&mut conn).unwrap(), None);
    drop(start().unwrap());
}

/// Under a host's own prefix and authentication.
#[test]
fn the_api_is_mounted_under_any_prefix() {
    use actix_web::{App, test, web};
    on_virtual_time(async {
        let engine = TestEngine::start();
        let own = engine.postrider().clone();
        let token = postrider::http::ApiToken::new("a-token-for-this-test-alone").unwrap();
        let app = App::new()
            .service(web::scope("/webhooks").configure(own.api()))
            .service(web::scope("/asked").configure(own.api_with_tokens(token)));
        let app = test::init_service(app).await;
        let status = async |path: &str| {
            let request = test::TestRequest::get().uri(path).to_request();
            match test::try_call_service(&app, request).await {
                Ok(answer) => answer.status().as_u16(),
                Err(error) => error.as_response_error().status_code().as_u16(),
            }
        };
        assert_eq!(status("/webhooks/api/v1/endpoints").await, 200);
        assert_eq!(status("/webhooks/readyz").await, 200);
        assert_eq!(status("/webhooks/api/v1/nothing").await, 404);
        assert_eq!(status("/asked/api/v1/endpoints").await, 401);
        assert_eq!(status("/endpoints").await, 404, "the host's own");
    });
}

/// A host publishes for a new tenant, and keeps its transaction open: whoever needs that tenant
/// waits for it, and nobody else.
#[test]
fn a_hosts_new_tenant_delays_nobody_else() {
    if !Database::Postgres.is_there() {
        return;
    }
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Postgres);
        engine.endpoint(1, r#"{"rate_limit": "unlimited"}"#).await;
        let DatabaseUrl::Postgres(url) = engine.database() else {
            panic!("a server")
        };
        let mut conn = PgConnection::establish(url.reveal()).unwrap();
        AnsiTransactionManager::begin_transaction(&mut conn).unwrap();
        let acme = Tenant::parse("acme").unwrap();
        let of_acme = NewEvent {
            tenant: acme.clone(),
            ..event("a.b", "1")
        };
        engine.postrider().publish_in(&mut conn, &of_acme).unwrap();
        let others = async {
            let id = engine.publish_one("a.b").await;
            engine.until(&id, Status::Delivered, secs(5)).await;
            AnsiTransactionManager::commit_transaction(&mut conn).unwrap();
        };
        let created = engine.endpoint_of(acme.clone(), 2, "{}");
        let (_, ()) = tokio::join!(created, others);
        let of_acme = NewEvent {
            tenant: acme,
            ..event("a.b", "2")
        };
        let receipt = engine.postrider().publish(of_acme).await.unwrap();
        assert_eq!(receipt.deliveries.len(), 1);
    });
}
