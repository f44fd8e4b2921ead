//! The public libraries that receivers use accept what the server sends, and nothing else.
//!
//! `tests/it/verifiers/install` fetches them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::receiver::{Got, Receiver};
use crate::support::server::Server;
use crate::support::until;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The commands that verify, each with a name.
fn verifiers() -> Vec<(&'static str, Command)> {
    let (installed, scripts) = (
        root().join("target/verifiers"),
        root().join("tests/it/verifiers"),
    );
    let found = |name: &str, path: PathBuf| {
        let there = path.exists();
        assert!(
            there || std::env::var_os("CI").is_none(),
            "{name}: run tests/it/verifiers/install"
        );
        if !there {
            eprintln!("SKIPPED: no {name} verifier; tests/it/verifiers/install fetches it");
        }
        there
    };
    let mut commands = Vec::new();
    let python = installed.join("python/bin/python");
    if found("Python", python.clone()) {
        let mut command = Command::new(python);
        command.arg(scripts.join("verify.py"));
        commands.push(("Python", command));
    }
    let npm = installed.join("npm");
    if found("JavaScript", npm.join("node_modules/standardwebhooks")) {
        let mut command = Command::new("node");
        command
            .arg(scripts.join("verify.mjs"))
            .env("POSTRIDER_NPM", npm);
        commands.push(("JavaScript", command));
    }
    commands
}

/// Whether each of them accepts it and rejects what is made of it by tampering, or what they said.
fn judge(got: &Got, secret: &str) -> Vec<(&'static str, Result<(), String>)> {
    let header = |name: &str| got.header(name).unwrap().to_owned();
    let document = json!({
        "secret": secret,
        "headers": {
            "webhook-id": header("webhook-id"),
            "webhook-timestamp": header("webhook-timestamp"),
            "webhook-signature": header("webhook-signature"),
        },
        "body": got.body,
    });
    let judged = |(name, mut command): (&'static str, Command)| {
        let mut verifier = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        verifier
            .stdin
            .take()
            .unwrap()
            .write_all(document.to_string().as_bytes())
            .unwrap();
        let output = verifier.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let accepted = output.status.success() && output.stdout.starts_with(b"ok");
        (name, if accepted { Ok(()) } else { Err(said) })
    };
    verifiers().into_iter().map(judged).collect()
}

#[test]
fn public_libraries_accept_what_is_sent_and_reject_what_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    let created = api.post(
        "/endpoints",
        &json!({"url": receiver.url("/ok"), "signing": ["v1", "v1a"]}).to_string(),
    );
    let (endpoint, first) = (created.text("id"), created.text("secret"));
    let publish = |event: &str| {
        let before = receiver.got().len();
        assert_eq!(api.post("/events", event).status, 202);
        until("it arrives", Duration::from_secs(10), || {
            receiver.got().len() > before
        });
        receiver.got()[before].clone()
    };
    let odd = r#"{"type":"invoice.paid","data":{ "amount":1.10, "who":"J\u00f6rg \ud83d\ude00", "t":"<&>" }}"#;
    let plain = publish(odd);
    for (name, judged) in judge(&plain, &first) {
        assert_eq!(judged, Ok(()), "{name}");
    }
    let text =
        publish(r#"{"type":"raw","payload":"no JSON \u00e9\n","content_type":"text/plain"}"#);
    for (name, judged) in judge(&text, &first) {
        assert_eq!(judged, Ok(()), "{name}");
    }

    // While a key is rotated out both are good, and afterwards only the new one.
    let second = api
        .post(
            &format!("/endpoints/{endpoint}/secret/rotate"),
            r#"{"grace_s":600}"#,
        )
        .text("secret");
    let during = publish(odd);
    assert_eq!(
        during
            .header("webhook-signature")
            .unwrap()
            .split(' ')
            .count(),
        4
    );
    for secret in [&first, &second] {
        for (name, judged) in judge(&during, secret) {
            assert_eq!(judged, Ok(()), "{name}");
        }
    }
    let third = api
        .post(
            &format!("/endpoints/{endpoint}/secret/rotate"),
            r#"{"grace_s":0}"#,
        )
        .text("secret");
    let after = publish(odd);
    for (name, judged) in judge(&after, &third) {
        assert_eq!(judged, Ok(()), "{name}");
    }
    for (name, judged) in judge(&after, &second) {
        assert!(judged.unwrap_err().contains("was not accepted"), "{name}");
    }
}
