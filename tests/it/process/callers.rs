//! Callers as they come: browsers, load balancers, scripts, people in a hurry.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::{Answer, Api};
use crate::support::receiver::Receiver;
use crate::support::server::{Server, command, run, serve};
use crate::support::until;

fn server(arguments: &[&str]) -> (tempfile::TempDir, Server, Api) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), arguments);
    let api = server.api();
    (folder, server, api)
}

fn with_headers(
    api: &Api,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Answer {
    let bearer = format!("Bearer {}", api.token);
    let mut all = vec![
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    all.extend(headers);
    api.try_request(
        method,
        &format!("/api/v1{path}"),
        &all,
        body.map(str::to_owned),
    )
    .unwrap()
}

#[test]
fn a_plus_in_a_time_is_read_as_one() {
    let (_folder, _server, api) = server(&[]);
    for time in [
        "2026-01-31T12:00:00+02:00",
        "2026-01-31T12:00:00%2B02:00",
        "2026-01-31T10:00:00Z",
    ] {
        for path in ["/events", "/deliveries"] {
            assert_eq!(
                api.get(&format!("{path}?since={time}&until={time}")).status,
                200,
                "{path} {time}"
            );
        }
    }
    assert_eq!(
        api.get("/events?since=2026-01-31T12:00:00 x02:00").status,
        422
    );
}

#[test]
fn head_is_answered_wherever_get_is() {
    let (_folder, _server, api) = server(&[]);
    let endpoint = api.endpoint("http://127.0.0.1:9/", "{}");
    for path in [
        "/endpoints",
        &format!("/endpoints/{endpoint}"),
        "/events",
        "/deliveries",
        "/tokens",
        "/overview",
    ] {
        let (get, head) = (api.get(path), with_headers(&api, "HEAD", path, &[], None));
        assert_eq!(
            (head.status, head.header("content-type")),
            (get.status, get.header("content-type")),
            "{path}"
        );
        assert_eq!(
            head.body,
            Value::String(String::new()),
            "{path} has no body"
        );
    }
    assert_eq!(
        with_headers(&api, "HEAD", "/endpoints/ep_none", &[], None).status,
        404
    );
    for path in ["/", "/healthz", "/readyz", "/metrics"] {
        let bearer = format!("Bearer {}", api.token);
        let head = api
            .try_request("HEAD", path, &[("authorization", &bearer)], None)
            .unwrap();
        assert_eq!(head.status, 200, "{path}");
    }
}

#[test]
fn pages_of_listed_origins_may_call_with_a_token_and_no_cookie() {
    const LISTED: &str = "https://console.example";
    let (_folder, _server, api) = server(&[
        "--cors-origins",
        "https://console.example, https://b.example",
    ]);
    let asks = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type,idempotency-key",
            ),
        ];
        api.try_request("OPTIONS", "/api/v1/events", &headers, None)
            .unwrap()
    };
    let answer = asks(LISTED);
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, LISTED.to_owned())
    );
    let allowed = answer.header("access-control-allow-headers").to_lowercase();
    assert!(
        ["authorization", "content-type", "idempotency-key"]
            .iter()
            .all(|one| allowed.contains(one)),
        "{allowed}"
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    assert_eq!(
        asks("https://evil.example").header("access-control-allow-origin"),
        ""
    );
    let answer = with_headers(&api, "GET", "/events", &[("origin", LISTED)], None);
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, LISTED.to_owned())
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    // A session belongs to the dashboard's own pages.
    let session = json!({"token": api.token}).to_string();
    let headers = [("origin", LISTED), ("content-type", "application/json")];
    let answer = api
        .try_request("POST", "/api/v1/session", &headers, Some(session))
        .unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), "");

    let (_folder, _server, api) = server(&[]);
    let answer = with_headers(&api, "GET", "/events", &[("origin", LISTED)], None);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "",
        "off unless it is set"
    );
    let folder = tempfile::tempdir().unwrap();
    for wrong in ["*", "console.example", "https://console.example/path"] {
        let output = serve(folder.path(), &["--cors-origins", wrong])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains("cors_origins"),
            "{wrong}: {text}"
        );
    }
}

