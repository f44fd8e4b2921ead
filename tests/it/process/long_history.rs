//! Lists of a history so long that the server ends pages before they are full: the command line and
//! the dashboard continue by themselves.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::database;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, command};
use crate::support::until;

/// A server with one event of type `first`, which was delivered, and 12,000 later ones that failed.
fn server(folder: &std::path::Path) -> (Server, Receiver, String) {
    let server = Server::start(folder, &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    api.endpoint(&receiver.url("/ok"), "{}");
    let event = json!({"type": "first", "data": 1, "id": "the-first"});
    assert_eq!(api.post("/events", &event.to_string()).status, 202);
    let delivered = || api.get("/deliveries?status=delivered").body["data"].clone();
    until(
        "it is delivered",
        std::time::Duration::from_secs(10),
        || delivered() != json!([]),
    );
    let id = delivered()[0]["id"].as_str().unwrap().to_owned();
    let numbers = "(WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers \
                    WHERE n < 12000) SELECT n FROM numbers) AS numbers";
    let path = server.database();
    database::execute(
        &path,
        &format!(
            "INSERT INTO webhook_events (seq, tenant, id, event_type, content_type, content_hash, created_at, body) \
             SELECT 256000 + n * 256, tenant, CAST('e-' || n AS BLOB), 'later', content_type, content_hash, \
                 created_at + n, body FROM webhook_events, {numbers} WHERE seq = 256"
        ),
    );
    database::execute(
        &path,
        &format!(
            "INSERT INTO webhook_deliveries (event_seq, endpoint, status, failed_at, failure_reason, retries_used, \
                 attempt_count, interruptions, owner_epoch, claim_no, created_at, updated_at, in_order) \
             SELECT 256000 + n * 256, endpoint, 'failed', created_at + n, 'retries_exhausted', 0, 1, 0, 1, 1, \
                 created_at + n, updated_at, 0 FROM webhook_deliveries, {numbers} WHERE event_seq = 256"
        ),
    );
    (server, receiver, id)
}

#[test]
fn a_page_that_ends_early_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _receiver, id) = server(folder.path());
    let api = server.api();
    let page = api.get("/events?type=first").body;
    assert_eq!(page["data"], json!([]), "12,000 others come first");
    assert!(page["next_cursor"].is_string() && page["searched_back_to"].is_string());
    let listed = |arguments: &[&str]| {
        let output = command(folder.path(), arguments)
            .args(["--server", &server.base])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(listed(&["events", "list", "--type", "first"]).contains("the-first"));
    let rows = listed(&["deliveries", "list", "--status", "delivered", "--json"]);
    assert!(rows.contains(&id), "{rows}");
}

#[test]
fn the_dashboard_continues_a_page_that_ends_early() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (server, _receiver, id) = server(folder.path());
    browser.sign_in(&server.base, &server.api().token);
    browser.go("#/deliveries?status=delivered");
    browser.sees(&format!("[data-delivery-id={id}]"), "first");
    assert_eq!(browser.count("tbody tr"), 1);
}
