//! The command line, as a person and a script use it.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::server::{Server, command, run};
use crate::support::until;

#[test]
fn the_first_webhook_by_the_command_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let url = ["--server", &server.base];
    let with = |arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().chain(&url).copied().collect();
        let output = run(folder.path(), &all);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{all:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    let json = |arguments: &[&str]| -> Value {
        let all: Vec<&str> = arguments.iter().chain(&["--json"]).copied().collect();
        serde_json::from_str(&with(&all)).unwrap()
    };

    let mut listener = command(
        folder.path(),
        &[
            "listen",
            "--register",
            "--listen",
            "127.0.0.1:0",
            "--fail-first",
            "0",
            "--json",
            url[0],
            url[1],
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    until("it has registered", Duration::from_secs(10), || {
        json(&["endpoints", "list"])["data"]
            .as_array()
            .unwrap()
            .len()
            == 1
    });
    let sent = json(&[
        "send",
        "invoice.paid",
        r#"{"amount": 1.20}"#,
        "--id",
        "inv-7",
    ]);
    let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&line["id"], &line["verdict"]),
        (&sent["id"], &Value::from("verified"))
    );
    assert!(
        line["body"]
            .as_str()
            .unwrap()
            .contains(r#""data":{"amount": 1.20}"#),
        "numbers keep their digits"
    );

    let id = sent["deliveries"][0]["id"].as_str().unwrap();
    until("it is delivered", Duration::from_secs(10), || {
        json(&["deliveries", "show", id])["status"] == "delivered"
    });
    assert!(with(&["deliveries", "list"]).contains("inv-7"));
    assert!(with(&["deliveries", "show", id]).contains("delivered"));
    assert!(with(&["deliveries", "list", "--status", "failed"]).contains("none"));
    assert!(with(&["deliveries", "retry", id]).contains(id));
    lines.next().unwrap().unwrap();

    // Told to end, it takes its endpoint with it.
    let pid = listener.id().to_string();
    std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .unwrap();
    assert!(listener.wait().unwrap().success());
    assert_eq!(json(&["endpoints", "list"])["data"], serde_json::json!([]));

    let added = json(&[
        "endpoints",
        "add",
        "http://127.0.0.1:9/",
        "--rate-limit",
        "100/min",
        "--event-types",
        "a.b,c.*",
        "--ordering",
        "key",
        "--on-failed",
        "skip",
    ]);
    let id = added["id"].as_str().unwrap();
    assert_eq!(added["event_types"], serde_json::json!(["a.b", "c.*"]));
    assert_eq!(
        (&added["ordering"], &added["on_failed"]),
        (&"key".into(), &"skip".into())
    );
    assert!(with(&["endpoints", "show", id]).contains("100/min"));
    assert_eq!(json(&["endpoints", "pause", id])["status"], "paused");
    assert!(with(&["endpoints", "list", "--status", "paused"]).contains(id));
    assert_eq!(json(&["endpoints", "resume", id])["status"], "active");
    with(&["endpoints", "rm", id]);
}

#[test]
fn a_script_can_tell_failures_apart() {
    let folder = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| {
        let output = run(folder.path(), arguments);
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (status, told) = code(&["send", "a.b"]);
    assert_eq!(status, 1);
    assert!(
        told.contains("postrider.db.token") && told.contains("POSTRIDER_API_TOKEN"),
        "{told}"
    );
    let server = Server::start(folder.path(), &[]);
    let base = server.base.clone();
    assert_eq!(code(&["send", "a.b", "not json", "--server", &base]).0, 1);
    let (status, told) = code(&["send", "a b", "1", "--server", &base]);
    assert_eq!(status, 4);
    assert!(told.contains("type"), "{told}");
    assert_eq!(
        code(&["endpoints", "show", "ep_nope", "--server", &base]).0,
        4
    );
    server.kill();
    let (status, told) = code(&["send", "a.b", "1", "--server", &base]);
    assert_eq!(status, 3);
    assert!(told.contains("postrider serve"), "{told}");
}

#[test]
fn a_receiver_can_be_told_to_misbehave_and_sees_forgeries() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let address = port.to_string();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mut listener = command(
        folder.path(),
        &[
            "listen",
            "--listen",
            &address,
            "--secret",
            secret,
            "--fail-first",
            "1",
            "--json",
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let api = crate::support::api::Api::new(&format!("http://{address}"), "none");
    let forged = [
        ("webhook-id", "x"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,AAAA"),
    ];
    let mut first = None;
    until("it listens", Duration::from_secs(10), || {
        first = api
            .try_request("POST", "/", &forged, Some("{}".into()))
            .ok();
        first.is_some()
    });
    assert_eq!(first.unwrap().status, 500, "the first is failed");
    assert_eq!(
        api.try_request("POST", "/", &forged, Some("{}".into()))
            .unwrap()
            .status,
        200
    );
    let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(
        line["verdict"].as_str().unwrap().starts_with("NOT TRUSTED"),
        "{line}"
    );
    listener.kill().unwrap();
    listener.wait().unwrap();
}
