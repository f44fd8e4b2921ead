//! `kill -9` of the real binary at random moments.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

/// How often the server is killed; `POSTRIDER_TEST_KILLS` makes it a campaign.
fn kills() -> u32 {
    std::env::var("POSTRIDER_TEST_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(50)
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Publishes one event after the other until told to stop, through every restart.
fn publish(
    base: String,
    token: String,
    accepted: &Mutex<HashMap<String, String>>,
    stop: &AtomicBool,
) {
    let api = Api::new(&base, &token);
    for i in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("evt-{i}");
        let event = json!({"type": "a.b", "id": id, "data": {"n": i}}).to_string();
        // Only what was answered is promised. What was not is published again by a careful caller;
        // this one goes on, so that an event without an answer stays one.
        match api.try_post("/events", &event) {
            Ok(answer) if answer.status == 202 => {
                accepted
                    .lock()
                    .unwrap()
                    .insert(id, answer.text("created_at"));
                // About as much as the slowest endpoint takes: no backlog grows, however many kills.
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Ok(answer) => panic!("{}: {}", answer.status, answer.body),
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

#[test]
fn nothing_that_was_answered_202_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let listen = format!("127.0.0.1:{}", free_port());
    let start = || Server::start(folder.path(), &["--listen", &listen]);
    let server = start();
    let api = server.api();
    let retries = json!(vec![1; 30]);
    let settings =
        json!({"rate_limit": "unlimited", "concurrency": 3, "retry_delays_s": retries}).to_string();
    let paths = ["/ok/a", "/slow/30", "/flaky"];
    for path in paths {
        api.endpoint(&receiver.url(path), &settings);
    }

    let (accepted, stop) = (
        Arc::new(Mutex::new(HashMap::new())),
        Arc::new(AtomicBool::new(false)),
    );
    let publisher = {
        let (accepted, stop, base, token) = (
            Arc::clone(&accepted),
            Arc::clone(&stop),
            api.base.clone(),
            api.token.clone(),
        );
        std::thread::spawn(move || publish(base, token, &accepted, &stop))
    };

    let database_file = server.database();
    let (mut server, mut in_flight, mut slowest) = (server, 0, Duration::ZERO);
    for kill in 0..kills() {
        // Somewhere between the first moments of a start and full work.
        std::thread::park_timeout(Duration::from_millis(rand::random_range(0..150)));
        server.kill();
        let sending = database::number(
            &database_file,
            "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'sending'",
        );
        assert!(
            sending <= 9,
            "kill {kill}: never more than the concurrency: {sending}"
        );
        in_flight += sending;
        let (before, started) = (receiver.got().len(), Instant::now());
        server = start();
        until("sending goes on", Duration::from_secs(30), || {
            receiver.got().len() > before
        });
        slowest = slowest.max(started.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    let live =
        "SELECT count(*) AS n FROM webhook_deliveries WHERE status IN ('pending', 'sending')";
    // What was in flight at five kills in a row is on hold, and waits for a person.
    until("everything ends", Duration::from_secs(120), || {
        // The first request may still go over a connection to a process that was killed.
        let Ok(pending) = api.try_get("/deliveries?status=pending&limit=250") else {
            return false;
        };
        let held = pending.body["data"].as_array().unwrap().iter();
        for one in held.filter(|one| one["hold_reason"] == "interrupted") {
            let id = one["id"].as_str().unwrap();
            assert_eq!(
                api.post(&format!("/deliveries/{id}/release"), "").status,
                200
            );
        }
        database::number(&database_file, live) == 0
    });

    let accepted = accepted.lock().unwrap();
    let got = receiver.got();
    let mut duplicates = 0;
    for path in paths {
        let mut times = HashMap::<&str, usize>::new();
        for one in got.iter().filter(|one| one.path == path) {
            *times.entry(&one.id).or_default() += 1;
        }
        let missing: Vec<_> = accepted
            .keys()
            .filter(|id| !times.contains_key(id.as_str()))
            .collect();
        assert!(missing.is_empty(), "{path} never got {missing:?}");
        if path != "/flaky" {
            duplicates += times.values().map(|times| times - 1).sum::<usize>();
        }
    }
    for (id, created_at) in accepted.iter() {
        let n = id.trim_start_matches("evt-");
        let body = format!(
            r#"{{"type":"a.b","timestamp":"{created_at}","data":{{"n":{n}}},"id":"{id}"}}"#
        );
        let bodies: HashSet<_> = got
            .iter()
            .filter(|one| one.id == *id)
            .map(|one| one.body.as_str())
            .collect();
        assert_eq!(bodies, HashSet::from([body.as_str()]));
    }
    let count = |sql: &str| database::number(&database_file, sql);
    let interrupted =
        count("SELECT count(*) AS n FROM webhook_attempts WHERE outcome = 'interrupted'");
    assert_eq!(
        count("SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'failed'"),
        0,
        "a crash fails nothing"
    );
    assert_eq!(interrupted, in_flight, "each is logged");
    assert!(
        i64::try_from(duplicates).unwrap() <= in_flight,
        "{duplicates} received twice, {in_flight} in flight at the kills"
    );
    let finished = count("SELECT count(*) AS n FROM webhook_attempts WHERE number IS NOT NULL");
    let requests = i64::try_from(got.len()).unwrap();
    assert!(
        finished <= requests && requests <= finished + interrupted,
        "{finished} {requests} {interrupted}"
    );
    println!(
        "{} kills: {} events accepted, {requests} requests, {in_flight} in flight at the kills, {duplicates} received twice; slowest return to sending {slowest:?}",
        kills(),
        accepted.len()
    );
}

#[test]
fn a_rate_limit_holds_across_a_kill_with_requests_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    api.endpoint(
        &receiver.url("/slow/500"),
        r#"{"rate_limit": "10/min", "concurrency": 5}"#,
    );
    let events: Vec<_> = (0..30).map(|_| json!({"type": "a.b", "data": 1})).collect();
    api.post("/events/batch", &json!({"events": events}).to_string());
    until(
        "some have gone out and some are in flight",
        Duration::from_secs(20),
        || receiver.got().len() >= 7,
    );
    server.kill();
    let server = Server::start(folder.path(), &[]);
    until("the limit is reached", Duration::from_secs(30), || {
        let log = "SELECT count(*) AS n FROM webhook_attempts";
        database::number(&server.database(), log) >= 10
    });
    // Real time: long enough for a limiter that forgot to send more, short of the next slot.
    std::thread::park_timeout(Duration::from_secs(3));
    let got = receiver.got();
    let span = got.last().unwrap().at - got[0].at;
    assert!(
        span < Duration::from_secs(55),
        "the test itself was too slow: {span:?}"
    );
    assert!(got.len() <= 10, "{} requests within {span:?}", got.len());
}
