//! The test bed, as an embedder's tests use it.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use postrider::config::DatabaseUrl;
use postrider::domain::ids::Tenant;
use postrider::testing::{Reply, TestBed, endpoint_change, on_virtual_time};

use crate::support::engine::{event, secs};

#[test]
fn a_retry_after_a_failure_and_a_time_out() {
    on_virtual_time(async {
        let bed = TestBed::start();
        let shop = bed.receiver("shop").await;
        shop.replies([Reply::status(500), Reply::time_out(), Reply::status(200)]);
        bed.postrider()
            .publish(event("invoice.paid", "{\"amount\":1200}"))
            .await
            .unwrap();
        assert!(bed.drain().await.is_empty());
        shop.assert_received(&["invoice.paid"; 3]);
        let got = shop.received();
        assert_eq!(got[2].json()["data"]["amount"], 1200);
        assert_eq!(got[0].event_id(), got[2].event_id());
        let apart = [got[1].at - got[0].at, got[2].at - got[1].at];
        assert!(apart[0] >= secs(10) && apart[0] <= secs(12), "{apart:?}");
        // 15 s until it timed out, and the second delay.
        assert!(apart[1] >= secs(35) && apart[1] <= secs(38), "{apart:?}");
    });
}

/// Many attempts that are days apart, and an endpoint that is limited by rate: moments, not days.
#[test]
fn days_pass_in_moments() {
    on_virtual_time(async {
        let bed = TestBed::start();
        let change = r#"{"url": "https://slow.example/", "retry_delays_s": [86400, 172800]}"#;
        let change = endpoint_change(change).unwrap();
        let slow = bed.receiver_with(Tenant::default(), change).await.unwrap();
        slow.always(Reply::status(503));
        let began = bed.postrider().now();
        for _ in 0..25 {
            bed.postrider().publish(event("a.b", "1")).await.unwrap();
        }
        assert!(bed.drain().await.is_empty());
        assert!(bed.postrider().now().since(began) >= secs(3 * 86400));
        assert!(slow.received().len() >= 25);
    });
}

#[test]
fn what_waits_for_a_person_is_told() {
    on_virtual_time(async {
        let bed = TestBed::start();
        let shop = bed.receiver("shop").await;
        shop.replies([Reply::status(410)]);
        bed.postrider().publish(event("a.b", "1")).await.unwrap();
        let waiting = bed.drain().await;
        assert_eq!(waiting.len(), 1, "a paused endpoint's");
        let bed = bed.restart().await;
        bed.postrider()
            .resume_endpoint(shop.endpoint())
            .await
            .unwrap();
        assert!(bed.drain().await.is_empty());
        assert_eq!(shop.received().len(), 2);
    });
}

/// A host's own code, which makes its endpoint and publishes in its transaction.
#[test]
fn a_hosts_own_test_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.db");
    let conn = &mut SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    conn.batch_execute(
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; CREATE TABLE orders (id INTEGER)",
    )
    .unwrap();
    on_virtual_time(async {
        let bed = TestBed::on(DatabaseUrl::Sqlite(path), |config| {
            config.event_id_header = Some("X-Acme-Event-Id".into());
        });
        let change = endpoint_change(r#"{"url": "https://customer.example/hook"}"#).unwrap();
        bed.postrider()
            .create_endpoint(Tenant::default(), change, None)
            .await
            .unwrap();
        for stock in [true, false] {
            let done: Result<(), postrider::Error> = bed.postrider().transaction(conn, |host| {
                host.publish(&event("order.placed", "1"))?;
                if stock {
                    Ok(())
                } else {
                    Err(postrider::Error::EndpointDeleted)
                }
            });
            assert_eq!(done.is_ok(), stock, "{done:?}");
        }
        bed.drain().await;
        let customer = bed.receiver_at("customer.example");
        customer.assert_received(&["order.placed"]);
        let got = &customer.received()[0];
        assert_eq!(got.header("x-acme-event-id"), Some(got.event_id().as_str()));
    });
}
