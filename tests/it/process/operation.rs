//! Starting, stopping, and every failure that an operator can meet.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, run, serve};
use crate::support::until;

const TOKEN: &str = "a-token-for-this-test-alone";

fn refused(folder: &Path, arguments: &[&str], told: &[&str]) {
    let output = serve(folder, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in told {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn the_token_is_made_at_first_start_readable_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let path = folder.path().join("postrider.db.token");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let token = std::fs::read_to_string(&path).unwrap();
    assert!(!server.log().contains(token.trim()), "no secret in the log");
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), token, "and kept");
    assert_eq!(server.api().get("/endpoints").status, 200);
}

#[test]
fn a_second_server_on_the_same_port_or_database_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let address = server.base.trim_start_matches("http://").to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    refused(
        elsewhere.path(),
        &["--listen", &address],
        &["cannot listen", &address, "--listen"],
    );
    refused(
        folder.path(),
        &[],
        &["already sends from", &server.pid().to_string()],
    );
    // By another name for the same file, too.
    std::os::unix::fs::symlink(server.database(), elsewhere.path().join("link.db")).unwrap();
    refused(
        elsewhere.path(),
        &["--database-url", "sqlite:link.db"],
        &["already sends from"],
    );
    assert_eq!(
        server.api().get("/endpoints").status,
        200,
        "the first one does not notice"
    );
    // A killed process frees it at once.
    server.kill();
    Server::start(folder.path(), &[]);
}

#[test]
fn wrong_settings_are_named_with_their_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--listen", "0.0.0.0:0"], &["POSTRIDER_API_TOKEN"]),
        (&["--api-token", "short"], &["api_token", "16"]),
        (
            &["--default-rate-limit", "10/day"],
            &["default_rate_limit", "N/min"],
        ),
        (
            &["--default-concurrency", "0"],
            &["default_concurrency", "1,000"],
        ),
        (&["--retention", "soon"], &["retention", "30d"]),
        (&["--event-id-header", "webhook-id"], &["event_id_header"]),
        (
            &["--database-url", "postgres://127.0.0.1:1/y"],
            &["POSTRIDER_API_TOKEN"],
        ),
        (
            &[
                "--database-url",
                "postgres://127.0.0.1:1/y",
                "--api-token",
                TOKEN,
            ],
            &["127.0.0.1", "port 1", "check that the server runs"],
        ),
        (
            &["--database-url", "mysql://x/y"],
            &["database_url", "mysql", "sqlite:FILE"],
        ),
        (
            &["--database-url", "sqlite:/no/such/folder/x.db"],
            &["/no/such/folder", "folder exists"],
        ),
        (&["--config", "missing.toml"], &["missing.toml"]),
        (&["--migrate", "off"], &["--migrate auto"]),
    ];
    for (arguments, told) in cases {
        refused(folder.path(), arguments, told);
    }
    std::fs::write(
        folder.path().join("wrong.toml"),
        "listen = \"127.0.0.1:0\"\nlisten_on = 1\n",
    )
    .unwrap();
    refused(
        folder.path(),
        &["--config", "wrong.toml"],
        &["wrong.toml", "line 2", "listen_on"],
    );
    std::fs::write(
        folder.path().join("text.db"),
        "this is no database, but long enough to be looked at".repeat(50),
    )
    .unwrap();
    refused(
        folder.path(),
        &["--database-url", "sqlite:text.db"],
        &["not a database"],
    );
}

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let file = "default_rate_limit = \"7/min\"\ndefault_concurrency = 7\ndefault_timeout_ms = 7000\nallow_networks = [\"127.0.0.0/8\"]\n";
    std::fs::write(folder.path().join("postrider.toml"), file).unwrap();
    let mut command = serve(
        folder.path(),
        &["--config", "postrider.toml", "--default-timeout-ms", "9000"],
    );
    command
        .env("POSTRIDER_DEFAULT_CONCURRENCY", "8")
        .env("POSTRIDER_DEFAULT_TIMEOUT_MS", "8000");
    let server = Server::spawn(folder.path(), command);
    let answer = server
        .api()
        .post("/endpoints", r#"{"url":"http://127.0.0.1:9/"}"#);
    assert_eq!(answer.status, 201, "{}", answer.body);
    let field = |name: &str| answer.body[name].clone();
    assert_eq!(
        (
            field("rate_limit"),
            field("concurrency"),
            field("timeout_ms")
        ),
        (json!("7/min"), json!(8), json!(9000))
    );
    assert_eq!(field("retry_delays_s"), json!([10, 20, 40, 80]));
}

