//! Postgres as operators run it: sessions that end, roles without rights, poolers, standbys,
//! restores.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::cluster::metric;
use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, serve};
use crate::support::until;

const TOKEN: &str = "a-token-for-this-test-alone";

fn command(folder: &Path, url: &str) -> std::process::Command {
    let mut command = serve(folder, &["--allow-network", "127.0.0.0/8"]);
    command
        .env("POSTRIDER_DATABASE_URL", url)
        .env("POSTRIDER_API_TOKEN", TOKEN);
    command
}

fn start(folder: &Path, url: &str) -> (Server, Api) {
    let server = Server::spawn(folder, command(folder, url));
    let api = Api::new(&server.base, TOKEN);
    (server, api)
}

/// The last line of a start that is refused.
fn refused(folder: &Path, url: &str) -> String {
    let output = command(folder, url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text.lines().last().unwrap_or_default().to_owned()
}

fn publish(api: &Api) -> u16 {
    api.post("/events", r#"{"type": "a.b", "data": 1}"#).status
}

fn as_role(url: &str, role: &str) -> String {
    url.replace("postgres@", &format!("{role}@"))
}

#[test]
fn a_session_that_ended_while_nobody_used_it_is_nobodys_problem() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let (_server, api) = start(folder.path(), &cluster.text(&database));
    assert_eq!(publish(&api), 202);
    let of_it = "datname = current_database() AND pid <> pg_backend_pid()";
    let named = format!(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE {of_it} AND application_name LIKE 'postrider-%'"
    );
    assert!(
        database::number(&database, &named) > 0,
        "sessions carry the node's name"
    );
    for _ in 0..5 {
        // It returns once each session has ended.
        let end = format!(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 10000)) AS n FROM pg_stat_activity WHERE {of_it}"
        );
        assert!(database::number(&database, &end) > 0);
        assert_eq!(publish(&api), 202);
        assert_eq!(api.get("/endpoints").status, 200);
    }
}

#[test]
fn a_role_without_rights_is_told_which_grant_it_needs() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let url = cluster.text(&database);
    // Roles are the whole cluster's: this one is named after its database.
    let role = format!("app_{}", url.rsplit('/').next().unwrap());
    database::execute(
        &database,
        &format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
    );
    let line = refused(folder.path(), &as_role(&url, &role));
    let grant = |line: &str| {
        line.split_once("run GRANT ")
            .map(|(_, rest)| format!("GRANT {rest}"))
            .unwrap_or_else(|| panic!("{line}"))
    };
    assert!(
        line.contains("GRANT USAGE, CREATE ON SCHEMA public") && line.contains(&role),
        "{line}"
    );

    // The owner makes the schema; the role is to work on it: what it is told is enough.
    start(folder.path(), &url).0.terminate();
    let line = refused(folder.path(), &as_role(&url, &role));
    let told = grant(&line);
    assert!(
        told.contains("ON ALL TABLES") && told.contains("ON ALL SEQUENCES"),
        "{line}"
    );
    for statement in told.split(';').take(2) {
        database::execute(&database, statement.trim().trim_start_matches("and "));
    }
    let (_server, api) = start(folder.path(), &as_role(&url, &role));
    assert_eq!(publish(&api), 202);
}

#[test]
fn a_database_that_cannot_hold_every_text_is_refused_by_name() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let url = cluster.text(&database);
    let name = format!("{}_latin", url.rsplit('/').next().unwrap());
    let create = format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    database::execute(&cluster.maintenance(), &create);
    let line = refused(folder.path(), &format!("{}_latin", url));
    assert!(
        line.contains("LATIN1") && line.contains("ENCODING 'UTF8'"),
        "{line}"
    );
}

#[test]
fn a_server_that_takes_no_writes_is_refused_with_both_reasons() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let name = cluster
        .text(&database)
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    start(folder.path(), &cluster.text(&database)).0.terminate();
    database::execute(
        &cluster.maintenance(),
        &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
    );
    let line = refused(folder.path(), &cluster.text(&database));
    assert!(
        line.contains("standby") && line.contains("default_transaction_read_only"),
        "{line}"
    );
}

