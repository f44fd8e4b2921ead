//! What goes over the wire, with real sockets.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::{Server, serve};
use crate::support::until;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn each_kind_of_receiver_is_told_apart_and_nothing_is_sent_twice() {
    let folder = tempfile::tempdir().unwrap();
    // A proxy in the environment would get the requests; there must be none.
    let mut command = serve(folder.path(), &["--allow-network", "127.0.0.0/8"]);
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env(name, "http://127.0.0.1:1");
    }
    let server = Server::spawn(folder.path(), command);
    let api = server.api();
    let receiver = Receiver::start();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let cases = [
        ("ok", receiver.url("/ok"), "delivered", json!(200)),
        (
            "created",
            receiver.url("/status/201"),
            "delivered",
            json!(201),
        ),
        ("endless", receiver.url("/endless"), "delivered", json!(200)),
        (
            "missing",
            receiver.url("/status/404"),
            "rejected",
            json!(404),
        ),
        (
            "redirect",
            receiver.url("/redirect"),
            "rejected",
            json!(302),
        ),
        (
            "closed",
            format!("http://{closed}/"),
            "connect_error",
            Value::Null,
        ),
        ("hang", receiver.url("/hang"), "timeout", Value::Null),
        (
            "tls",
            receiver.url("/ok").replace("http://", "https://"),
            "tls_error",
            Value::Null,
        ),
        (
            "name",
            "http://no-such-name.invalid/".to_owned(),
            "dns_error",
            Value::Null,
        ),
    ];
    let mut ids = Vec::new();
    for (name, url, ..) in &cases {
        let settings =
            json!({"event_types": [name], "retry_delays_s": [], "timeout_ms": 3000}).to_string();
        api.endpoint(url, &settings);
        let answer = api.post("/events", &json!({"type": name, "data": 1}).to_string());
        ids.push(
            answer.body["deliveries"][0]["id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    for (id, (name, _, outcome, status)) in ids.iter().zip(&cases) {
        let mut shown = Value::Null;
        until(name, PATIENCE, || {
            shown = api.get(&format!("/deliveries/{id}")).body;
            shown["status"] == "delivered" || shown["status"] == "failed"
        });
        let attempt = &shown["attempts"][0];
        assert_eq!(
            (&attempt["outcome"], &attempt["status_code"]),
            (&json!(outcome), status),
            "{name}: {attempt}"
        );
        if *name == "endless" {
            assert_eq!(attempt["response_body"].as_str().unwrap().len(), 16 * 1024);
        }
    }
    assert!(
        receiver.at("/ok/redirected").is_empty(),
        "redirects are never followed"
    );
    let attempts: usize = ids
        .iter()
        .map(|id| {
            api.get(&format!("/deliveries/{id}")).body["attempts"]
                .as_array()
                .unwrap()
                .len()
        })
        .sum();
    assert_eq!(attempts, cases.len());
    assert_eq!(
        receiver.got().len(),
        6,
        "requests on the wire are attempt rows"
    );
}

#[test]
fn an_address_that_is_closed_again_is_blocked_on_the_send() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    let endpoint = api.endpoint(&receiver.url("/ok"), r#"{"retry_delays_s":[]}"#);
    api.post(&format!("/endpoints/{endpoint}/pause"), "");
    let answer = api.post("/events", r#"{"type":"a.b","data":1}"#);
    let id = answer.body["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    server.kill();

    // The same database, served without loopback opened.
    let server = Server::spawn(folder.path(), serve(folder.path(), &[]));
    let api = server.api();
    api.post(&format!("/endpoints/{endpoint}/resume"), "");
    let mut shown = Value::Null;
    until("it fails", PATIENCE, || {
        shown = api.get(&format!("/deliveries/{id}")).body;
        shown["status"] == "failed"
    });
    assert_eq!(shown["attempts"][0]["outcome"], "blocked_address");
    assert!(
        !shown["attempts"][0]["error"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1"),
        "its class, not the address"
    );
    assert!(receiver.got().is_empty());
}
