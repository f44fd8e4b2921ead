//! What nodes that share a database know of each other: who there is, what time it is, what is due.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postrider::config::DatabaseUrl;
use postrider::domain::clock::{Clock, Timestamp};
use postrider::ports::SystemClock;
use serde_json::json;

use super::cluster::{
    TOKEN, TTL, count, endpoint_of, endpoint_with, node, node_command, shards_of, until_fair,
};
use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::raw::{OK, listen};
use crate::support::receiver::{Got, Receiver};
use crate::support::server::{Server, command, serve};
use crate::support::until;

/// A node that stops hands its endpoints over at once, and one that starts gets its share.
#[test]
fn nodes_come_and_go() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let url = cluster.text(&database);
    let first = node(folder.path(), "a", &url);
    let api = Api::new(&first.base, TOKEN);
    until(
        "one node alone sends for all",
        Duration::from_secs(5),
        || shards_of(&database, "a") == 64,
    );
    let second = node(folder.path(), "b", &url);
    until_fair(&database, &["a", "b"]);
    let listed = api.get("/nodes").body;
    assert_eq!(listed["data"][0]["name"], "a", "{listed}");
    assert_eq!(
        (&listed["data"][1]["shards"], &listed["data"][1]["alive"]),
        (&json!(32), &json!(true))
    );
    let mut nodes = command(folder.path(), &["nodes", "--server", &first.base]);
    let output = nodes.env("POSTRIDER_API_TOKEN", TOKEN).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("b ") && text.contains("32"),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );

    // What is in flight when a node stops is waited for, and nothing is sent twice.
    let slow = endpoint_of(&database, &api, "b", &receiver.url("/slow/700"));
    assert_eq!(
        api.post("/events", r#"{"type":"to.it","data":1}"#).status,
        202
    );
    until("it is in flight", Duration::from_secs(10), || {
        receiver.got().len() == 1
    });
    let stopped = Instant::now();
    let (status, log) = second.terminate();
    assert!(status.success(), "{log}");
    until("the other one has all", Duration::from_secs(3), || {
        shards_of(&database, "a") == 64
    });
    assert!(
        stopped.elapsed() < TTL,
        "no lease had to run out: {:?}",
        stopped.elapsed()
    );
    assert_eq!(
        (count(&database, "delivered"), receiver.got().len()),
        (1, 1)
    );
    assert_eq!(api.post(&format!("/endpoints/{slow}/test"), "").status, 202);
    until("the other one sends", Duration::from_secs(5), || {
        count(&database, "delivered") == 2
    });
    assert_eq!(
        api.get("/nodes").body["data"].as_array().unwrap().len(),
        1,
        "who left is no more"
    );

    // Impossible settings.
    let mut wrong = serve(folder.path(), &["--lease-ttl", "7s"]);
    let output = wrong
        .env("POSTRIDER_DATABASE_URL", &url)
        .env("POSTRIDER_API_TOKEN", TOKEN)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("lease_ttl"),
        "{text}"
    );
}

/// Whether a program is there; where not, that is loud, and a failure under CI.
fn is_there(program: &str, package: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is needed (package {package})"
    );
    if !found {
        eprintln!("SKIPPED: {program} is not installed (package {package})");
    }
    found
}

fn seconds_of_day() -> i64 {
    SystemClock::new().now().as_seconds()
}