/// After a restore of the data alone, or a move by logical replication, every publish was 500.
#[test]
fn a_sequence_behind_the_data_is_repaired_at_start() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let (server, api) = start(folder.path(), &cluster.text(&database));
    let receiver = Receiver::start();
    api.endpoint(&receiver.url("/ok"), r#"{"rate_limit": "unlimited"}"#);
    for _ in 0..5 {
        assert_eq!(publish(&api), 202);
    }
    server.terminate();
    for of in ["'webhook_events', 'seq'", "'webhook_tenants', 'number'"] {
        let set = format!("SELECT setval(pg_get_serial_sequence({of}), 1, false) AS n");
        database::number(&database, &set);
    }
    let (server, api) = start(folder.path(), &cluster.text(&database));
    server.logs("sequence of webhook_events was behind");
    for _ in 0..5 {
        assert_eq!(publish(&api), 202);
    }
    until("all arrive", Duration::from_secs(20), || {
        receiver.got().len() == 10
    });
    let of_another = r#"{"type": "a.b", "data": 1, "tenant": "another"}"#;
    assert_eq!(api.post("/events", of_another).status, 202);
}

#[test]
fn a_password_is_in_no_message() {
    let folder = tempfile::tempdir().unwrap();
    for password in [
        "c4n4ry",
        "c4n4ry%zz",
        "c4n4ry%40x",
        "c4n4ry/x",
        "c4n4ry@x:y",
    ] {
        for url in [
            format!("postgres://app:{password}@127.0.0.1:1/db"),
            format!("postgres://127.0.0.1:1/db?user=app&password={password}"),
            format!("postgres://app:{password}@127.0.0.1:port/db"),
            format!("postgres://app:{password}@[::1/db"),
        ] {
            let output = command(folder.path(), &url).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                !output.status.success() && !text.contains("c4n4ry"),
                "{url}: {text}"
            );
        }
    }
}

/// A response's text that the database refuses kept its delivery `sending`, and the node unready.
#[test]
fn an_outcome_that_the_database_refuses_is_stored_without_what_it_refuses() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let (_server, api) = start(folder.path(), &cluster.text(&database));
    let receiver = Receiver::start();
    api.endpoint(
        &receiver.url("/mirror"),
        &json!({"retry_delays_s": [], "rate_limit": "unlimited"}).to_string(),
    );
    let shown = |data: &str| {
        let answer = api.post("/events", &json!({"type": "a.b", "data": data}).to_string());
        let id = answer.body["deliveries"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut shown = serde_json::Value::Null;
        until("it is no longer sending", Duration::from_secs(20), || {
            shown = api.get(&format!("/deliveries/{id}")).body;
            let ready = api.try_request("GET", "/readyz", &[], None).unwrap().status;
            assert_eq!(ready, 200, "one receiver's text makes no node unready");
            shown["status"] == "failed" || !shown["hold_reason"].is_null()
        });
        shown
    };
    // A constraint that a character breaks; one that a text of this length breaks; one that every
    // row breaks.
    let constraint = |check: &str| {
        database::execute(
            &database,
            &format!(
                "ALTER TABLE webhook_attempts DROP CONSTRAINT IF EXISTS picky; \
                 ALTER TABLE webhook_attempts ADD CONSTRAINT picky CHECK ({check}) NOT VALID"
            ),
        );
    };
    constraint("strpos(response_body, chr(233)) = 0");
    let attempt = shown("caf\u{e9}")["attempts"][0].clone();
    assert_eq!(attempt["outcome"], "rejected", "{attempt}");
    assert!(
        attempt["response_body"]
            .as_str()
            .is_none_or(|body| body.contains("caf?")),
        "{attempt}"
    );
    constraint("outcome <> 'rejected'");
    let held = shown("all");
    assert_eq!(
        (&held["status"], &held["hold_reason"]),
        (&json!("pending"), &json!("refused_by_database"))
    );
    let metrics = api.try_request("GET", "/readyz", &[], None).unwrap();
    assert_eq!(metrics.status, 200);
    database::execute(
        &database,
        "ALTER TABLE webhook_attempts DROP CONSTRAINT picky",
    );
    let id = held["id"].as_str().unwrap();
    assert!(
        api.post(&format!("/deliveries/{id}/release"), "").status < 300,
        "a person releases it"
    );
    until("it has ended", Duration::from_secs(20), || {
        api.get(&format!("/deliveries/{id}")).body["status"] == "failed"
    });
}

