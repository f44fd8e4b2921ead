//! The settings file, and what `config` and `doctor` say of it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::{Server, command, run};

const EXAMPLE: &str = include_str!("../../../docs/postrider.toml");

/// Settings that have no default, or one of the machine's.
const NO_FIXED_DEFAULT: [&str; 5] = [
    "api_token",
    "event_id_header",
    "max_in_flight",
    "node_name",
    "threads",
];

fn show(folder: &Path, arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["config", "show", "--json"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let output = run(folder, &all);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(shown: &Value) -> BTreeSet<&str> {
    shown
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn the_example_file_has_every_setting_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let settings: Vec<&str> = EXAMPLE
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| {
            let name = line.split(" = ").next().unwrap_or_default();
            line.contains(" = ")
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .collect();
    std::fs::write(folder.path().join("example.toml"), settings.join("\n")).unwrap();
    assert!(
        run(
            folder.path(),
            &["config", "check", "--config", "example.toml"]
        )
        .status
        .success()
    );

    let (defaults, example) = (
        show(folder.path(), &[]),
        show(folder.path(), &["--config", "example.toml"]),
    );
    let in_file: BTreeSet<&str> = settings
        .iter()
        .filter_map(|line| line.split(" = ").next())
        .collect();
    assert_eq!(in_file, names(&defaults));
    for name in in_file
        .into_iter()
        .filter(|name| !NO_FIXED_DEFAULT.contains(name))
    {
        assert_eq!(example[name]["value"], defaults[name]["value"], "{name}");
        assert!(
            example[name]["from"]
                .as_str()
                .unwrap()
                .contains("example.toml"),
            "{name}"
        );
    }
}

#[test]
fn where_a_setting_is_from_is_shown_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = "default_concurrency = 7\ndefault_timeout_ms = 7000\nretention = \"7d\"\napi_token = \"c4n4ry-c4n4ry-c4n4ry\"\n";
    std::fs::write(folder.path().join("p.toml"), file).unwrap();
    let mut command = command(
        folder.path(),
        &[
            "config",
            "show",
            "--json",
            "--config",
            "p.toml",
            "--default-timeout-ms",
            "9000",
        ],
    );
    command.env("POSTRIDER_RETENTION", "8d").env(
        "POSTRIDER_DATABASE_URL",
        "postgres://u:c4n4ry@h/d?password=c4n4ry",
    );
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("c4n4ry") && text.contains("***"), "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    let of = |name: &str| {
        (
            shown[name]["value"].clone(),
            shown[name]["from"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(
        of("default_timeout_ms"),
        (json!(9000), "flag --default-timeout-ms".into())
    );
    assert_eq!(
        of("retention"),
        (json!("8d"), "environment POSTRIDER_RETENTION".into())
    );
    assert_eq!(
        of("default_concurrency"),
        (json!(7), "file p.toml, line 1, column 1".into())
    );
    assert_eq!(
        of("default_rate_limit"),
        (json!("10/min"), "default".into())
    );
}

#[test]
fn everything_wrong_in_a_file_is_named_with_its_place_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = "listen = \"here\"\nlisten_on = 1\nretention = \"soon\"\n  allow_networks = [\"10.0.0.0/8\", \"x\"]\nencryption_keys = \"c4n4ry\"\n[server]\n";
    std::fs::write(folder.path().join("w.toml"), file).unwrap();
    let output = run(folder.path(), &["config", "check", "--config", "w.toml"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "w.toml, line 1, column 10: listen",
        "127.0.0.1:8400",
        "line 2, column 1: listen_on: unknown setting; did you mean `listen`?",
        "line 3, column 1: retention",
        "30d",
        "line 4, column 35: allow_networks",
        "line 5, column 19: encryption_keys",
        "line 6, column 2: server",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    assert!(!told.contains("c4n4ry"), "{told}");
    let output = run(
        folder.path(),
        &["config", "check", "--json", "--config", "w.toml"],
    );
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&shown["ok"], shown["wrong"].as_array().unwrap().len()),
        (&json!(false), 6)
    );

    // What only together is wrong.
    std::fs::write(
        folder.path().join("w.toml"),
        "lease_ttl = \"5s\"\nlease_renewal = \"1s\"\n",
    )
    .unwrap();
    let output = run(
        folder.path(),
        &[
            "config",
            "check",
            "--config",
            "w.toml",
            "--lease-margin",
            "4s",
        ],
    );
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("line 1, column 1: lease_ttl") && told.contains("6s"),
        "{told}"
    );
}

/// What `doctor` finds of each thing.
fn doctor(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let all: Vec<&str> = ["doctor", "--json", "--resolve", "localhost"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let output = run(folder, &all);
    (
        output.status.code().unwrap(),
        serde_json::from_slice(&output.stdout).unwrap(),
    )
}

fn wrong(found: &Value) -> Vec<&str> {
    let checks = found["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["state"] == "wrong")
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

#[test]
fn the_doctor_finds_what_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_eq!(
        doctor(folder, &["--listen", "127.0.0.1:0"]).0,
        0,
        "nothing is there yet, and nothing is wrong"
    );
    assert!(
        std::fs::read_dir(folder).unwrap().next().is_none(),
        "and it made nothing"
    );

    std::fs::write(folder.join("p.toml"), "retention = \"soon\"\n").unwrap();
    let (code, found) = doctor(folder, &["--config", "p.toml"]);
    assert_eq!((code, wrong(&found)), (1, vec!["settings"]));
    assert!(
        found["checks"][0]["found"]
            .as_str()
            .unwrap()
            .contains("line 1"),
        "{found}"
    );

    let server = Server::start(folder, &[]);
    let address = server.base.trim_start_matches("http://").to_owned();
    let (code, found) = doctor(folder, &["--listen", &address]);
    assert_eq!((code, wrong(&found)), (0, vec![]), "{found}");
    std::fs::set_permissions(
        server.folder.join("postrider.db.token"),
        PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let (code, found) = doctor(folder, &["--listen", &address]);
    assert_eq!((code, wrong(&found)), (1, vec!["permissions"]), "{found}");
    std::fs::remove_file(server.folder.join("postrider.db.token")).unwrap();
    assert_eq!(
        wrong(&doctor(folder, &["--listen", &address]).1),
        vec!["server"],
        "the token is gone"
    );

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    let (_, found) = doctor(
        folder,
        &["--listen", &taken_at, "--server", "http://127.0.0.1:1"],
    );
    assert_eq!(wrong(&found), vec!["port", "server"], "{found}");
    let (_, found) = doctor(
        folder,
        &[
            "--database-url",
            "sqlite:/no/such/folder/x.db",
            "--listen",
            "127.0.0.1:0",
        ],
    );
    assert_eq!(wrong(&found), vec!["folder"], "{found}");
    let away = "database_url = \"postgres://127.0.0.1:1/x\"\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(folder.join("p.toml"), away).unwrap();
    let (_, found) = doctor(folder, &["--config", "p.toml"]);
    assert_eq!(
        wrong(&found),
        vec!["settings"],
        "a shared database without a token: {found}"
    );
    std::fs::write(
        folder.join("p.toml"),
        format!("{away}api_token = \"a-token-that-is-long-enough\"\n"),
    )
    .unwrap();
    let (_, found) = doctor(folder, &["--config", "p.toml"]);
    assert_eq!(wrong(&found), vec!["database", "permissions"], "{found}");

    let mut misspelt = command(folder, &["config", "check"]);
    misspelt
        .env("POSTRIDER_RETENTIN", "30d")
        .env("POSTRIDER_PORT", "tcp://10.0.0.1:80");
    let told = misspelt.output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("POSTRIDER_RETENTION") && !told.contains("POSTRIDER_PORT"),
        "{told}"
    );

    for (settings, remedy) in [
        ("api_token = \"short\"", "at least 16"),
        ("listen = \"0.0.0.0:8400\"", "POSTRIDER_API_TOKEN"),
    ] {
        std::fs::write(folder.join("p.toml"), settings).unwrap();
        let checked = run(folder, &["config", "check", "--config", "p.toml"]);
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(
            !checked.status.success() && told.contains(remedy),
            "{settings}: {told}"
        );
    }
}
