//! A node hands its shards over while attempts are in flight: its neighbours send at once, and what
//! was on the wire is finished, counted and kept in order.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postrider::config::DatabaseUrl;
use postrider::domain::ids::EndpointId;
use postrider::domain::lease::Shard;
use serde_json::{Value, json};

use super::cluster::{TOKEN, count, endpoint_with, node, node_command, shards_of, until_fair};
use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

/// A shard of node `a` with a slow endpoint, which is ordered and gets one at a time, and a quick
/// one.
struct Scene {
    _cluster: &'static Cluster,
    folder: tempfile::TempDir,
    database: DatabaseUrl,
    receiver: Receiver,
    url: String,
    api: Api,
    slow: String,
}

/// Requests to the slow endpoint take this long.
const SLOW: &str = "/slow/3000";

impl Scene {
    /// Starts `b` and then `a`, each with its failpoints.
    fn start(on_a: &str, on_b: &str) -> Option<(Self, Server, Server)> {
        let cluster = Cluster::shared()?;
        let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
        let database = cluster.database();
        let url = cluster.text(&database);
        let b = with_failpoints(folder.path(), "b", &url, on_b);
        let a = with_failpoints(folder.path(), "a", &url, on_a);
        until_fair(&database, &["a", "b"]);
        let api = Api::new(&b.base, TOKEN);
        let settings = json!({"rate_limit": "unlimited", "concurrency": 1, "ordering": "key",
                              "event_types": ["to.slow"], "retry_delays_s": [1, 1, 1]});
        let at = receiver.url(SLOW);
        let slow = endpoint_with(&database, &api, "a", &at, &settings.to_string());
        let shard = Shard::of(&EndpointId::from_text(slow.as_str()));
        let quick = json!({"rate_limit": "unlimited", "event_types": ["to.quick"]}).to_string();
        loop {
            let id = api.endpoint(&receiver.url("/ok"), &quick);
            if Shard::of(&EndpointId::from_text(id.as_str())) == shard {
                break;
            }
            assert_eq!(api.delete(&format!("/endpoints/{id}")).status, 204);
        }
        let scene = Self {
            _cluster: cluster,
            folder,
            database,
            receiver,
            url,
            api,
            slow,
        };
        Some((scene, a, b))
    }

    fn publish(&self, api: &Api, to: &str, id: &str) {
        let event = json!({"type": to, "data": 1, "id": id, "ordering_key": "k"});
        assert_eq!(api.post("/events", &event.to_string()).status, 202);
    }

    /// Publishes three events to the slow endpoint, and waits until the first is on the wire.
    fn send_slowly(&self) {
        for id in ["s1", "s2", "s3"] {
            self.publish(&self.api, "to.slow", id);
        }
        until("the first is on the wire", Duration::from_secs(10), || {
            !self.receiver.at(SLOW).is_empty()
        });
    }

    fn tails(&self) -> i64 {
        let sql = "SELECT count(*) AS n FROM webhook_shards WHERE tail_instance IS NOT NULL";
        database::number(&self.database, sql)
    }

    fn until_delivered(&self, events: i64) {
        until("all is delivered", Duration::from_secs(45), || {
            count(&self.database, "delivered") == events
        });
    }

    /// Nothing is lost, sent beside itself, out of order or delivered twice.
    fn check(&self) {
        assert_eq!(self.receiver.most_at_once(), 1, "requests at once");
        let mut order: Vec<String> = self
            .receiver
            .at(SLOW)
            .into_iter()
            .map(|got| got.id)
            .collect();
        order.dedup();
        assert_eq!(order, ["s1", "s2", "s3"]);
        let twice = "SELECT count(*) AS n FROM (SELECT event_seq FROM webhook_attempts \
                     WHERE outcome = 'delivered' GROUP BY event_seq, endpoint HAVING count(*) > 1) AS twice";
        assert_eq!(database::number(&self.database, twice), 0);
        assert_eq!(self.tails(), 0);
    }

    fn interrupted(&self) -> i64 {
        let sql = "SELECT count(*) AS n FROM webhook_attempts WHERE outcome = 'interrupted'";
        database::number(&self.database, sql)
    }
}

fn with_failpoints(folder: &Path, name: &str, url: &str, failpoints: &str) -> Server {
    let mut command = node_command(folder, name, url);
    if !failpoints.is_empty() {
        command.env("FAILPOINTS", failpoints);
    }
    Server::spawn(folder, command)
}