/// A reload turns it off in open sessions as well.
#[test]
fn a_commit_stays_durable_after_synchronous_commit_was_turned_off() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let (server, api) = start(folder.path(), &cluster.text(&database));
    let receiver = Receiver::start();
    let endpoint = api.endpoint(&receiver.url("/ok"), "{}");
    api.post(&format!("/endpoints/{endpoint}/pause"), "");
    // The log's writer would hide the loss.
    for setting in ["synchronous_commit = off", "wal_writer_delay = '10s'"] {
        database::execute(
            &cluster.maintenance(),
            &format!("ALTER SYSTEM SET {setting}"),
        );
    }
    database::execute(&cluster.maintenance(), "SELECT pg_reload_conf()");
    let off = "SELECT count(*) AS n FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'";
    until("it is off", Duration::from_secs(10), || {
        database::number(&cluster.maintenance(), off) == 1
    });
    for _ in 0..5 {
        assert_eq!(publish(&api), 202);
    }
    cluster.crash();
    drop(server);
    cluster.up();
    let events = "SELECT count(*) AS n FROM webhook_events";
    assert_eq!(database::number(&database, events), 5);
    // A start is refused meanwhile, as ever.
    let told = refused(folder.path(), &cluster.text(&database));
    assert!(told.contains("synchronous_commit is off"), "{told}");
}

/// A change of a table, which waits for a report of somebody's, makes all others wait.
#[test]
fn a_table_that_is_locked_for_long_costs_no_lease() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let url = cluster.text(&database);
    let (_server, api) = start(folder.path(), &url);
    let receiver = Receiver::start();
    // It claims one a second.
    api.endpoint(&receiver.url("/ok"), r#"{"rate_limit": "1/s"}"#);
    for _ in 0..20 {
        assert_eq!(publish(&api), 202);
    }
    until("it sends", Duration::from_secs(10), || {
        receiver.got().len() >= 2
    });
    let locked = database.clone();
    let locker = std::thread::spawn(move || {
        let locks = "BEGIN; LOCK TABLE webhook_deliveries IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(14); COMMIT";
        database::execute(&locked, locks);
    });
    std::thread::park_timeout(Duration::from_secs(1));
    let refused = api.post("/events", r#"{"type": "a.b", "data": 1}"#);
    assert_eq!(refused.status, 503);
    let why = refused.body.to_string();
    assert!(why.contains("locked one of its tables"), "{why}");
    locker.join().unwrap();
    let before = receiver.got().len();
    until("it sends again", Duration::from_secs(10), || {
        receiver.got().len() > before
    });
    assert_eq!(
        metric(&api, "postrider_lease_changes_total{change=\"lost\"}"),
        0.0
    );
}

#[test]
fn a_start_waits_for_a_long_migration_of_another_node() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let migrating = database.clone();
    let other = std::thread::spawn(move || {
        // The lock of whoever migrates.
        let lock = "BEGIN; SELECT pg_advisory_xact_lock(1886352244, 1); SELECT pg_sleep(4); COMMIT";
        database::execute(&migrating, lock);
    });
    let waits =
        "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND classid = 1886352244";
    until("it migrates", Duration::from_secs(4), || {
        database::number(&database, waits) == 1
    });
    let (_server, api) = start(folder.path(), &cluster.text(&database));
    assert!(other.is_finished());
    assert_eq!(publish(&api), 202);
    other.join().unwrap();
}

/// A failover to the standby would lose what was accepted last.
#[test]
fn commits_that_do_not_wait_for_a_synchronous_standby_are_found() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let url = cluster.text(&database);
    start(folder.path(), &url).0.terminate();
    let found = || {
        let mut doctor = crate::support::server::command(folder.path(), &["doctor", "--json"]);
        doctor
            .env("POSTRIDER_DATABASE_URL", &url)
            .env("POSTRIDER_API_TOKEN", TOKEN);
        String::from_utf8(doctor.output().unwrap().stdout).unwrap()
    };
    assert!(!found().contains("synchronous standbys"));
    for sql in [
        "ALTER ROLE postgres SET synchronous_commit = local",
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    ] {
        database::execute(&cluster.maintenance(), sql);
    }
    until("the doctor finds it", Duration::from_secs(10), || {
        found().contains("synchronous standbys")
    });
}
