//! What real receivers do with connections, heads and bodies: docs/receivers-and-networks.md, line
//! by line.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::raw::{self, Connection, OK, header, listen, wait};
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

fn server() -> (tempfile::TempDir, Server, Api) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    (folder, server, api)
}

/// An endpoint without retries or breaker: whatever fails is seen.
fn strict(api: &Api, url: &str, more: Value) -> String {
    let mut settings = json!({"rate_limit": "unlimited", "retry_delays_s": [], "breaker_after": 0});
    settings
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().cloned().unwrap_or_default());
    api.endpoint(url, &settings.to_string())
}

fn publish(api: &Api, event_type: &str) -> String {
    let answer = api.post(
        "/events",
        &json!({"type": event_type, "data": 1}).to_string(),
    );
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The delivery, once it has ended.
fn ended(api: &Api, id: &str) -> Value {
    let mut shown = Value::Null;
    until("it has ended", Duration::from_secs(30), || {
        shown = api.get(&format!("/deliveries/{id}")).body;
        shown["status"] == "delivered" || shown["status"] == "failed"
    });
    shown
}

fn outcomes(delivery: &Value) -> Vec<&str> {
    delivery["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["outcome"].as_str().unwrap())
        .collect()
}

/// Publishes one event after the other, and returns all of their attempts.
fn one_by_one(api: &Api, count: usize) -> Vec<Value> {
    let mut attempts = Vec::new();
    for _ in 0..count {
        let delivery = ended(api, &publish(api, "a.b"));
        assert_eq!(delivery["status"], "delivered", "{delivery}");
        attempts.extend(delivery["attempts"].as_array().unwrap().iter().cloned());
        wait(20);
    }
    attempts
}

fn lost(attempts: &[Value]) -> Vec<&Value> {
    attempts
        .iter()
        .filter(|one| one["outcome"] != "delivered")
        .collect()
}

/// Half of all events failed although the receiver had seen none of them.
#[test]
fn a_connection_that_ends_after_a_response_costs_no_event() {
    let (_folder, _server, api) = server();
    let closes: [fn(Connection); 3] = [
        |connection| wait_and(connection, |_| {}),
        |connection| wait_and(connection, Connection::reset),
        |connection| {
            wait_and(connection, |mut connection| {
                connection
                    .send("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            })
        },
    ];
    for close in closes {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&arrived);
        let address = listen(move |mut connection, _| {
            if let Some(head) = connection.request() {
                seen.lock()
                    .unwrap()
                    .push(header(&head, "webhook-id").unwrap().to_owned());
                connection.send(OK);
                close(connection);
            }
        });
        let endpoint = strict(&api, &format!("http://{address}/"), json!({}));
        let attempts = one_by_one(&api, 12);
        for one in lost(&attempts) {
            assert_eq!(
                (&one["outcome"], &one["number"]),
                (&json!("connection_lost"), &Value::Null),
                "{one}"
            );
            let told = "the connection was closed before a response; the request may have arrived";
            assert_eq!(one["error"], told);
            assert_eq!(one["remote_address"], address.to_string());
        }
        assert!(
            lost(&attempts).len() <= 2,
            "then its connections are not reused: {attempts:?}"
        );
        let ids: HashSet<String> = arrived.lock().unwrap().iter().cloned().collect();
        assert_eq!(ids.len(), 12, "every event arrived");
        let health = api.get(&format!("/endpoints/{endpoint}")).body["health"].clone();
        assert_eq!(health["consecutive_failures"], 0);
        let stats = api.get(&format!("/endpoints/{endpoint}/stats")).body;
        assert_eq!(
            (&stats["success_rate"], &stats["attempts"]),
            (&json!(1.0), &json!(12)),
            "{stats}"
        );
        api.delete(&format!("/endpoints/{endpoint}"));
    }
}

fn wait_and(connection: Connection, then: fn(Connection)) {
    wait(3);
    then(connection);
}

/// The receiver reads the second request and closes: that may have been processed, and is sent once
/// more.
#[test]
fn a_request_that_may_have_arrived_is_sent_again_on_a_new_connection() {
    let (_folder, _server, api) = server();
    let address = listen(|mut connection, _| {
        if connection.request().is_some() {
            connection.send(OK);
            connection.request();
        }
    });
    strict(&api, &format!("http://{address}/"), json!({}));
    let attempts = one_by_one(&api, 2);
    let outcomes: Vec<_> = attempts
        .iter()
        .map(|one| one["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["delivered", "connection_lost", "delivered"]);
}

#[test]
fn a_new_connection_that_ends_before_a_response_is_the_receivers_failure() {
    let (_folder, _server, api) = server();
    let closes = listen(|mut connection, _| drop(connection.request()));
    let says_408 = listen(|mut connection, _| {
        connection.request();
        connection.send("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n");
    });
    strict(
        &api,
        &format!("http://{closes}/"),
        json!({"event_types": ["closes"]}),
    );
    strict(
        &api,
        &format!("http://{says_408}/"),
        json!({"event_types": ["says"]}),
    );
    let delivery = ended(&api, &publish(&api, "closes"));
    assert_eq!(
        (&delivery["status"], outcomes(&delivery)),
        (&json!("failed"), vec!["protocol_error"])
    );
    assert_eq!(outcomes(&ended(&api, &publish(&api, "says"))), ["rejected"]);
}

/// A stale response marked the next event delivered, which its receiver had refused.
#[test]
fn a_response_from_before_the_request_is_not_taken_as_its_answer() {
    let (_folder, _server, api) = server();
    for delay in [0, 5] {
        let answered = Arc::new(Mutex::new(HashSet::new()));
        let note = Arc::clone(&answered);
        let address = listen(move |mut connection, _| {
            while let Some(head) = connection.request() {
                note.lock()
                    .unwrap()
                    .insert(header(&head, "webhook-id").unwrap().to_owned());
                connection.send(OK);
                wait(delay);
                connection.send(OK);
            }
        });
        let endpoint = strict(&api, &format!("http://{address}/"), json!({}));
        for _ in 0..8 {
            let delivery = ended(&api, &publish(&api, "a.b"));
            let id = delivery["event_id"].as_str().unwrap().to_owned();
            assert_eq!(delivery["status"], "delivered", "{delivery}");
            assert!(
                answered.lock().unwrap().contains(&id),
                "its receiver has never seen {id}"
            );
            wait(10);
        }
        api.delete(&format!("/endpoints/{endpoint}"));
    }
}

/// Each head that browsers and curl read is read.
#[test]
fn the_status_is_the_answer_however_odd_the_head() {
    let (_folder, _server, api) = server();
    let many = (0..1000)
        .map(|n| format!("x-{n}: y\r\n"))
        .collect::<String>();
    let bodies = [
        "HTTP/1.1 200 OK\r\nserver : odd\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx-folded: a\r\n b\r\n\tc\r\ncontent-length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nx-caf\u{e9}: y\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx-name: caf\u{e9}\u{9b}\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\n\r\nuntil its end".to_owned(),
        format!(
            "{}{OK}",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(16)
        ),
        "HTTP/1.1 200 OK\nx: bare line ends\n\n".to_owned(),
        "HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: soon\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(2000)),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let address = listen(move |mut connection, _| {
            connection.request();
            connection.send(&body);
        });
        let event_type = format!("odd.{number}");
        strict(
            &api,
            &format!("http://{address}/"),
            json!({"event_types": [event_type]}),
        );
        let delivery = ended(&api, &publish(&api, &event_type));
        assert_eq!(outcomes(&delivery), ["delivered"], "{number}: {delivery}");
        let headers = delivery["attempts"][0]["response_headers"].to_string();
        if number == 3 {
            assert!(
                headers.contains("1 header lines cannot be displayed"),
                "the gap is marked: {headers}"
            );
        }
        if number == 4 {
            assert!(headers.contains("caf\u{e9}\u{fffd}"), "{headers}");
        }
    }
}

#[test]
fn a_compressed_body_is_kept_as_it_came_and_none_is_asked_for() {
    let (_folder, _server, api) = server();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&heads);
    let address = listen(move |mut connection, _| {
        note.lock().unwrap().extend(connection.request());
        connection
            .send("HTTP/1.1 500 No\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope");
    });
    strict(&api, &format!("http://{address}/"), json!({}));
    let attempt = ended(&api, &publish(&api, "a.b"))["attempts"][0].clone();
    assert_eq!(
        (&attempt["outcome"], &attempt["response_body"]),
        (&json!("rejected"), &json!("nope"))
    );
    assert_eq!(header(&heads.lock().unwrap()[0], "accept-encoding"), None);
}

#[test]
fn a_head_has_its_limits() {
    let (_folder, _server, api) = server();
    let large = format!("HTTP/1.1 200 OK\r\nx-large: {}\r\n\r\n", "h".repeat(70_000));
    let interim = format!("{}{OK}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17));
    let no_http = "HTTP/3 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned();
    for (number, body) in [large, interim, no_http].into_iter().enumerate() {
        let address = listen(move |mut connection, _| {
            connection.request();
            connection.send(&body);
        });
        let event_type = format!("limit.{number}");
        strict(
            &api,
            &format!("http://{address}/"),
            json!({"event_types": [event_type]}),
        );
        assert_eq!(
            outcomes(&ended(&api, &publish(&api, &event_type))),
            ["protocol_error"],
            "{number}"
        );
    }
}

/// An event stream held its delivery's place until the time-out.
#[test]
fn a_body_that_does_not_end_is_given_up() {
    let (_folder, _server, api) = server();
    let address = listen(|mut connection, _| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        assert!(
            connection.request().is_none(),
            "the connection is closed, not used again"
        );
    });
    strict(
        &api,
        &format!("http://{address}/"),
        json!({"timeout_ms": 30_000, "concurrency": 1}),
    );
    let (first, second) = (publish(&api, "a.b"), publish(&api, "a.b"));
    for id in [first, second] {
        let delivery = ended(&api, &id);
        assert_eq!(
            delivery["attempts"][0]["response_body"], "hello",
            "{delivery}"
        );
        assert!(
            delivery["attempts"][0]["duration_ms"].as_f64().unwrap() < 15_000.0,
            "{delivery}"
        );
    }
}

#[test]
fn an_empty_body_has_a_length_and_headers_may_be_long() {
    let (_folder, _server, api) = server();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&heads);
    let address = listen(move |mut connection, _| {
        while let Some(head) = connection.request() {
            note.lock().unwrap().push(head);
            connection.send(OK);
        }
    });
    let url = format!("http://{address}/");
    let token = "e".repeat(8192);
    strict(&api, &url, json!({"headers": {"authorization": token}}));
    let answer = api.post(
        "/events",
        r#"{"type": "ping", "payload": "", "content_type": "text/plain"}"#,
    );
    ended(&api, answer.body["deliveries"][0]["id"].as_str().unwrap());
    let head = heads.lock().unwrap()[0].clone();
    assert_eq!(raw::header(&head, "content-length"), Some("0"));
    assert_eq!(raw::header(&head, "authorization"), Some(token.as_str()));

    let refused = |headers: Value| {
        let answer = api.post(
            "/endpoints",
            &json!({"url": url, "headers": headers}).to_string(),
        );
        (answer.status, answer.fields().join(" "))
    };
    let (status, field) = refused(json!({"authorization": "e".repeat(8193)}));
    assert!(
        status == 422 && field.starts_with("headers"),
        "{status} {field}"
    );
    let (status, field) =
        refused(json!({"a": "e".repeat(8000), "b": "e".repeat(8000), "c": "e".repeat(500)}));
    assert!(
        status == 422 && field.starts_with("headers"),
        "{status} {field}"
    );
}

/// A gateway that always said 429 with `Retry-After: 0` was asked a thousand times a second.
#[test]
fn a_retry_after_of_zero_costs_a_retry() {
    let (_folder, _server, api) = server();
    let count = Arc::new(Mutex::new(0));
    let note = Arc::clone(&count);
    let address = listen(move |mut connection, _| {
        while connection.request().is_some() {
            *note.lock().unwrap() += 1;
            connection.send("HTTP/1.1 429 Too Many\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n");
        }
    });
    strict(
        &api,
        &format!("http://{address}/"),
        json!({"retry_delays_s": [1, 1]}),
    );
    let delivery = ended(&api, &publish(&api, "a.b"));
    assert_eq!(
        (&delivery["status"], outcomes(&delivery).len()),
        (&json!("failed"), 3)
    );
    assert_eq!(*count.lock().unwrap(), 3);
}

/// A connection that is never idle was kept for ever: a receiver that moved was not followed.
#[test]
fn a_connection_under_steady_traffic_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--connection-lifetime", "1s"]);
    let api = server.api();
    let connections = Arc::new(Mutex::new(HashSet::new()));
    let note = Arc::clone(&connections);
    let address = listen(move |mut connection, number| {
        while connection.request().is_some() {
            note.lock().unwrap().insert(number);
            connection.send(OK);
        }
    });
    strict(&api, &format!("http://{address}/"), json!({}));
    let mut published = 0;
    until(
        "there have been three connections",
        Duration::from_secs(30),
        || {
            let delivery = ended(&api, &publish(&api, "a.b"));
            assert_eq!(outcomes(&delivery), ["delivered"]);
            published += 1;
            wait(50);
            connections.lock().unwrap().len() >= 3
        },
    );
    assert!(
        published > 10,
        "each connection was used again meanwhile: {published} requests"
    );
}

#[test]
fn the_address_that_was_connected_to_is_in_the_row() {
    let (_folder, _server, api) = server();
    let receiver = Receiver::start();
    let closes = listen(|mut connection, _| drop(connection.request()));
    strict(&api, &receiver.url("/ok"), json!({"event_types": ["ok"]}));
    strict(
        &api,
        &receiver.url("/hang"),
        json!({"event_types": ["hang"], "timeout_ms": 1000}),
    );
    strict(
        &api,
        &format!("http://{closes}/"),
        json!({"event_types": ["closes"]}),
    );
    let address = |event_type: &str| {
        let attempt = ended(&api, &publish(&api, event_type))["attempts"][0].clone();
        attempt["remote_address"]
            .as_str()
            .unwrap_or_else(|| panic!("{attempt}"))
            .to_owned()
    };
    for event_type in ["ok", "hang"] {
        assert!(
            receiver.url("/").contains(&address(event_type)),
            "{event_type}"
        );
    }
    assert_eq!(address("closes"), closes.to_string());
}
