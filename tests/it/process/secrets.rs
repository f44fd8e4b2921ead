//! Secrets at rest, and nowhere else.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use postrider::domain::secret::EncryptionKey;
use postrider::ports::OsRandom;
use serde_json::json;

use crate::support::api::Api;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, command, serve};
use crate::support::until;

/// In every secret that these tests make up.
const CANARY: &str = "c4n4ry";

/// A secret with the canary in it.
fn canary_secret() -> String {
    format!(
        "whsec_{}",
        BASE64_STANDARD.encode(format!("{CANARY}-{CANARY}-{CANARY}-{CANARY}-{CANARY}"))
    )
}

fn start(folder: &Path, keys: &[&EncryptionKey]) -> Server {
    let mut command = serve(folder, &["--allow-network", "127.0.0.0/8"]);
    let keys: Vec<_> = keys.iter().map(|key| key.reveal()).collect();
    if !keys.is_empty() {
        command.env("POSTRIDER_ENCRYPTION_KEYS", keys.join(","));
    }
    Server::spawn(folder, command)
}

/// Whether the database's files hold these bytes anywhere.
fn stored(folder: &Path, text: &str) -> bool {
    ["postrider.db", "postrider.db-wal"].iter().any(|name| {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[test]
fn secrets_and_headers_are_sealed_and_keys_are_rotated_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let receiver = Receiver::start();
    let (old, new) = (
        EncryptionKey::generate(&OsRandom),
        EncryptionKey::generate(&OsRandom),
    );
    let settings = json!({
        "secret": canary_secret(), "headers": {"x-key": CANARY}, "rate_limit": "unlimited", "signing": ["v1", "v1a"]
    });
    let works = |api: &Api, endpoint: &str| {
        let before = receiver.got().len();
        api.post("/events", r#"{"type":"a.b","data":1}"#);
        until("it arrives", Duration::from_secs(10), || {
            receiver.got().len() > before
        });
        assert_eq!(receiver.got()[before].header("x-key"), Some(CANARY));
        assert_eq!(
            api.get(&format!("/endpoints/{endpoint}/secret"))
                .text("secret"),
            canary_secret()
        );
    };

    // Without keys it is in the clear, and the server says so.
    let server = start(folder, &[]);
    assert!(
        server
            .logs("stored unencrypted")
            .contains("encryption_keys")
    );
    let endpoint = server
        .api()
        .endpoint(&receiver.url("/ok"), &settings.to_string());
    works(&server.api(), &endpoint);
    assert!(stored(folder, &canary_secret()) && stored(folder, "whsk_"));
    let ids = |api: Api| -> Vec<String> {
        let list = api.get("/deliveries?until=2100-01-01T00:00:00Z").body;
        let all = list["data"].as_array().unwrap().iter();
        all.map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = ids(server.api());
    assert_eq!(first.len(), 1);
    server.terminate();

    // With a key, what is new is sealed; what is old, by a rotation beside the running server.
    let server = start(folder, &[&old]);
    server.logs("postrider keys rotate");
    let rotate = |keys: &[&EncryptionKey]| {
        let keys: Vec<_> = keys.iter().map(|key| key.reveal()).collect();
        let output = command(folder, &["keys", "rotate"])
            .env("POSTRIDER_ENCRYPTION_KEYS", keys.join(","))
            .output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("prk_"), "{text}");
        (output.status.success(), text)
    };
    let (done, text) = rotate(&[&old]);
    assert!(
        done && text.contains("5 values") && text.contains(&old.id()),
        "{text}"
    );
    works(&server.api(), &endpoint);
    let sealed = server
        .api()
        .endpoint(&receiver.url("/ok"), &settings.to_string());
    server.api().delete(&format!("/endpoints/{sealed}"));
    server.terminate();
    crate::support::database::execute(
        &folder.join("postrider.db"),
        "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)",
    );
    for text in [&canary_secret(), CANARY, "whsk_", "whsec_"] {
        assert!(!stored(folder, text), "{text} is in the clear");
    }

    // A new key: both are given, everything moves, the old one goes.
    let server = start(folder, &[&new, &old]);
    works(&server.api(), &endpoint);
    assert!(rotate(&[&new, &old]).1.contains("5 values"));
    assert!(rotate(&[&new, &old]).1.contains("; 0 values"));
    works(&server.api(), &endpoint);
    server.terminate();
    let server = start(folder, &[&new]);
    works(&server.api(), &endpoint);
    // The key of public ids is encrypted anew, and stays the same.
    assert_eq!(ids(server.api()).last(), first.last());
    server.terminate();

    // Without its key it does not start, and names the one that is missing.
    let (done, text) = rotate(&[&old]);
    assert!(!done && text.contains(&new.id()), "{text}");
    let output = serve(folder, &[])
        .env("POSTRIDER_ENCRYPTION_KEYS", old.reveal())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains(&new.id()) && text.contains("encryption_keys"),
        "{text}"
    );
    for wrong in ["prk_short", "secret", &format!("{},", old.reveal())] {
        let output = serve(folder, &[])
            .env("POSTRIDER_ENCRYPTION_KEYS", wrong)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains("encryption_keys") && !text.contains(wrong),
            "{text}"
        );
    }
}

#[test]
fn a_canary_in_every_secret_is_found_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let token = format!("api-token-{CANARY}");
    let key_text = format!(
        "prk_{}",
        BASE64_STANDARD.encode(format!("{CANARY}-{CANARY}-{CANARY}-{CANARY}-1234"))
    );
    std::fs::write(
        folder.path().join("broken.toml"),
        format!("api_token = \"{CANARY}\" x\n"),
    )
    .unwrap();
    let output = serve(folder.path(), &["--config", "broken.toml"])
        .output()
        .unwrap();
    let mut told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("broken.toml") && told.contains("line 1"),
        "{told}"
    );

    let mut command = serve(
        folder.path(),
        &["--allow-network", "127.0.0.0/8", "--log", "trace"],
    );
    command
        .env("POSTRIDER_API_TOKEN", &token)
        .env("POSTRIDER_ENCRYPTION_KEYS", &key_text);
    let server = Server::spawn(folder.path(), command);
    let api = Api::new(&server.base, &token);
    let mut answers = Vec::new();
    for path in ["/ok", "/status/500", "/hang", "/redirect"] {
        let settings = json!({
            "secret": canary_secret(), "headers": {"x-key": CANARY, "authorization": format!("Bearer {CANARY}")},
            "retry_delays_s": [], "timeout_ms": 1000, "signing": ["v1", "v1a"], "rate_limit": "unlimited",
        });
        let endpoint = api.endpoint(&receiver.url(path), &settings.to_string());
        answers.push(api.get(&format!("/endpoints/{endpoint}")));
        answers.push(api.patch(&format!("/endpoints/{endpoint}"), r#"{"description":"d"}"#));
        let body = json!({"secret": format!("{}{CANARY}", canary_secret())}).to_string();
        answers.push(api.post(&format!("/endpoints/{endpoint}/secret/rotate"), &body));
        answers.push(api.post(&format!("/endpoints/{endpoint}/test"), ""));
        answers.push(api.post(&format!("/endpoints/{endpoint}/pause"), ""));
        answers.push(api.post(&format!("/endpoints/{endpoint}/resume"), ""));
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for url in [
        format!("http://{closed}/"),
        "http://no-such-name.invalid/".into(),
        receiver.url("/ok").replace("http:", "https:"),
    ] {
        api.endpoint(
            &url,
            &json!({"headers": {"x-key": CANARY}, "secret": canary_secret(), "retry_delays_s": []})
                .to_string(),
        );
    }
    answers.push(api.post("/events", r#"{"type":"a.b","data":1}"#));
    // What is refused is not repeated, either.
    for body in [
        json!({"url": format!("http://user:{CANARY}@127.0.0.1/")}).to_string(),
        json!({"url": "http://127.0.0.1/", "secret": CANARY}).to_string(),
        json!({"url": "http://127.0.0.1/", "secret": {"a": CANARY}}).to_string(),
        json!({"url": "http://127.0.0.1/", "headers": {"x": format!("{CANARY}\n")}}).to_string(),
        json!({"url": "http://127.0.0.1/", "headers": {"x": [CANARY]}}).to_string(),
        json!({"url": "http://127.0.0.1/", "headers": CANARY}).to_string(),
        format!(r#"{{"url":"http://127.0.0.1/","secret":"{CANARY}"#),
    ] {
        let refused = api.post("/endpoints", &body);
        assert!(
            refused.status == 422 || refused.status == 400,
            "{body}: {}",
            refused.body
        );
        answers.push(refused);
    }
    let stranger = Api::new(&server.base, &format!("wrong-{CANARY}"));
    answers.push(stranger.get("/endpoints"));
    let made = api
        .post("/tokens", r#"{"name":"t","scope":"read"}"#)
        .text("token");
    answers.push(Api::new(&server.base, &made).get("/endpoints"));
    until("all have ended", Duration::from_secs(20), || {
        let pending = api.get("/deliveries?status=pending&limit=250").body["data"]
            .as_array()
            .unwrap()
            .len();
        pending
            + api.get("/deliveries?status=sending").body["data"]
                .as_array()
                .unwrap()
                .len()
            == 0
    });
    for delivery in api.get("/deliveries?limit=250").body["data"]
        .as_array()
        .unwrap()
    {
        answers.push(api.get(&format!("/deliveries/{}", delivery["id"].as_str().unwrap())));
    }
    for path in ["/endpoints", "/events", "/deliveries", "/tokens"] {
        answers.push(api.get(path));
    }
    let bearer = format!("Bearer {token}");
    answers.push(
        api.try_request("GET", "/metrics", &[("authorization", &bearer)], None)
            .unwrap(),
    );
    for answer in &answers {
        assert!(answer.status != 500, "{}", answer.body);
        told += &answer.body.to_string();
        told += &format!("{:?}", answer.headers);
    }
    let (_, log) = server.terminate();
    assert!(
        log.lines().count() > 500,
        "at level trace there is much to be read"
    );
    told += &log;
    let encoded = canary_secret();
    let secrets = [
        CANARY,
        encoded.trim_start_matches("whsec_"),
        key_text.trim_start_matches("prk_"),
        &made,
        "prk_",
    ];
    let is_key = |(at, prefix): (usize, &str)| {
        told[at + prefix.len()..].starts_with(|next: char| next.is_ascii_alphanumeric())
    };
    assert!(
        !told.match_indices("whsk_").any(is_key),
        "a private key is told"
    );
    for secret in secrets {
        if let Some(at) = told.find(secret) {
            let from = told[..at]
                .char_indices()
                .rev()
                .nth(300)
                .map_or(0, |(i, _)| i);
            panic!("{secret} is told: …{}", &told[from..at + secret.len()]);
        }
    }
    assert!(!stored(folder.path(), CANARY), "and not in the database");
}
