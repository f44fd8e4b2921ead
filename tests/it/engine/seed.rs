//! A seed determines a run: every id, key, delay and request.

use std::sync::Arc;

use postrider::Postrider;
use postrider::config::DatabaseUrl;
use postrider::domain::ids::{EventId, Tenant};
use postrider::testing::{
    Reply, START, ScriptedReceivers, TokioClock, endpoint_change, on_virtual_time, pass,
};

use crate::support::engine::{event, secs};

/// Runs retries, timeouts, a pause and a rotated secret, and returns every request.
fn requests(seed: u64) -> Vec<String> {
    on_virtual_time(async move {
        let folder = tempfile::tempdir().unwrap();
        let receivers = ScriptedReceivers::default();
        let engine = Postrider::builder()
            .database(DatabaseUrl::Sqlite(folder.path().join("seed.db")))
            .clock(Arc::new(TokioClock::starting_at(START)))
            .transport(Arc::new(receivers.clone()))
            .seed(seed)
            .start_here()
            .unwrap();
        let began = tokio::time::Instant::now();
        let hosts = ["a.example", "b.example", "c.example"];
        let mut endpoints = Vec::new();
        for host in hosts {
            let change = format!(r#"{{"url": "https://{host}/", "rate_limit": "unlimited"}}"#);
            let change = endpoint_change(&change).unwrap();
            let created = engine
                .create_endpoint(Tenant::default(), change, None)
                .await;
            endpoints.push(created.unwrap().endpoint.id);
        }
        receivers.next(hosts[0], vec![Reply::status(500); 9]);
        receivers.next(hosts[1], vec![Reply::Hang; 3]);
        for n in 0..10 {
            let mut event = event("a.b", &n.to_string());
            event.id = EventId::parse(&format!("event-{n}")).unwrap();
            engine.publish(event).await.unwrap();
            pass(secs(1)).await;
        }
        engine.pause_endpoint(&endpoints[2]).await.unwrap();
        engine
            .rotate_secret(&endpoints[0], None, secs(60))
            .await
            .unwrap();
        pass(secs(300)).await;
        engine.resume_endpoint(&endpoints[2]).await.unwrap();
        pass(secs(60)).await;
        engine.drain().await;
        let of = |host: &&str| {
            let received = receivers.received(host).into_iter();
            let shown = received.map(move |one| {
                let after = one.at - began;
                format!("{after:?} {:?}", one.request)
            });
            shown.collect::<Vec<_>>()
        };
        let mut all: Vec<String> = hosts.iter().flat_map(of).collect();
        all.extend(endpoints.iter().map(ToString::to_string));
        all
    })
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let first = requests(7);
    assert!(first.len() > 40, "{} requests", first.len());
    assert_eq!(first, requests(7));
    assert_ne!(first, requests(8));
}
