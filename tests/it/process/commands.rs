//! Each command of the command line, against the real server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::{Server, command, run};
use crate::support::until;

/// The command line as a person has it beside a server.
struct Shell<'a> {
    server: &'a Server,
}

impl Shell<'_> {
    fn try_run(&self, arguments: &[&str]) -> (i32, String, String) {
        let all: Vec<&str> = arguments
            .iter()
            .chain(&["--server", self.server.base.as_str()])
            .copied()
            .collect();
        let output = run(&self.server.folder, &all);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    fn text(&self, arguments: &[&str]) -> String {
        let (code, out, told) = self.try_run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{told}");
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let all: Vec<&str> = arguments.iter().chain(&["--json"]).copied().collect();
        serde_json::from_str(&self.text(&all)).unwrap()
    }

    fn until_status(&self, delivery: &str, status: &str) {
        until(status, Duration::from_secs(10), || {
            self.json(&["deliveries", "show", delivery])["status"] == status
        });
    }
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

#[test]
fn endpoints_are_changed_and_their_secrets_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let shell = Shell { server: &server };
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    std::fs::write(folder.path().join("secret"), format!("{secret}\n")).unwrap();
    std::fs::write(folder.path().join("headers.json"), r#"{"x-key": "hidden"}"#).unwrap();
    let added = shell.json(&[
        "endpoints",
        "add",
        "http://127.0.0.1:9/",
        "--secret-file",
        "secret",
        "--headers-file",
        "headers.json",
        "--retry-delays-s",
        "none",
        "--max-age-s",
        "3600",
        "--breaker-after",
        "0",
        "--signing",
        "v1,v1a",
    ]);
    let endpoint = id(&added);
    assert_eq!(
        (&added["secret"], &added["retry_delays_s"]),
        (&json!(secret), &json!([]))
    );
    assert_eq!(
        (&added["headers"], &added["max_age_s"]),
        (&json!({"x-key": "***"}), &json!(3600))
    );
    assert_eq!(
        shell.json(&["endpoints", "secret", "show", &endpoint])["secret"],
        secret
    );
    assert!(
        shell
            .text(&["endpoints", "secret", "show", &endpoint])
            .contains(secret)
    );

    let set = shell.json(&[
        "endpoints",
        "set",
        &endpoint,
        "--url",
        "http://127.0.0.1:10/",
        "--rate-limit",
        "7/s",
        "--event-types",
        "a.*",
        "--header",
        "x-team=billing",
        "--reset",
        "retry-delays-s",
    ]);
    assert_eq!(
        (&set["url"], &set["rate_limit"]),
        (&json!("http://127.0.0.1:10/"), &json!("7/s"))
    );
    assert_eq!(set["retry_delays_s"], json!([10, 20, 40, 80]));
    let (code, _, told) = shell.try_run(&["endpoints", "set", &endpoint]);
    assert!(code == 1 && told.contains("nothing to change"), "{told}");

    let rotated = shell.json(&["endpoints", "secret", "rotate", &endpoint, "--grace", "1h"]);
    assert_ne!(rotated["secret"], secret);
    let shown = shell.json(&["endpoints", "secret", "show", &endpoint]);
    let older = shown["older"][0]["id"].as_str().unwrap();
    assert!(
        shell
            .text(&["endpoints", "secret", "show", &endpoint])
            .contains(&format!("{older} signs until"))
    );
    assert!(
        shell
            .text(&["endpoints", "secret", "end", &endpoint, older])
            .contains("has been revoked")
    );
    assert_eq!(
        shell.json(&["endpoints", "secret", "show", &endpoint])["older"],
        json!([])
    );
    let ended = shell.text(&["endpoints", "secret", "rotate", &endpoint, "--grace", "0s"]);
    assert!(
        ended.contains("All older keys have been revoked"),
        "{ended}"
    );
    let mut child = command(
        folder.path(),
        &[
            "endpoints",
            "secret",
            "rotate",
            &endpoint,
            "--secret-file",
            "-",
            "--server",
            &server.base,
        ],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::null())
    .spawn()
    .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(secret.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        shell.json(&["endpoints", "secret", "show", &endpoint])["secret"],
        secret
    );
    assert_eq!(shell.text(&["endpoints", "list"]).lines().count(), 2);
}

#[test]
fn deliveries_are_looked_at_followed_and_decided_on() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let shell = Shell { server: &server };
    let endpoint = id(&shell.json(&["endpoints", "add", &receiver.url("/ok")]));
    let tail = [
        "deliveries",
        "tail",
        "--json",
        "--since",
        "1h",
        "--count",
        "3",
        "--server",
        &server.base,
    ];
    let tail = command(folder.path(), &tail)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let sent = shell.json(&["send", "a.b", "1", "--id", "first"]);
    let delivery = sent["deliveries"][0]["id"].as_str().unwrap().to_owned();
    shell.until_status(&delivery, "delivered");
    std::fs::write(
        folder.path().join("events.jsonl"),
        "{\"type\":\"a.b\",\"data\":1.20}\n\n{\"type\":\"a.c\",\"data\":2}\n",
    )
    .unwrap();
    let batch = shell.json(&["send", "--batch", "events.jsonl"]);
    assert_eq!(batch["data"].as_array().unwrap().len(), 2);
    std::fs::write(
        folder.path().join("wrong.jsonl"),
        "{\"type\":\"a.b\",\"data\":1}\nnone\n",
    )
    .unwrap();
    let (code, _, told) = shell.try_run(&["send", "--batch", "wrong.jsonl"]);
    assert!(code == 1 && told.contains("line 2"), "{told}");

    let told = tail.wait_with_output().unwrap();
    assert!(told.status.success());
    let ended: Vec<Value> = std::str::from_utf8(&told.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|one| one["status"] == "delivered"));
    let failed = shell.text(&[
        "deliveries",
        "tail",
        "--since",
        "1h",
        "--count",
        "1",
        "--endpoint",
        &endpoint,
    ]);
    assert!(
        failed.contains("delivered") && failed.contains(&endpoint),
        "{failed}"
    );
    let (code, _, told) = shell.try_run(&["deliveries", "tail", "--endpoint", "ep_none"]);
    assert!(code == 4 && told.contains("no such endpoint"), "{told}");

    assert_eq!(
        shell.json(&["events", "list", "--type", "a.c", "--since", "1h"])["data"][0]["type"],
        "a.c"
    );
    assert_eq!(
        shell.json(&["events", "show", "first"])["deliveries"][0]["id"],
        json!(delivery)
    );
    assert!(shell.text(&["events", "show", "first"]).contains(&delivery));
    assert!(shell.text(&["events", "list"]).contains("first"));

    let tested = shell.json(&["endpoints", "test", &endpoint]);
    shell.until_status(tested["delivery_id"].as_str().unwrap(), "delivered");
    shell.json(&["endpoints", "pause", &endpoint]);
    let waiting = shell.json(&["send", "a.b", "2"])["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        shell.json(&["deliveries", "cancel", &waiting])["failure_reason"],
        "cancelled"
    );
    assert_eq!(
        shell.try_run(&["deliveries", "release", &delivery]).0,
        4,
        "it has ended"
    );
    assert_eq!(
        shell.json(&["deliveries", "retry", &waiting])["status"],
        "pending"
    );
    shell.json(&["endpoints", "resume", &endpoint]);
    shell.until_status(&waiting, "delivered");
}

