//! One endpoint that hangs and one with a long backlog, and a third that must not notice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

/// Resident memory of a process, in MiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[test]
fn a_hanging_endpoint_and_a_backlog_of_100_000_leave_a_third_undisturbed() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    let unlimited =
        |name: &str| json!({"event_types": [name], "rate_limit": "unlimited"}).to_string();
    api.endpoint(&receiver.url("/hang"), &unlimited("hang"));
    api.endpoint(
        &receiver.url("/slow/50"),
        &json!({"event_types": ["backlog"], "rate_limit": "10/s"}).to_string(),
    );
    api.endpoint(&receiver.url("/ok"), &unlimited("third"));
    let before = memory(server.pid());

    let batch = |name: &str, count: usize| {
        let events = vec![json!({"type": name, "data": {"filler": "x".repeat(500)}}); count];
        json!({"events": events}).to_string()
    };
    api.post("/events/batch", &batch("hang", 50));
    let backlog = batch("backlog", 1000);
    for _ in 0..100 {
        assert_eq!(api.post("/events/batch", &backlog).status, 202);
    }
    let after = memory(server.pid());

    let mut latencies = Vec::new();
    for i in 0..50 {
        let started = Instant::now();
        assert_eq!(
            api.post("/events", r#"{"type":"third","data":1}"#).status,
            202
        );
        until(
            "the third gets its webhook",
            Duration::from_secs(10),
            || receiver.at("/ok").len() > i,
        );
        latencies.push(started.elapsed());
    }
    latencies.sort();
    println!(
        "publish to receipt beside a hang and a backlog of 100,000: median {:?}, worst {:?}; memory {before} MiB before, {after} MiB after",
        latencies[25], latencies[49]
    );
    assert!(
        latencies[25] < Duration::from_secs(1),
        "median {:?}",
        latencies[25]
    );
    // 100,000 bodies of half a kilobyte would be 50 MB on top, and their rows as much again.
    assert!(
        after < before + 48,
        "memory follows the backlog: {before} MiB before, {after} MiB after"
    );
}

/// One tenant's publishers send thousands of rows at once: another tenant's event waits for about
/// one of their batches, not for all of them, and the node stays ready.
#[test]
fn a_bulk_publisher_does_not_starve_others() {
    const BATCHES: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    for n in 0..20 {
        let id = api.endpoint(&format!("http://127.0.0.1:9/{n}"), r#"{"tenant": "bulk"}"#);
        api.post(&format!("/endpoints/{id}/pause"), "");
    }
    let batch = json!({"events": vec![json!({"type": "b.x", "tenant": "bulk", "data": 1}); 1000]})
        .to_string();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..BATCHES {
            scope.spawn(|| {
                let status = Api::new(&api.base, &api.token)
                    .post("/events/batch", &batch)
                    .status;
                assert_eq!(status, 202);
                answered.fetch_add(1, Ordering::SeqCst);
            });
        }
        until("they are under way", Duration::from_secs(60), || {
            answered.load(Ordering::SeqCst) > 0
        });
        for _ in 0..2 {
            let before = answered.load(Ordering::SeqCst);
            let event = r#"{"type": "quick.a", "tenant": "small", "data": 1}"#;
            assert_eq!(api.post("/events", event).status, 202);
            let meanwhile = answered.load(Ordering::SeqCst) - before;
            assert!(
                meanwhile <= 3,
                "{meanwhile} batches were committed before one event"
            );
            assert_eq!(
                api.try_request("GET", "/readyz", &[], None).unwrap().status,
                200
            );
        }
        assert!(
            answered.load(Ordering::SeqCst) < BATCHES,
            "the batches are still under way"
        );
    });
}