#[test]
fn a_compressed_body_is_refused_by_name() {
    let (_folder, _server, api) = server(&[]);
    let body = Some(r#"{"type": "a.b", "data": 1}"#);
    for encoding in ["gzip", "br", "deflate", "zstd"] {
        let answer = with_headers(
            &api,
            "POST",
            "/events",
            &[("content-encoding", encoding)],
            body,
        );
        assert_eq!(answer.status, 415, "{encoding}: {}", answer.body);
        assert!(
            answer.text("detail").contains("content-encoding"),
            "{}",
            answer.body
        );
    }
    assert_eq!(
        with_headers(
            &api,
            "POST",
            "/events",
            &[("content-encoding", "identity")],
            body
        )
        .status,
        202
    );
}

#[test]
fn a_head_that_does_not_end_is_answered_408() {
    let (_folder, server, _api) = server(&[]);
    let address = server.base.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"POST /api/v1/events HTTP/1.1\r\nhost: x\r\n")
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn an_idempotency_key_makes_the_id() {
    let (_folder, _server, api) = server(&[]);
    let event = |data: i32| json!({"type": "a.b", "data": data}).to_string();
    let publish = |path: &str, key: &str, body: &str| {
        with_headers(&api, "POST", path, &[("Idempotency-Key", key)], Some(body))
    };
    let first = publish("/events", "order-1", &event(1));
    assert_eq!(first.status, 202, "{}", first.body);
    let id = first.text("id");
    assert_eq!(&id[14..15], "8", "a UUID of version 8 (RFC 9562): {id}");
    // A repetition, whatever its body, is answered with the stored event.
    for body in [event(1), event(2)] {
        let again = publish("/events", "order-1", &body);
        assert_eq!(
            (again.status, again.text("id")),
            (200, id.clone()),
            "{}",
            again.body
        );
    }
    assert_ne!(publish("/events", "order-2", &event(1)).text("id"), id);
    // Another caller's key is another one.
    let made = api
        .post("/tokens", r#"{"name": "other", "scope": "publish"}"#)
        .text("token");
    let other = Api::new(&api.base, &made);
    let answer = with_headers(
        &other,
        "POST",
        "/events",
        &[("Idempotency-Key", "order-1")],
        Some(&event(1)),
    );
    assert_eq!(answer.status, 202);
    assert_ne!(answer.text("id"), id);
    // With an id, on a batch, or as nonsense, it says nothing clear.
    let refused = [
        publish(
            "/events",
            "k",
            &json!({"id": "e1", "type": "a.b", "data": 1}).to_string(),
        ),
        publish(
            "/events/batch",
            "k",
            &json!({"events": [{"type": "a.b", "data": 1}]}).to_string(),
        ),
        publish("/events", &"k".repeat(256), &event(1)),
    ];
    for answer in refused {
        assert_eq!(
            (answer.status, answer.fields()),
            (422, vec!["Idempotency-Key"]),
            "{}",
            answer.body
        );
    }
    // At once, too: one of them is stored.
    let ids: Vec<String> = std::thread::scope(|scope| {
        let call = |_| {
            scope.spawn(|| {
                let api = Api::new(&api.base, &api.token);
                let headers = [("Idempotency-Key", "at-once")];
                with_headers(&api, "POST", "/events", &headers, Some(&event(3))).text("id")
            })
        };
        let calls: Vec<_> = (0..8).map(call).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn an_idle_caller_keeps_its_connection_longer_than_load_balancers_do() {
    let folder = tempfile::tempdir().unwrap();
    let shown = |arguments: &[&str]| {
        let all = [&["config", "show", "--json"], arguments].concat();
        let found: Value = serde_json::from_slice(&run(folder.path(), &all).stdout).unwrap();
        found["keep_alive"]["value"].as_str().unwrap().to_owned()
    };
    let default = humantime::parse_duration(&shown(&[])).unwrap();
    assert!(
        default > Duration::from_secs(600),
        "{default:?}: Google's and Azure's keep 600 s and 4 min"
    );
    assert_eq!(shown(&["--keep-alive", "75s"]), "75s");

    // It is what the server does: with a second, an idle connection ends after it.
    let server = Server::start(folder.path(), &["--keep-alive", "1s"]);
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("it is closed by the server");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn settings_are_read_as_tools_write_them() {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "LISTEN",
        "RETENTION",
        "ALLOW_NETWORKS",
        "DENY_NETWORKS",
        "HTTPS_ONLY",
        "EVENT_ID_HEADER",
        "MAX_IN_FLIGHT",
        "NODE_NAME",
        "LEASE_TTL",
        "MIGRATE",
        "DEFAULT_RATE_LIMIT",
        "DEFAULT_CONCURRENCY",
        "DEFAULT_RETRY_DELAYS_S",
        "DEFAULT_TIMEOUT_MS",
        "CONFIG",
        "LOG_FORMAT",
        "LOG",
        "KEEP_ALIVE",
        "CORS_ORIGINS",
        "CREATE",
        "CONNECTION_LIFETIME",
        "DATABASE_URL",
        "API_TOKEN",
        "ENCRYPTION_KEYS",
    ];
    let check = |variables: &[(String, &str)]| {
        let mut check = command(folder.path(), &["config", "check"]);
        let output = check.envs(variables.iter().cloned()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let all_empty: Vec<_> = names
        .iter()
        .map(|name| (format!("POSTRIDER_{name}"), ""))
        .collect();
    let (right, text) = check(&all_empty);
    assert!(right, "empty means unset: {text}");
    let spaced = [
        ("LISTEN", " 127.0.0.1:8400\n"),
        ("RETENTION", " 7d \r\n"),
        ("ALLOW_NETWORKS", "10.0.0.0/8 , 127.0.0.0/8\n"),
        ("DEFAULT_RATE_LIMIT", " 10/min "),
        ("HTTPS_ONLY", " true\n"),
        ("DEFAULT_RETRY_DELAYS_S", " 1, 2 , 3 "),
        ("API_TOKEN", " a-token-for-this-test-alone\n"),
        ("LOG_FORMAT", " json "),
        ("KEEP_ALIVE", " 75s "),
    ];
    let (right, text) = check(&spaced.map(|(name, value)| (format!("POSTRIDER_{name}"), value)));
    assert!(right, "{text}");
    for listen in ["localhost:8400", ":8400", "[::1]:8400"] {
        let token = (
            "POSTRIDER_API_TOKEN".to_owned(),
            "a-token-for-this-test-alone",
        );
        let (right, text) = check(&[("POSTRIDER_LISTEN".to_owned(), listen), token]);
        assert!(right, "{listen}: {text}");
    }
    for (name, value) in [
        ("LISTEN", "8400"),
        ("RETENTION", "soon"),
        ("MAX_IN_FLIGHT", "many"),
    ] {
        let (right, text) = check(&[(format!("POSTRIDER_{name}"), value)]);
        let named = [format!("POSTRIDER_{name}"), name.to_lowercase()];
        assert!(
            !right && named.iter().any(|name| text.contains(name)),
            "it is named: {text}"
        );
    }
    // A URL's parameters are part of no file's name.
    let server = Server::start(folder.path(), &["--database-url", "sqlite:x.db?mode=rwc"]);
    server.terminate();
    assert!(folder.path().join("x.db").exists());
}

#[test]
fn a_hangup_reads_again_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |level: &str| {
        std::fs::write(folder.path().join("p.toml"), format!("log = \"{level}\"\n")).unwrap()
    };
    file("info");
    let server = Server::start(folder.path(), &["--config", "p.toml"]);
    let (api, path) = (server.api(), folder.path().join("postrider.db.token"));
    let hang_up = || {
        assert!(
            Command::new("kill")
                .args(["-HUP", &server.pid().to_string()])
                .status()
                .unwrap()
                .success()
        );
    };
    // The token.
    std::fs::write(&path, "another-token-for-this-test\n").unwrap();
    hang_up();
    let other = Api::new(&server.base, "another-token-for-this-test");
    until("the new token is valid", Duration::from_secs(10), || {
        other.get("/endpoints").status == 200
    });
    assert_eq!(api.get("/endpoints").status, 401);
    // The log's level.
    let publish = || {
        assert_eq!(
            other
                .post("/events", r#"{"type": "a.b", "data": 1}"#)
                .status,
            202
        )
    };
    let receiver = Receiver::start();
    other.endpoint(&receiver.url("/ok"), "{}");
    publish();
    until("it arrives", Duration::from_secs(10), || {
        !receiver.got().is_empty()
    });
    assert!(!server.log().contains(" DEBUG "), "{}", server.log());
    file("debug");
    hang_up();
    until("the level has changed", Duration::from_secs(20), || {
        publish();
        server.log().contains(" DEBUG ")
    });
    // What is wrong leaves the rest as it was.
    std::fs::write(folder.path().join("p.toml"), "log = 7\n").unwrap();
    hang_up();
    server.logs("p.toml");
    assert_eq!(other.get("/endpoints").status, 200);
    let (status, _) = server.terminate();
    assert!(status.success());
}

#[test]
fn a_leaked_secret_can_always_be_replaced_and_each_older_key_ended() {
    let (_folder, _server, api) = server(&[]);
    let receiver = Receiver::start();
    let endpoint = api.endpoint(&receiver.url("/ok"), r#"{"rate_limit": "unlimited"}"#);
    let path = format!("/endpoints/{endpoint}/secret");
    let signatures = || {
        let before = receiver.got().len();
        assert_eq!(
            api.post("/events", r#"{"type": "a.b", "data": 1}"#).status,
            202
        );
        until("it arrives", Duration::from_secs(10), || {
            receiver.got().len() > before
        });
        let got = receiver.got();
        got.last()
            .unwrap()
            .header("webhook-signature")
            .unwrap()
            .split(' ')
            .count()
    };
    for _ in 0..3 {
        assert_eq!(api.post(&format!("{path}/rotate"), "{}").status, 200);
    }
    assert_eq!(signatures(), 4);
    let shown = api.get(&path).body;
    let older: Vec<&str> = shown["older"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(older.len(), 3);
    assert!(
        shown["older"][0]["signs_until"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    assert_eq!(api.delete(&format!("{path}/{}", older[1])).status, 204);
    assert_eq!(api.delete(&format!("{path}/{}", older[1])).status, 404);
    assert_eq!(signatures(), 3);
    assert_eq!(
        api.post(&format!("{path}/rotate"), r#"{"grace_s": 0}"#)
            .status,
        200
    );
    assert_eq!(
        (signatures(), &api.get(&path).body["older"]),
        (1, &json!([]))
    );

    // Secrets as other systems make them.
    for secret in [
        "whsec_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_",
        " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
    ] {
        let answer = api.post(
            &format!("{path}/rotate"),
            &json!({"secret": secret}).to_string(),
        );
        assert_eq!(answer.status, 200, "{secret}: {}", answer.body);
    }
    let private = format!("whsk_{}", "A".repeat(43) + "=");
    let url = receiver.url("/ok");
    let made = api.post(
        "/endpoints",
        &json!({"url": url, "secret": private}).to_string(),
    );
    // The private key, and behind it the public one, as it is shown everywhere.
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(
        made.text("secret").starts_with(&private[..40]),
        "{}",
        made.body
    );
    assert_eq!(made.body["signing"], json!(["v1a"]));
}
