//! The example's story: `examples/notifications` as a process, killed between commit and send.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postrider::config::DatabaseUrl;
use serde_json::Value;

use crate::support::api::Api;
use crate::support::database;
use crate::support::engine::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

/// Examples are built with the tests, and stand beside them.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let example = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/notifications");
    assert!(
        example.exists(),
        "it is built by `cargo test`, or by `cargo build --examples`"
    );
    example
}

fn start(folder: &Path, database: &DatabaseUrl, receiver: &Receiver, abort: bool) -> Server {
    let mut command = Command::new(example());
    let url = match database {
        DatabaseUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
        DatabaseUrl::Postgres(url) => url.reveal().to_owned(),
        other => panic!("{other:?}"),
    };
    command
        .env("DATABASE_URL", url)
        .env("LISTEN", "127.0.0.1:0")
        .env("WEBHOOK_URL", receiver.url("/ok"));
    if abort {
        command.env("ABORT_AFTER_COMMIT", "1");
    }
    command.current_dir(folder).stdin(Stdio::null());
    Server::spawn(folder, command)
}

fn trade(api: &Api, quantity: u32) -> Result<(u16, Value), reqwest::Error> {
    let order = format!(r#"{{"symbol":"ACME","quantity":{quantity}}}"#);
    let json = [("content-type", "application/json")];
    let answer = api.try_request("POST", "/trades", &json, Some(order))?;
    Ok((answer.status, answer.body))
}

fn what_was_committed_is_sent_and_what_was_rolled_back_is_not(database: Database) {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let place = database.fresh(folder.path()).unwrap();
    let number = |sql: &str| database::number(&place, sql);

    // It dies right after its commit.
    let server = start(folder.path(), &place, &receiver, true);
    let api = Api::new(&server.base, "");
    assert_eq!(
        trade(&api, 5000).unwrap().0,
        422,
        "above the limit: rolled back"
    );
    assert!(
        trade(&api, 10).is_err(),
        "nobody was told that it went well"
    );
    drop(server);
    assert_eq!(number("SELECT count(*) AS n FROM trades"), 1);
    let id = database::event_ids(&place).pop().unwrap();

    let server = start(folder.path(), &place, &receiver, false);
    let api = Api::new(&server.base, "");
    until(
        "the webhook of the trade arrives",
        Duration::from_secs(20),
        || !receiver.got().is_empty(),
    );
    let (status, body) = trade(&api, 20).unwrap();
    assert_eq!(status, 201, "{body}");
    until("so does the next one", Duration::from_secs(20), || {
        receiver
            .got()
            .iter()
            .any(|got| Some(got.id.as_str()) == body["eventId"].as_str())
    });
    let got = receiver.got().clone();
    assert!(got.iter().any(|one| one.id == id));
    for one in &got {
        let sent: Value = serde_json::from_str(&one.body).unwrap();
        assert_eq!(
            sent["eventId"],
            one.id.as_str(),
            "in the body, in the header and in what is signed"
        );
        assert_eq!(one.header("x-example-event-id"), Some(one.id.as_str()));
        assert_ne!(
            sent["trade"]["quantity"], 5000,
            "nobody hears of what never was"
        );
    }
    assert_eq!(number("SELECT count(*) AS n FROM webhook_events"), 2);

    // The API is behind the host's own login, with the default limits.
    let ask = |headers: &[(&str, &str)]| {
        api.try_request("GET", "/webhooks/api/v1/endpoints", headers, None)
            .unwrap()
    };
    assert_eq!(ask(&[]).status, 401);
    let endpoint = ask(&[("x-operator-key", "let-me-in")]).body["data"][0].clone();
    assert_eq!(
        (&endpoint["rate_limit"], &endpoint["concurrency"]),
        (&"10/min".into(), &3.into())
    );
    assert_eq!(
        endpoint["retry_delays_s"],
        serde_json::json!([10, 20, 40, 80])
    );
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn on_sqlite() {
    what_was_committed_is_sent_and_what_was_rolled_back_is_not(Database::Sqlite);
}

#[test]
fn on_postgres() {
    if Database::Postgres.is_there() {
        what_was_committed_is_sent_and_what_was_rolled_back_is_not(Database::Postgres);
    }
}