#[test]
fn a_recovery_is_followed_until_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let shell = Shell { server: &server };
    let add = [
        "endpoints",
        "add",
        &receiver.url("/status/500"),
        "--retry-delays-s",
        "none",
    ];
    let endpoint = id(&shell.json(&add));
    let sent = shell.json(&["send", "a.b", "1"]);
    let delivery = sent["deliveries"][0]["id"].as_str().unwrap().to_owned();
    shell.until_status(&delivery, "failed");
    shell.json(&["endpoints", "set", &endpoint, "--url", &receiver.url("/ok")]);
    let done = shell.json(&["endpoints", "recover", &endpoint, "--since", "1h"]);
    assert_eq!(
        (&done["status"], &done["requeued"]),
        (&json!("done"), &json!(1))
    );
    shell.until_status(&delivery, "delivered");
    let recovery = id(&done);
    assert_eq!(
        shell.json(&["recoveries", "show", &recovery, "--wait"])["status"],
        "done"
    );
    assert!(
        shell
            .text(&["recoveries", "show", &recovery])
            .contains("done")
    );
}

#[test]
fn tokens_nodes_migrations_and_keys_have_their_json() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let shell = Shell { server: &server };
    let token = shell.json(&["tokens", "create", "shop", "--scope", "read"]);
    assert_eq!(
        shell.json(&["tokens", "list"])["data"][0]["id"],
        token["id"]
    );
    let as_reader = |arguments: &[&str]| {
        let all: Vec<&str> = arguments
            .iter()
            .chain(&["--server", server.base.as_str()])
            .copied()
            .collect();
        let text = token["token"].as_str().unwrap();
        let output = command(folder.path(), &all)
            .env("POSTRIDER_API_TOKEN", text)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, told) = as_reader(&["send", "a.b", "1"]);
    assert!(
        code == Some(4) && told.contains("POSTRIDER_API_TOKEN") && told.contains("scope"),
        "{told}"
    );
    shell.json(&["tokens", "revoke", &id(&token)]);
    let (code, told) = as_reader(&["endpoints", "list"]);
    assert!(
        code == Some(4) && told.contains("401") && told.contains("POSTRIDER_API_TOKEN"),
        "{told}"
    );
    assert_eq!(shell.json(&["nodes"])["data"][0]["alive"], true);

    let json = |arguments: &[&str]| -> Value {
        let output = run(folder.path(), arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert!(json(&["migrate", "status", "--json"])["data"][0]["run_at"].is_string());
    assert!(json(&["migrate", "up", "--json"])["version"].is_string());
    assert!(
        json(&["keys", "generate", "--json"])["key"]
            .as_str()
            .unwrap()
            .starts_with("prk_")
    );
}

#[test]
fn what_is_looked_at_is_shown_as_the_api_answers_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let shell = Shell { server: &server };
    let endpoint = id(&shell.json(&["endpoints", "add", "http://127.0.0.1:9/"]));
    assert_eq!(
        shell.json(&["endpoints", "stats", &endpoint])["attempts"],
        0
    );
    let preview = shell.json(&[
        "endpoints",
        "recover",
        &endpoint,
        "--since",
        "1h",
        "--dry-run",
    ]);
    assert_eq!(preview, json!({"failed": 0, "missing": 0, "capped": false}));
    assert!(
        shell.json(&["portal-link", "shop"])["url"]
            .as_str()
            .unwrap()
            .contains("/#portal=")
    );
    assert_eq!(shell.json(&["overview"])["endpoints"]["total"], 1);
    let (code, _, told) = shell.try_run(&["endpoints", "stats", "ep_nope"]);
    assert!(
        code == 4 && told.contains("there is no such endpoint"),
        "{told}"
    );
}

#[test]
fn a_list_is_watched_until_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let watch = [
        "endpoints",
        "list",
        "--watch",
        "--json",
        "--server",
        &server.base,
    ];
    let mut watch = command(folder.path(), &watch)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let seen: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(seen["data"], json!([]));
    }
    let pid = watch.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(watch.wait().unwrap().success());
}

#[test]
fn every_shell_gets_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("deliveries") && text.contains("tail"),
            "{shell}"
        );
    }
}

/// Everything that a folder holds.
fn listing(folder: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect()
}

#[test]
fn the_demo_ends_by_itself_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut demo = command(folder.path(), &["demo", "--json"]);
    let output = demo.env("TMPDIR", folder.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(began.elapsed() < Duration::from_secs(35));
    let lines: Vec<Value> = std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for what in ["event", "attempt", "retry", "breaker", "resume", "recovery"] {
        assert!(lines.iter().any(|line| line["what"] == what), "no {what}");
    }
    let summary: Vec<&Value> = lines
        .iter()
        .filter(|line| line["what"] == "summary")
        .collect();
    assert!(
        summary.len() == 3 && summary.iter().all(|line| line["delivered"] == 5),
        "{summary:?}"
    );
    assert!(listing(folder.path()).is_empty());
}