fn ask_to_stop(server: &Server) {
    let pid = server.pid().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn neighbours_of_a_slow_attempt_are_sent_at_once_and_it_ends_in_peace() {
    let Some((scene, a, b)) = Scene::start("", "") else {
        return;
    };
    scene.send_slowly();
    ask_to_stop(&a);
    until("its shards are handed over", Duration::from_secs(2), || {
        shards_of(&scene.database, "b") == 64
    });
    assert_eq!(scene.tails(), 1);
    scene.publish(&scene.api, "to.quick", "q1");
    until("the neighbour has it", Duration::from_secs(2), || {
        count(&scene.database, "delivered") == 1
    });
    assert_eq!(count(&scene.database, "sending"), 1, "the slow one goes on");
    assert_eq!(scene.receiver.at(SLOW).len(), 1, "and nothing beside it");
    assert!(a.ended().success());
    scene.until_delivered(4);
    scene.check();
    assert_eq!(scene.interrupted(), 0);
    assert_eq!(scene.receiver.at(SLOW).len(), 3, "each once");
    drop(b);
}

/// Its failure counts for the endpoint as the new owner sees it.
#[test]
fn an_outcome_of_the_former_owner_reaches_the_health_of_the_endpoint() {
    let Some((scene, a, _b)) = Scene::start("", "") else {
        return;
    };
    // Times out in the hands of its former owner, and succeeds at the next one.
    let change = json!({"timeout_ms": 2000}).to_string();
    let path = format!("/endpoints/{}", scene.slow);
    assert_eq!(scene.api.patch(&path, &change).status, 200);
    scene.send_slowly();
    ask_to_stop(&a);
    until("its shards are handed over", Duration::from_secs(2), || {
        shards_of(&scene.database, "b") == 64
    });
    let failures = || scene.api.get(&path).body["health"]["consecutive_failures"].clone();
    assert_eq!(failures(), json!(0));
    until("the failure is counted", Duration::from_secs(5), || {
        failures() != json!(0)
    });
    let outcomes = "SELECT outcome AS w FROM webhook_attempts ORDER BY claim_no LIMIT 1";
    assert_eq!(database::words(&scene.database, outcomes), ["timeout"]);
    let change = json!({"timeout_ms": 9000}).to_string();
    assert_eq!(scene.api.patch(&path, &change).status, 200);
    scene.until_delivered(3);
    assert_eq!(failures(), json!(0));
    scene.check();
    assert!(a.ended().success());
}

/// The former owner dies before its attempt has an outcome.
#[test]
fn a_former_owner_that_is_killed_leaves_an_interruption() {
    let Some((scene, a, _b)) = Scene::start("", "") else {
        return;
    };
    scene.send_slowly();
    ask_to_stop(&a);
    until("its shards are handed over", Duration::from_secs(2), || {
        shards_of(&scene.database, "b") == 64
    });
    a.kill();
    scene.until_delivered(3);
    scene.check();
    assert_eq!(scene.interrupted(), 1);
    let counted = "SELECT count(*) AS n FROM webhook_deliveries WHERE retries_used > 0";
    assert_eq!(database::number(&scene.database, counted), 0);
}

/// A node that stops keeps a shard in which a former owner has an attempt in flight, and serves it.
#[test]
fn a_shard_with_a_tail_is_handed_over_once_that_has_ended() {
    let Some((scene, a, b)) = Scene::start("", "") else {
        return;
    };
    let c = node(scene.folder.path(), "c", &scene.url);
    until_fair(&scene.database, &["a", "b", "c"]);
    let of_slow = Shard::of(&EndpointId::from_text(scene.slow.as_str())).number();
    let holder = || {
        let sql = format!(
            "SELECT coalesce(name, '') AS w FROM webhook_shards JOIN webhook_nodes ON instance = holder WHERE shard = {of_slow}"
        );
        database::words(&scene.database, &sql).pop()
    };
    scene.send_slowly();
    let mut servers = vec![("a", a), ("b", b), ("c", c)];
    let owner = holder().unwrap();
    let index = servers.iter().position(|(name, _)| *name == owner).unwrap();
    let (_, first) = servers.remove(index);
    ask_to_stop(&first);
    until("another has it", Duration::from_secs(2), || {
        holder().is_some_and(|name| name != owner)
    });
    let next = holder().unwrap();
    let index = servers.iter().position(|(name, _)| *name == next).unwrap();
    let (_, second) = servers.remove(index);
    ask_to_stop(&second);
    let (last, third) = servers.pop().unwrap();
    until("the rest is handed over", Duration::from_secs(2), || {
        shards_of(&scene.database, last) == 63
    });
    assert_eq!(holder(), Some(next), "with its tail it waits");
    let api = Api::new(&third.base, TOKEN);
    scene.publish(&api, "to.quick", "q1");
    until("and is served", Duration::from_secs(2), || {
        !scene.receiver.at("/ok").is_empty()
    });
    assert_eq!(scene.tails(), 1);
    assert!(first.ended().success());
    assert!(second.ended().success());
    until("all is handed over", Duration::from_secs(5), || {
        shards_of(&scene.database, last) == 64
    });
    scene.until_delivered(4);
    scene.check();
    assert_eq!(scene.interrupted(), 0);
}

/// Each side dies at each step.
#[test]
fn a_handover_that_is_cut_off_at_any_step_loses_nothing() {
    for (on_a, on_b) in [
        ("before-handover", ""),
        ("after-handover", ""),
        ("recording-tail", ""),
        ("", "before-takeover"),
        ("", "after-takeover"),
        ("after-handover", "before-tail-end"),
    ] {
        let end = |name: &str| match name {
            "" => String::new(),
            name => format!("{name}=return"),
        };
        let Some((scene, a, b)) = Scene::start(&end(on_a), &end(on_b)) else {
            return;
        };
        eprintln!("a: {on_a}, b: {on_b}");
        scene.send_slowly();
        ask_to_stop(&a);
        let crashed = match on_b {
            "" => a,
            _ => b,
        };
        assert!(!crashed.ended().success(), "it stops at the step");
        let rescue = node(scene.folder.path(), "c", &scene.url);
        let api = Api::new(&rescue.base, TOKEN);
        scene.publish(&api, "to.quick", "q1");
        scene.until_delivered(4);
        until("the tail is gone", Duration::from_secs(15), || {
            scene.tails() == 0
        });
        scene.check();
        let ready: Value = api.try_request("GET", "/readyz", &[], None).unwrap().body;
        assert_eq!(ready["sending"], json!("ready"));
    }
}