/// A node whose own clock is an hour ahead.
fn node_from_the_future(folder: &Path, name: &str, url: &str) -> Server {
    // What faketime tells its children; itself it would stand between us and the node.
    let told = Command::new("faketime")
        .args(["--exclude-monotonic", "-f", "+1h", "env"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let told = told.lines().filter_map(|line| line.split_once('='));
    let mut command = node_command(folder, name, url);
    let own =
        |name: &str| name == "LD_PRELOAD" || (name.contains("FAKE") && name != "FAKETIME_SHARED");
    command.envs(told.filter(|(name, _)| own(name)));
    let server = Server::spawn(folder, command);
    let log = server.log();
    let logged: Timestamp = log.split_whitespace().next().unwrap().parse().unwrap();
    assert!(
        (3500..3700).contains(&(logged.as_seconds() - seconds_of_day())),
        "it is an hour ahead: {log}"
    );
    server
}

#[test]
fn a_clock_that_is_an_hour_wrong_changes_nothing() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    if !is_there("faketime", "faketime") {
        return;
    }
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let url = cluster.text(&database);
    let right = node(folder.path(), "right", &url);
    let wrong = node_from_the_future(folder.path(), "wrong", &url);
    until_fair(&database, &["right", "wrong"]);
    let api = Api::new(&wrong.base, TOKEN);
    let is_now = |what: &str, micros: i64| {
        let apart = (micros / 1_000_000 - seconds_of_day()).abs();
        assert!(apart < 30, "{what} is {apart} s away from now");
    };
    let settings = r#"{"rate_limit":"10/min","retry_delays_s":[2,2],"event_types":["to.it"]}"#;
    let endpoint = endpoint_with(&database, &api, "wrong", &receiver.url("/flaky"), settings);
    let publish = |ids: std::ops::Range<i32>| {
        for n in ids {
            let event = json!({"type": "to.it", "data": n, "id": format!("e{n}")}).to_string();
            assert_eq!(api.post("/events", &event).status, 202);
        }
    };
    publish(0..6);
    until(
        "all is delivered, some at the second try",
        Duration::from_secs(20),
        || count(&database, "delivered") == 6,
    );
    publish(6..12);
    until("its rate limit is used up", Duration::from_secs(20), || {
        receiver.got().len() == 10
    });
    for got in receiver.got().iter() {
        is_now(
            "a signed time",
            got.header("webhook-timestamp")
                .unwrap()
                .parse::<i64>()
                .unwrap()
                * 1_000_000,
        );
        assert!(got.header("x-from-wrong").is_some());
    }
    let micros = |sql: &str| database::number(&database, sql);
    is_now(
        "an event's time",
        micros("SELECT max(created_at) AS n FROM webhook_events"),
    );
    is_now(
        "an attempt's start",
        micros("SELECT max(started_at) AS n FROM webhook_attempts"),
    );
    is_now(
        "a node's start",
        micros("SELECT max(started_at) AS n FROM webhook_nodes"),
    );
    is_now(
        "what is due",
        micros("SELECT max(due_at) AS n FROM webhook_deliveries"),
    );
    // A retry waits for its delay, no longer and no shorter: /flaky refuses each third.
    let mut by_id: Vec<Got> = receiver.got().clone();
    by_id.sort_by(|one, other| one.id.cmp(&other.id));
    let retries: Vec<Duration> = by_id
        .windows(2)
        .filter(|pair| pair[0].id == pair[1].id)
        .map(|pair| pair[1].at - pair[0].at)
        .collect();
    assert!(!retries.is_empty());
    assert!(
        retries
            .iter()
            .all(|delay| (2000..5000).contains(&delay.as_millis())),
        "{retries:?}"
    );
    // The other one takes over, and knows what was sent by whose clock.
    wrong.kill();
    until("it is taken over", TTL + Duration::from_secs(5), || {
        shards_of(&database, "right") == 64
    });
    let api = Api::new(&right.base, TOKEN);
    let health = api.get(&format!("/endpoints/{endpoint}")).body;
    assert!(
        !health["health"]["next_slot_at"].is_null(),
        "the window is remembered: {health}"
    );
    std::thread::park_timeout(Duration::from_secs(3));
    assert_eq!(receiver.got().len(), 10, "ten a minute");
    let none = "SELECT count(*) AS n FROM webhook_attempts WHERE outcome = 'interrupted'";
    assert_eq!(database::number(&database, none), 0);
}

/// PgBouncer in transaction mode before a cluster, for as long as it lives.
struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    fn start(database: &DatabaseUrl, cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let name = cluster
            .text(database)
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned();
        // Few sessions for many clients: hardly two transactions in a row have the same one.
        let settings = format!(
            "[databases]\n{name} = host=127.0.0.1 port={} dbname={name} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n\
             pool_mode = transaction\ndefault_pool_size = 3\nserver_reset_query_always = 1\n\
             server_reset_query = DISCARD ALL\n",
            cluster.port()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        Command::new("chmod")
            .args(["-R", "a+rX", folder.path().to_str().unwrap()])
            .status()
            .unwrap();
        let mut command = crate::support::postgres::as_user(Path::new("pgbouncer"));
        let child = command
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the pooler listens", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            child,
            port,
            _folder: folder,
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long it takes from a publication on one node to the first byte at a receiver of the other's.
fn latencies(api: &Api, receiver: &Receiver, rounds: usize) -> (Duration, Duration) {
    let mut all: Vec<Duration> = (0..rounds)
        .map(|n| {
            let id = format!("latency-{n}");
            let event = json!({"type": "to.it", "data": n, "id": id}).to_string();
            let asked = Instant::now();
            assert_eq!(api.post("/events", &event).status, 202);
            let mut arrived = None;
            until("it arrives", Duration::from_secs(5), || {
                arrived = receiver
                    .got()
                    .iter()
                    .find(|got| got.id == id)
                    .map(|got| got.at);
                arrived.is_some()
            });
            arrived.unwrap() - asked
        })
        .collect();
    all.sort_unstable();
    (all[rounds / 2], all[rounds * 99 / 100])
}

#[test]
fn a_pooler_in_transaction_mode_costs_the_latency_of_the_poll_and_nothing_else() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    if !is_there("pgbouncer", "pgbouncer") {
        return;
    }
    for (pooled, rounds) in [(false, 50), (true, 10)] {
        let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
        let database = cluster.database();
        let direct = cluster.text(&database);
        let pooler = pooled.then(|| Pooler::start(&database, cluster));
        let url = match &pooler {
            Some(pooler) => {
                let url = direct.replace(&cluster.port().to_string(), &pooler.port.to_string());
                format!("{url}?pooler=transaction")
            }
            None => direct,
        };
        let (a, b) = (
            node(folder.path(), "a", &url),
            node(folder.path(), "b", &url),
        );
        until_fair(&database, &["a", "b"]);
        let api = Api::new(&a.base, TOKEN);
        let endpoint = endpoint_of(&database, &api, "b", &receiver.url("/ok"));
        let (median, p99) = latencies(&api, &receiver, rounds);
        eprintln!(
            "from one node to the other's receiver, pooled = {pooled}: median {median:?}, p99 {p99:?}"
        );
        // A poll is a second; a hint takes milliseconds.
        assert!(p99 < Duration::from_secs(3), "{p99:?}");
        until("all is delivered", Duration::from_secs(5), || {
            count(&database, "delivered") == rounds as i64
        });
        // Everything else of the API goes the same way.
        assert_eq!(
            api.post(&format!("/endpoints/{endpoint}/pause"), "").status,
            200
        );
        assert_eq!(
            api.post("/events", r#"{"type":"to.it","data":1,"id":"paused"}"#)
                .status,
            202
        );
        std::thread::park_timeout(Duration::from_millis(1500));
        assert_eq!(
            receiver
                .got()
                .iter()
                .filter(|got| got.id == "paused")
                .count(),
            0
        );
        assert_eq!(
            api.post(&format!("/endpoints/{endpoint}/resume"), "")
                .status,
            200
        );
        until("it is delivered", Duration::from_secs(5), || {
            count(&database, "delivered") == rounds as i64 + 1
        });
        for list in ["/events", "/deliveries", "/endpoints", "/nodes", "/tokens"] {
            assert_eq!(api.get(list).status, 200, "{list}");
        }
        drop(b);
        until("it is taken over", TTL + Duration::from_secs(5), || {
            shards_of(&database, "a") == 64
        });
        let (status, log) = a.terminate();
        assert!(
            status.success() && !log.contains("prepared statement"),
            "{log}"
        );
    }
}

/// A resume through a node that does not own the endpoint left the owner's hold in place for up to
/// a day.
#[test]
fn what_is_changed_through_any_node_reaches_the_owner_and_a_token_is_everywhere_at_once() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = cluster.database();
    let url = cluster.text(&database);
    let rests = Arc::new(AtomicBool::new(true));
    let (asks, arrived) = (Arc::clone(&rests), Arc::new(AtomicUsize::new(0)));
    let note = Arc::clone(&arrived);
    let address = listen(move |mut connection, _| {
        while connection.request().is_some() {
            let rest = asks.load(Ordering::SeqCst);
            note.fetch_add(usize::from(!rest), Ordering::SeqCst);
            let busy = "HTTP/1.1 503 Busy\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n";
            connection.send(if rest { busy } else { OK });
        }
    });
    let first = node(folder.path(), "a", &url);
    let second = node(folder.path(), "b", &url);
    until_fair(&database, &["a", "b"]);
    let api = Api::new(&first.base, TOKEN);
    let settings = r#"{"rate_limit": "unlimited", "breaker_after": 1}"#;
    let endpoints: Vec<String> = (0..8)
        .map(|n| api.endpoint(&format!("http://{address}/{n}"), settings))
        .collect();
    let publish = || {
        assert_eq!(
            api.post("/events", r#"{"type": "a.b", "data": 1}"#).status,
            202
        )
    };
    let health = |id: &str| api.get(&format!("/endpoints/{id}")).body["health"].clone();
    publish();
    until("all rest", Duration::from_secs(20), || {
        endpoints
            .iter()
            .all(|id| !health(id)["hold_until"].is_null())
    });
    publish();
    rests.store(false, Ordering::SeqCst);
    for id in &endpoints {
        assert_eq!(api.post(&format!("/endpoints/{id}/resume"), "").status, 200);
    }
    until(
        "what waited is sent by whoever owns it",
        Duration::from_secs(20),
        || arrived.load(Ordering::SeqCst) >= endpoints.len(),
    );
    assert!(
        endpoints
            .iter()
            .all(|id| health(id)["hold_until"].is_null()),
        "and it is shown"
    );

    // A token: at once on every node, also for a session; revoked within a second.
    let other = |token: &str| Api::new(&second.base, token);
    for _ in 0..5 {
        let made = api.post("/tokens", r#"{"name": "t", "scope": "publish"}"#);
        let answer = other(&made.text("token")).post("/events", r#"{"type": "x.y", "data": 1}"#);
        assert_eq!(answer.status, 202, "{}", answer.body);
        let made = api.post("/tokens", r#"{"name": "t", "scope": "read"}"#);
        let session = json!({"token": made.text("token")}).to_string();
        let headers = [("content-type", "application/json")];
        let opened = other("")
            .try_request("POST", "/api/v1/session", &headers, Some(session))
            .unwrap();
        assert_eq!(opened.status, 201, "{}", opened.body);
        api.delete(&format!("/tokens/{}", made.text("id")));
        let revoked = other(&made.text("token"));
        until("it is refused everywhere", Duration::from_secs(5), || {
            revoked.get("/events").status == 401
        });
    }
}
