//! A node that starts while one with its name was alive a moment ago, on a host from which nobody
//! can tell whether that one still is: a container that was killed and comes back.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::cluster::{TOKEN, count, node_command, shards_of};
use crate::support::api::Api;
use crate::support::postgres::Cluster;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

/// A node that shares no lock file with others.
fn node_elsewhere(folder: &Path, url: &str) -> Server {
    let locks = tempfile::tempdir_in(folder).unwrap().keep();
    let mut command = node_command(folder, "same", url);
    command.env("XDG_RUNTIME_DIR", locks);
    Server::spawn(folder, command)
}

fn sending(api: &Api) -> serde_json::Value {
    let ready = api.try_request("GET", "/readyz", &[], None).unwrap();
    assert_eq!(ready.status, 200, "{}", ready.body);
    ready.body["sending"].clone()
}

#[test]
fn a_node_that_was_killed_accepts_events_at_once_when_it_is_back() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let url = cluster.text(&database);
    let first = node_elsewhere(folder.path(), &url);
    let api = Api::new(&first.base, TOKEN);
    assert_eq!(sending(&api), "ready");
    api.endpoint(&receiver.url("/ok"), &json!({}).to_string());
    first.kill();
    // The lease of the one that was killed has not expired.
    let second = node_elsewhere(folder.path(), &url);
    let api = Api::new(&second.base, TOKEN);
    assert_eq!(sending(&api), "waiting for leases");
    let event = json!({"type": "a.b", "data": 1}).to_string();
    assert_eq!(api.post("/events", &event).status, 202);
    assert_eq!(receiver.got().len(), 0);
    until("it sends", Duration::from_secs(20), || {
        count(&database, "delivered") == 1
    });
    assert_eq!(sending(&api), "ready");
    assert_eq!(shards_of(&database, "same"), 64);
}

#[test]
fn a_node_with_the_name_of_a_live_one_stops_and_says_why() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let url = cluster.text(&database);
    let first = node_elsewhere(folder.path(), &url);
    let second = node_elsewhere(folder.path(), &url);
    let log = second.logs("another name (--node-name)");
    assert!(!second.ended().success(), "{log}");
    let api = Api::new(&first.base, TOKEN);
    assert_eq!(sending(&api), "ready");
    assert_eq!(
        shards_of(&database, "same"),
        64,
        "nothing was taken from it"
    );
}