#[test]
fn sigterm_ends_what_is_in_flight_and_keeps_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    api.endpoint(&receiver.url("/slow/1500"), r#"{"concurrency": 2}"#);
    for _ in 0..5 {
        api.post("/events", r#"{"type":"a.b","data":1}"#);
    }
    until("two are in flight", Duration::from_secs(10), || {
        receiver.got().len() == 2
    });
    let database_file = server.database();
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    let of = |state: &str| {
        database::number(
            &database_file,
            &format!("SELECT count(*) AS n FROM webhook_deliveries WHERE status = '{state}'"),
        )
    };
    assert_eq!((of("delivered"), of("pending"), of("sending")), (2, 3, 0));
    let _server = Server::start(folder.path(), &[]);
    until("the rest goes out", Duration::from_secs(20), || {
        of("delivered") == 5
    });
    assert_eq!(receiver.got().len(), 5, "none of them twice");
}

#[test]
fn a_schema_of_a_newer_release_or_another_owner_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let file = server.database();
    server.kill();
    database::execute(
        &file,
        "INSERT INTO webhook_schema_migrations VALUES ('99991231000000', 0, FALSE)",
    );
    refused(
        folder.path(),
        &[],
        &["99991231000000", "newer than this program"],
    );
    // With one that its release has marked, nodes of both releases work side by side.
    let mark = "UPDATE webhook_schema_migrations SET compatible = TRUE WHERE run_at = 0";
    database::execute(&file, mark);
    let server = Server::start(folder.path(), &[]);
    server.logs("one compatible migration ahead");
    server.kill();
    let another = "INSERT INTO webhook_schema_migrations VALUES ('99991231000001', 0, TRUE)";
    database::execute(&file, another);
    refused(
        folder.path(),
        &[],
        &["99991231000000", "newer than this program"],
    );

    let taken = tempfile::tempdir().unwrap();
    let file = taken.path().join("postrider.db");
    database::execute(&file, "CREATE TABLE webhook_deliveries (mine TEXT)");
    refused(taken.path(), &[], &["webhook_deliveries", "did not create"]);
    assert_eq!(
        database::number(
            &file,
            "SELECT count(*) AS n FROM sqlite_master WHERE name LIKE 'webhook_%'"
        ),
        1
    );
}

#[test]
fn a_long_foreign_transaction_means_503_and_nothing_known_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    api.endpoint(&receiver.url("/slow/1000"), "{}");
    api.post("/events", r#"{"type":"a.b","data":1}"#);
    until("it is in flight", Duration::from_secs(10), || {
        receiver.got().len() == 1
    });
    let mut holder = Command::new("sqlite3");
    let script = ".timeout 10000\nBEGIN IMMEDIATE;\n.shell sleep 14\nROLLBACK;\n";
    let holder = holder
        .arg(server.database())
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut holder) = holder else {
        assert!(std::env::var_os("CI").is_none(), "sqlite3 is missing");
        eprintln!("SKIPPED: a foreign transaction needs the program sqlite3");
        return;
    };
    std::io::Write::write_all(&mut holder.stdin.take().unwrap(), script.as_bytes()).unwrap();
    // The answer comes after the server's own patience, and says when to try again.
    let mut refused = None;
    until("a publish is refused", Duration::from_secs(30), || {
        let started = Instant::now();
        let answer = api.post("/events", r#"{"type":"a.b","data":2}"#);
        if answer.status != 202 {
            refused = Some((answer, started.elapsed()));
        }
        refused.is_some()
    });
    let (answer, _) = refused.unwrap();
    assert_eq!(
        (answer.status, answer.problem()),
        (503, "unavailable"),
        "{}",
        answer.body
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert!(holder.wait().unwrap().success());
    // The outcome that was known meanwhile has landed, and all goes on.
    until("it is delivered", Duration::from_secs(20), || {
        database::number(
            &server.database(),
            "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'",
        ) >= 1
    });
    assert_eq!(
        api.post("/events", r#"{"type":"a.b","data":3}"#).status,
        202
    );
    assert_eq!(
        receiver
            .got()
            .iter()
            .filter(|one| one.body.contains("\"data\":1,"))
            .count(),
        1,
        "sent once"
    );
}

/// A shell inside user and mount namespaces of its own, where a tiny file system can be mounted.
/// `None` where the machine does not allow it: loud, and a failure under CI.
fn in_namespace(folder: &Path, script: &str) -> Option<Command> {
    let probe = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "user and mount namespaces are needed"
        );
        eprintln!(
            "SKIPPED: a full or read-only disk needs user and mount namespaces (unshare -rm)"
        );
        return None;
    }
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-ec", script, env!("CARGO_BIN_EXE_postrider")])
        .current_dir(folder);
    command.env("POSTRIDER_API_TOKEN", TOKEN);
    Some(command)
}

