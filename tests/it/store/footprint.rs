//! What a delivery costs in the database: its bytes, and the index entries that it writes.

use std::time::Duration;

use postrider::config::DatabaseUrl;
use postrider::domain::event::NewEvent;
use postrider::domain::lifecycle::Status;
use postrider::testing::on_virtual_time;

use crate::support::database;
use crate::support::engine::{Database, TestEngine, event, secs};
use crate::support::until;

const ENDPOINTS: u8 = 10;
const EACH: u16 = 100;

/// Delivers bodies of about 1 KiB, each to one of ten endpoints. Returns their number.
async fn deliver(engine: &TestEngine) -> i64 {
    for n in 1..=ENDPOINTS {
        let settings = format!(
            r#"{{"event_types": ["of.e{n}"], "rate_limit": "unlimited", "concurrency": 10}}"#
        );
        engine.endpoint(n, &settings).await;
    }
    let data = format!("\"{}\"", "x".repeat(1000));
    for _ in 0..EACH / 50 {
        let batch: Vec<NewEvent> = (0..50 * u16::from(ENDPOINTS))
            .map(|i| event(&format!("of.e{}", 1 + i % u16::from(ENDPOINTS)), &data))
            .collect();
        let receipts = engine.postrider().publish_batch(batch).await.unwrap();
        for receipt in receipts {
            let (id, _) = &receipt.deliveries[0];
            engine.until(id, Status::Delivered, secs(60)).await;
        }
    }
    i64::from(ENDPOINTS) * i64::from(EACH)
}

#[test]
fn sqlite_keeps_a_delivery_in_few_bytes() {
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Sqlite);
        let place = engine.database();
        let deliveries = deliver(&engine).await;
        let engine = engine.stop().await;
        let DatabaseUrl::Sqlite(path) = &place else {
            panic!("a file")
        };
        database::execute(&place, "PRAGMA wal_checkpoint(TRUNCATE)");
        let bytes = i64::try_from(std::fs::metadata(path).unwrap().len()).unwrap();
        drop(engine);
        // An empty schema is about 200 KB of it.
        let each = (bytes - 200_000) / deliveries;
        assert!(each <= 1_750, "{each} bytes of file per delivery");
    });
}

/// A claim that changed a column of an index would write a new entry into each of them.
#[test]
fn postgres_claims_stay_on_their_page() {
    if !Database::Postgres.is_there() {
        return;
    }
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Postgres);
        let place = engine.database();
        // An ANALYZE of the server's own keeps old versions of rows on their pages for as long as it
        // lasts, and comes at any time.
        let off = "ALTER TABLE webhook_deliveries SET (autovacuum_enabled = false)";
        database::execute(&place, off);
        let deliveries = deliver(&engine).await;
        drop(engine.stop().await);
        let count = |column: &str| {
            let of = "FROM pg_stat_user_tables WHERE relname = 'webhook_deliveries'";
            database::number(&place, &format!("SELECT {column} AS n {of}"))
        };
        // A session reports its numbers when it ends, which is after the engine has closed it.
        until(
            "the sessions have reported",
            Duration::from_secs(20),
            || count("n_tup_upd") >= 2 * deliveries,
        );
        let (updates, on_page) = (count("n_tup_upd"), count("n_tup_hot_upd"));
        assert_eq!(updates, 2 * deliveries, "a claim and its end");
        assert!(
            on_page * 100 >= deliveries * 95,
            "{on_page} of {deliveries} claims wrote no index"
        );
    });
}
