//! Wall clocks that people and NTP move: docs/receivers-and-networks.md, line by line.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::clock::WallClock;
use crate::support::raw::wait;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, serve};
use crate::support::until;

fn start(folder: &Path, clock: &WallClock, arguments: &[&str]) -> Server {
    let mut command = serve(
        folder,
        &[&["--allow-network", "127.0.0.0/8"], arguments].concat(),
    );
    clock.set(&mut command);
    Server::spawn(folder, command)
}

fn publish(api: &Api, event_type: &str) -> String {
    let answer = api.post(
        "/events",
        &json!({"type": event_type, "data": 1}).to_string(),
    );
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["deliveries"][0]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn delivery(api: &Api, id: &str) -> Value {
    api.get(&format!("/deliveries/{id}")).body
}

#[test]
fn a_step_back_prolongs_no_wait_and_a_step_ahead_ends_no_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = WallClock::new(folder.path(), "+0") else {
        return;
    };
    let receiver = Receiver::start();
    let server = start(folder.path(), &clock, &[]);
    let api = server.api();
    let back = json!({"rate_limit": "unlimited", "retry_delays_s": [3], "event_types": ["back"]});
    api.endpoint(&receiver.url("/recovers/1"), &back.to_string());
    let waits = json!({"max_age_s": 60, "event_types": ["waits"]});
    let paused = api.endpoint(&receiver.url("/ok"), &waits.to_string());
    api.post(&format!("/endpoints/{paused}/pause"), "");
    let old = publish(&api, "waits");
    let id = publish(&api, "back");
    until("the first attempt is over", Duration::from_secs(10), || {
        delivery(&api, &id)["attempts"][0]["number"] == 1
    });
    clock.step("-1h");
    // The delay of 3 s on the clock that nobody moves; by the wall clock it would be an hour.
    until("the retry comes", Duration::from_secs(20), || {
        delivery(&api, &id)["status"] == "delivered"
    });
    // Over its max_age by the wall clock, not by the other one: nothing expires.
    clock.step("+10h");
    wait(3000);
    assert_eq!(delivery(&api, &old)["status"], "pending");
    // And what is published now is stamped by the wall clock, and sent.
    let late = publish(&api, "back");
    until("it is sent", Duration::from_secs(20), || {
        delivery(&api, &late)["status"] == "delivered"
    });
}

#[test]
fn times_that_a_wrong_clock_stored_are_brought_within_reach_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = WallClock::new(folder.path(), "+900d") else {
        return;
    };
    let receiver = Receiver::start();
    let server = start(folder.path(), &clock, &[]);
    let settings = json!({"rate_limit": "unlimited", "retry_delays_s": [2], "breaker_after": 0});
    server
        .api()
        .endpoint(&receiver.url("/recovers/1"), &settings.to_string());
    let id = publish(&server.api(), "a.b");
    let api = server.api();
    until("the first attempt is over", Duration::from_secs(10), || {
        delivery(&api, &id)["attempts"][0]["number"] == 1
    });
    server.kill();
    clock.step("+0");
    let server = start(folder.path(), &clock, &[]);
    server.logs("is the clock behind?");
    let api = server.api();
    until("the retry comes", Duration::from_secs(120), || {
        delivery(&api, &id)["status"] == "delivered"
    });
}

#[test]
fn a_start_in_1970_is_reported_and_expires_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = WallClock::new(folder.path(), "+0") else {
        return;
    };
    let receiver = Receiver::start();
    let server = start(folder.path(), &clock, &[]);
    let api = server.api();
    let endpoint = api.endpoint(&receiver.url("/ok"), r#"{"max_age_s": 3600}"#);
    api.post(&format!("/endpoints/{endpoint}/pause"), "");
    let id = publish(&api, "a.b");
    server.terminate();
    clock.step("@1970-01-02 00:00:00");
    let server = start(folder.path(), &clock, &["--retention", "1h"]);
    server.logs("is the clock behind?");
    // The right time comes by NTP, as it does after such a start.
    wait(1500);
    clock.step("+0");
    wait(3000);
    let api = server.api();
    assert_eq!(delivery(&api, &id)["status"], "pending");
    api.post(&format!("/endpoints/{endpoint}/resume"), "");
    until("it is sent", Duration::from_secs(20), || {
        delivery(&api, &id)["status"] == "delivered"
    });
}

/// One event that was stamped in the future kept all outdated events after it.
#[test]
fn retention_and_recovery_go_on_past_an_event_from_the_future() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = WallClock::new(folder.path(), "+2920d") else {
        return;
    };
    let server = start(folder.path(), &clock, &["--retention", "20000d"]);
    publish(&server.api(), "ahead");
    server.terminate();
    clock.step("-10d");
    let server = start(folder.path(), &clock, &["--retention", "20000d"]);
    for _ in 0..20 {
        publish(&server.api(), "old");
    }
    // What an endpoint that comes later has missed is found behind the event from the future, too.
    let (api, receiver) = (server.api(), Receiver::start());
    let endpoint = api.endpoint(
        &receiver.url("/ok"),
        r#"{"rate_limit": "unlimited", "event_types": ["old"]}"#,
    );
    let since = json!({"since": "2020-01-01T00:00:00Z", "include": "missing"}).to_string();
    let preview = api
        .post(&format!("/endpoints/{endpoint}/recover/preview"), &since)
        .body;
    assert_eq!(preview["missing"], 20, "{preview}");
    assert!(
        api.post(&format!("/endpoints/{endpoint}/recover"), &since)
            .status
            < 300
    );
    until("they are sent", Duration::from_secs(20), || {
        receiver.got().len() == 20
    });
    server.terminate();
    clock.step("+0");
    let server = start(folder.path(), &clock, &["--retention", "1h"]);
    let api = server.api();
    let left = || {
        api.get("/events?type=old").body["data"]
            .as_array()
            .unwrap()
            .len()
    };
    until(
        "the outdated ones are removed",
        Duration::from_secs(30),
        || left() == 0,
    );
    assert_eq!(
        api.get("/events?type=ahead").body["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