#[test]
fn a_full_disk_means_503_and_all_goes_on_once_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let script = "mkdir -p small; mount -t tmpfs -o size=3m none small; cd small; \
                  dd if=/dev/zero of=filler bs=1k count=1200 2>/dev/null; \
                  exec \"$0\" serve --listen 127.0.0.1:0 --allow-network 127.0.0.0/8";
    let Some(command) = in_namespace(folder.path(), script) else {
        return;
    };
    let server = Server::spawn(folder.path(), command);
    let api = Api::new(&server.base, TOKEN);
    api.endpoint(&receiver.url("/ok"), r#"{"rate_limit":"unlimited"}"#);
    let mut accepted = Vec::new();
    let event = |i: usize| {
        json!({"type": "a.b", "id": format!("e{i}"), "data": "x".repeat(50_000)}).to_string()
    };
    let mut full = None;
    for i in 0..200 {
        let answer = api.post("/events", &event(i));
        if answer.status != 202 {
            full = Some(answer);
            break;
        }
        accepted.push(format!("e{i}"));
    }
    let full = full.expect("3 MiB do not hold 10 MB");
    assert_eq!(
        (full.status, full.problem()),
        (503, "unavailable"),
        "{}",
        full.body
    );
    assert!(
        full.text("detail").contains("disk is full"),
        "{}",
        full.body
    );
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(
        api.try_request("GET", "/readyz", &[], None).unwrap().status,
        503
    );
    assert_eq!(
        api.try_request("GET", "/healthz", &[], None)
            .unwrap()
            .status,
        200
    );

    std::fs::remove_file(format!("/proc/{}/cwd/filler", server.pid())).unwrap();
    until("it takes writes again", Duration::from_secs(20), || {
        api.post("/events", &event(1000)).status < 300
    });
    until(
        "all that was accepted arrives",
        Duration::from_secs(30),
        || {
            let got: std::collections::HashSet<_> =
                receiver.got().iter().map(|one| one.id.clone()).collect();
            accepted.iter().all(|id| got.contains(id))
        },
    );
    until("it is ready again", Duration::from_secs(30), || {
        api.try_request("GET", "/readyz", &[], None).unwrap().status == 200
    });
}

#[test]
fn a_read_only_database_is_refused_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    Server::start(folder.path(), &[]).kill();
    let script = "mkdir -p fixed; mount -t tmpfs none fixed; cp postrider.db* fixed/; mount -o remount,ro fixed; cd fixed; \
                  exec \"$0\" serve --listen 127.0.0.1:0";
    let Some(mut command) = in_namespace(folder.path(), script) else {
        return;
    };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.to_lowercase().contains("read-only") && text.contains("permission"),
        "{text}"
    );
}

#[test]
fn the_schema_can_be_kept_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let mut urls = vec!["sqlite:by-hand.db".to_owned()];
    urls.extend(Cluster::shared().map(|cluster| cluster.text(&cluster.database())));
    for url in urls {
        let migrate = |arguments: &[&str]| {
            let all: Vec<&str> = ["migrate"]
                .iter()
                .chain(arguments)
                .chain(&["--database-url", &url])
                .copied()
                .collect();
            let output = run(folder.path(), &all);
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        };
        let (there, text) = migrate(&["status"]);
        assert!(
            if there {
                text.contains("not run")
            } else {
                text.contains("migrate up")
            },
            "{text}"
        );
        refused(
            folder.path(),
            &[
                "--database-url",
                &url,
                "--migrate",
                "off",
                "--api-token",
                TOKEN,
            ],
            &["migrate up"],
        );
        assert!(migrate(&["up"]).1.contains("20261128020000"));
        assert!(migrate(&["up"]).0 && migrate(&["status"]).1.contains("run at"));
        let (done, text) = migrate(&["down"]);
        assert!(!done && text.contains("--yes"), "{text}");
        assert!(
            migrate(&["down", "--yes"])
                .1
                .contains("20261128020000 was reverted")
        );
        assert!(
            migrate(&["down", "--yes"])
                .1
                .contains("no migration to revert")
        );
        assert!(migrate(&["status"]).1.contains("not run"));
    }
}

#[test]
fn help_and_version_are_there() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["listen", "--help"],
        &["endpoints", "add", "--help"],
    ] {
        assert!(
            run(folder.path(), arguments).status.success(),
            "{arguments:?}"
        );
    }
    assert_eq!(run(folder.path(), &["sevre"]).status.code(), Some(2));
}

#[test]
fn the_database_is_readable_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(
        server
            .api()
            .post("/events", r#"{"type":"a.b","data":1}"#)
            .status,
        202
    );
    for name in ["postrider.db", "postrider.db-wal", "postrider.db-shm"] {
        let mode = std::fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[test]
fn attempts_stay_below_the_file_limit_and_no_file_left_fails_no_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut command = Command::new("sh");
    let script =
        "ulimit -n 100; exec \"$0\" serve --listen 127.0.0.1:0 --allow-network 127.0.0.0/8";
    command
        .args(["-ec", script, env!("CARGO_BIN_EXE_postrider")])
        .current_dir(folder.path());
    let server = Server::spawn(folder.path(), command);
    let api = server.api();
    let settings = r#"{"rate_limit":"unlimited","concurrency":1000,"retry_delays_s":[]}"#;
    let endpoint = api.endpoint(&receiver.url("/slow/300"), settings);
    api.post(&format!("/endpoints/{endpoint}/pause"), "");
    let event = json!({"type": "a.b", "data": 1});
    assert_eq!(
        api.post(
            "/events/batch",
            &json!({"events": vec![event; 100]}).to_string()
        )
        .status,
        202
    );
    // Somebody else holds what files there are.
    let address = server.base.trim_start_matches("http://").to_owned();
    let open_files = || {
        std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
            .unwrap()
            .count()
    };
    let mut held = Vec::new();
    until("no file is left", Duration::from_secs(20), || {
        held.extend(std::net::TcpStream::connect(&address));
        open_files() >= 100
    });
    drop(held.split_off(held.len() - 2));
    until("the API is heard again", Duration::from_secs(20), || {
        api.try_post(&format!("/endpoints/{endpoint}/resume"), "")
            .is_ok_and(|answer| answer.status == 200)
    });
    let told = |server: &Server| server.log().matches("an attempt could not be sent").count();
    until(
        "attempts find no file descriptor",
        Duration::from_secs(20),
        || told(&server) > 0,
    );
    drop(held);
    let delivered = "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'";
    until("all are delivered", Duration::from_secs(60), || {
        database::number(&server.database(), delivered) == 100
    });
    let attempts = database::number(
        &server.database(),
        "SELECT count(*) AS n FROM webhook_attempts",
    );
    assert_eq!(attempts, 100, "no retry and no failure");
    let mut most = 0;
    let got = receiver.got();
    for (i, one) in got.iter().enumerate() {
        let at_once = got[i..]
            .iter()
            .take_while(|later| later.at - one.at < Duration::from_millis(250))
            .count();
        most = most.max(at_once);
    }
    assert!(most <= (100 - 64) / 2, "{most} in flight");
}

#[test]
fn a_log_in_json_is_an_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = serve(folder.path(), &[]);
    command.env("POSTRIDER_LOG_FORMAT", "json");
    let server = Server::spawn(folder.path(), command);
    let log = server.log();
    drop(server);
    assert!(log.contains("listens on"), "{log}");
    for line in log.lines() {
        let told: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            told["level"].is_string() && told["fields"]["message"].is_string(),
            "{line}"
        );
    }
}
