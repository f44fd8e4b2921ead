//! Several nodes over one Postgres: real processes, killed, stopped and cut off.

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postrider::config::DatabaseUrl;
use postrider::domain::ids::EndpointId;
use postrider::domain::lease::Shard;
use serde_json::json;

use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::proxy::Proxy;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, serve};
use crate::support::until;

pub const TOKEN: &str = "a-token-for-this-test-alone";

/// A tenth of the defaults, and a little more.
pub const TTL: Duration = Duration::from_secs(4);
pub const LEASE: [&str; 6] = [
    "--lease-ttl",
    "4s",
    "--lease-renewal",
    "1300ms",
    "--lease-margin",
    "400ms",
];

/// One node. Its requests carry a header of its own, so that the receiver knows whose they are.
pub fn node(folder: &std::path::Path, name: &str, url: &str) -> Server {
    Server::spawn(folder, node_command(folder, name, url))
}

pub fn node_command(folder: &std::path::Path, name: &str, url: &str) -> Command {
    let header = format!("X-From-{name}");
    let mut arguments = vec![
        "--allow-network",
        "127.0.0.0/8",
        "--node-name",
        name,
        "--event-id-header",
        &header,
    ];
    arguments.extend(LEASE);
    let mut command = serve(folder, &arguments);
    command
        .env("POSTRIDER_DATABASE_URL", url)
        .env("POSTRIDER_API_TOKEN", TOKEN);
    command
}

pub fn shards_of(database: &DatabaseUrl, name: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) AS n FROM webhook_shards JOIN webhook_nodes ON instance = holder WHERE name = '{name}'"
    );
    database::number(database, &sql)
}

/// Waits until each of the nodes has its share.
pub fn until_fair(database: &DatabaseUrl, names: &[&str]) {
    until("each node has its share", Duration::from_secs(30), || {
        let counts: Vec<i64> = names.iter().map(|name| shards_of(database, name)).collect();
        counts.iter().sum::<i64>() == 64
            && counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1
    });
}

pub fn count(database: &DatabaseUrl, status: &str) -> i64 {
    database::number(
        database,
        &format!("SELECT count(*) AS n FROM webhook_deliveries WHERE status = '{status}'"),
    )
}

/// A metric of a node that answers.
pub fn metric(api: &Api, name: &str) -> f64 {
    let bearer = format!("Bearer {TOKEN}");
    let answer = api
        .try_request("GET", "/metrics", &[("authorization", &bearer)], None)
        .unwrap();
    let text = answer.body.as_str().unwrap().to_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

const ENDPOINTS: usize = 50;
const LIMITED: usize = 10;
/// What one publisher sends to these arrives in its order.
const ORDERED: std::ops::Range<usize> = 5..20;

/// Three nodes, fifty endpoints, and publishers on each node while `fault` happens to the first
/// node. Returns how many stale outcomes were counted.
fn campaign(fault: impl FnOnce(&mut Option<Server>, &Proxy, &DatabaseUrl)) -> Option<f64> {
    let cluster = Cluster::own()?;
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let proxy = Proxy::to(cluster.port());
    let direct = cluster.text(&database);
    let proxied = direct.replace(&cluster.port().to_string(), &proxy.port().to_string());
    let mut victim = Some(node(folder.path(), "a", &proxied));
    let others = [
        node(folder.path(), "b", &direct),
        node(folder.path(), "c", &direct),
    ];
    until_fair(&database, &["a", "b", "c"]);

    let bases: Vec<String> = victim
        .iter()
        .chain(&others)
        .map(|server| server.base.clone())
        .collect();
    let api = Api::new(&bases[1], TOKEN);
    let endpoints: Vec<String> = (0..ENDPOINTS)
        .map(|n| {
            // A few are limited by rate, all by what is in flight.
            let rate = if n < LIMITED { "10/min" } else { "unlimited" };
            let ordering = if ORDERED.contains(&n) { "key" } else { "none" };
            let settings = json!({"rate_limit": rate, "concurrency": 2, "event_types": [format!("to.{n}")],
                                  "ordering": ordering});
            api.endpoint(&receiver.url(&format!("/slow/{n}/60")), &settings.to_string())
        })
        .collect();

    // Publishers, one a node; what one node does not take is given to the next.
    let (accepted, stop) = (
        Arc::new(Mutex::new(HashSet::new())),
        Arc::new(AtomicBool::new(false)),
    );
    let publishers: Vec<_> = (0..3)
        .map(|publisher| {
            let (accepted, stop, bases) = (Arc::clone(&accepted), Arc::clone(&stop), bases.clone());
            std::thread::spawn(move || {
                let apis: Vec<Api> = bases.iter().map(|base| Api::new(base, TOKEN)).collect();
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let to: usize = (sent * 3 + publisher) % ENDPOINTS;
                    let id = format!("e-{publisher}-{sent}");
                    let key = format!("publisher {publisher}");
                    let body =
                        json!({"type": format!("to.{to}"), "data": sent, "id": id, "ordering_key": key});
                    let body = body.to_string();
                    let taken = (0..3).any(|next| {
                        let answer = apis[(publisher + next) % 3].try_post("/events", &body);
                        matches!(answer, Ok(answer) if answer.status == 202 || answer.status == 200)
                    });
                    if taken {
                        accepted.lock().unwrap().insert((id, to));
                    }
                    sent += 1;
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            })
        })
        .collect();
    std::thread::park_timeout(Duration::from_secs(2));

    fault(&mut victim, &proxy, &database);

    std::thread::park_timeout(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    publishers
        .into_iter()
        .for_each(|publisher| publisher.join().unwrap());
    let accepted: HashSet<(String, usize)> = accepted.lock().unwrap().clone();

    // The limits, as the receiver saw them.
    for n in 0..LIMITED {
        let starts: Vec<Instant> = receiver
            .at(&format!("/slow/{n}/60"))
            .iter()
            .map(|got| got.at)
            .collect();
        for window in starts.windows(11) {
            let apart = window[10] - window[0];
            assert!(
                apart >= Duration::from_millis(59_900),
                "11 requests to /{n} within {apart:?}"
            );
        }
    }
    // What waits for its rate need not wait here.
    for endpoint in &endpoints[..LIMITED] {
        assert_eq!(
            api.patch(
                &format!("/endpoints/{endpoint}"),
                r#"{"rate_limit":"unlimited"}"#
            )
            .status,
            200
        );
    }
    until("all is delivered", Duration::from_secs(60), || {
        count(&database, "pending") + count(&database, "sending") == 0
    });
    assert_eq!(count(&database, "failed"), 0);

    let got = receiver.got().clone();
    let arrived: HashSet<(String, usize)> = got
        .iter()
        .map(|one| {
            (
                one.id.clone(),
                one.path.split('/').nth(2).unwrap().parse().unwrap(),
            )
        })
        .collect();
    let lost: Vec<_> = accepted.difference(&arrived).collect();
    assert!(lost.is_empty(), "accepted, and never sent: {lost:?}");

    // Each request has its row, and each delivery one outcome.
    let rows = format!(
        "SELECT {} || ' ' || count(*) AS w FROM webhook_attempts a JOIN webhook_events e \
         ON e.seq = a.event_seq GROUP BY e.id",
        database::POSTGRES_EVENT_ID
    );
    let rows: HashMap<String, usize> = database::words(&database, &rows)
        .iter()
        .filter_map(|line| line.split_once(' '))
        .map(|(id, count)| (id.to_owned(), count.parse().unwrap()))
        .collect();
    let mut sent: HashMap<&str, usize> = HashMap::new();
    got.iter()
        .for_each(|one| *sent.entry(&one.id).or_default() += 1);
    for (id, count) in &sent {
        assert!(
            *count <= rows.get(*id).copied().unwrap_or(0),
            "{id} was sent {count} times"
        );
    }
    let twice = "SELECT count(*) AS n FROM (SELECT event_seq FROM webhook_attempts \
                 WHERE outcome = 'delivered' GROUP BY event_seq, endpoint HAVING count(*) > 1) AS twice";
    assert_eq!(
        database::number(&database, twice),
        0,
        "a stale outcome was accepted"
    );

    // No two owners at once: a request takes 60 ms, and nobody else's begins in it.
    let mut by_path: HashMap<&str, Vec<(Instant, &str)>> = HashMap::new();
    for one in &got {
        let from = one
            .headers
            .iter()
            .find_map(|(name, _)| name.strip_prefix("x-from-"))
            .unwrap();
        by_path.entry(&one.path).or_default().push((one.at, from));
    }
    for (path, requests) in &by_path {
        for pair in requests.windows(2) {
            let apart = pair[1].0 - pair[0].0;
            assert!(
                pair[0].1 == pair[1].1 || apart >= Duration::from_millis(60),
                "{path}: {} and {} at once, {apart:?} apart",
                pair[0].1,
                pair[1].1
            );
        }
    }
    // Each key in its order: nothing of an event comes after anything of a later one.
    let mut by_key: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for one in &got {
        let number: usize = one.path.split('/').nth(2).unwrap().parse().unwrap();
        if ORDERED.contains(&number) {
            let (key, place) = one.id.rsplit_once('-').unwrap();
            by_key
                .entry((&one.path, key))
                .or_default()
                .push(place.parse().unwrap());
        }
    }
    assert!(
        by_key.values().map(Vec::len).sum::<usize>() > 50,
        "{} keys",
        by_key.len()
    );
    for ((path, key), places) in &by_key {
        assert!(places.is_sorted(), "{key} at {path}: {places:?}");
    }
    assert!(
        receiver.most_at_once() <= 2,
        "{} in flight at one endpoint",
        receiver.most_at_once()
    );
    let nodes = victim.iter().chain(&others);
    let stale = nodes
        .map(|node| {
            metric(
                &Api::new(&node.base, TOKEN),
                "postrider_stale_outcomes_total",
            )
        })
        .sum();
    let interrupted = "SELECT count(*) AS n FROM webhook_attempts WHERE outcome = 'interrupted'";
    eprintln!(
        "{} events, {} requests, {} interrupted, {stale} stale outcomes dropped",
        accepted.len(),
        got.len(),
        database::number(&database, interrupted),
    );
    Some(stale)
}

/// Waits until the node's shards are others', and says how long it took.
fn until_taken_over(database: &DatabaseUrl, since: Instant) {
    until(
        "its shards are taken over",
        TTL + Duration::from_secs(5),
        || shards_of(database, "a") == 0,
    );
    eprintln!("taken over after {:?}", since.elapsed());
}

#[test]
fn a_node_that_is_killed_loses_nothing() {
    campaign(|victim, _, database| {
        let killed = Instant::now();
        victim.take().unwrap().kill();
        until_taken_over(database, killed);
    });
}

#[test]
fn a_node_that_stands_still_and_goes_on_sends_nothing_stale() {
    campaign(|victim, _, database| {
        let pid = victim.as_ref().unwrap().pid().to_string();
        let signal = |name: &str| {
            assert!(
                Command::new("kill")
                    .args([name, &pid])
                    .status()
                    .unwrap()
                    .success()
            )
        };
        let stopped = Instant::now();
        signal("-STOP");
        until_taken_over(database, stopped);
        std::thread::park_timeout((TTL * 2).saturating_sub(stopped.elapsed()));
        signal("-CONT");
        until_fair(database, &["a", "b", "c"]);
    });
}

#[test]
fn a_node_that_is_cut_off_from_the_database_stops_and_comes_back() {
    campaign(|_, proxy, database| {
        // First as by a pulled cable, then as by a server that refuses.
        let cut = Instant::now();
        proxy.silence(true);
        until_taken_over(database, cut);
        std::thread::park_timeout((TTL * 2).saturating_sub(cut.elapsed()));
        proxy.cut(true);
        std::thread::park_timeout(Duration::from_secs(1));
        proxy.silence(false);
        proxy.cut(false);
        until_fair(database, &["a", "b", "c"]);
    });
}

/// An endpoint that the node of that name sends to.
pub fn endpoint_of(database: &DatabaseUrl, api: &Api, name: &str, url: &str) -> String {
    let settings = r#"{"rate_limit":"unlimited","event_types":["to.it"]}"#;
    endpoint_with(database, api, name, url, settings)
}

pub fn endpoint_with(
    database: &DatabaseUrl,
    api: &Api,
    name: &str,
    url: &str,
    settings: &str,
) -> String {
    let sql = format!(
        "SELECT shard::text AS w FROM webhook_shards JOIN webhook_nodes ON instance = holder WHERE name = '{name}'"
    );
    let shards: HashSet<String> = database::words(database, &sql).into_iter().collect();
    loop {
        let id = api.endpoint(url, settings);
        if shards.contains(
            &Shard::of(&EndpointId::from_text(id.as_str()))
                .number()
                .to_string(),
        ) {
            return id;
        }
        assert_eq!(api.delete(&format!("/endpoints/{id}")).status, 204);
    }
}

/// Two nodes, of which the first reaches its database through a proxy.
struct Pair {
    _cluster: Cluster,
    _folder: tempfile::TempDir,
    database: DatabaseUrl,
    proxy: Proxy,
    first: Server,
    _second: Server,
    receiver: Receiver,
}

impl Pair {
    fn start() -> Option<Self> {
        let cluster = Cluster::own()?;
        let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
        let database = cluster.database();
        let proxy = Proxy::to(cluster.port());
        let direct = cluster.text(&database);
        let proxied = direct.replace(&cluster.port().to_string(), &proxy.port().to_string());
        let first = node(folder.path(), "a", &proxied);
        let second = node(folder.path(), "b", &direct);
        until_fair(&database, &["a", "b"]);
        let (_cluster, _folder, _second) = (cluster, folder, second);
        Some(Self {
            _cluster,
            _folder,
            database,
            proxy,
            first,
            _second,
            receiver,
        })
    }

    fn api(&self, server: &Server) -> Api {
        Api::new(&server.base, TOKEN)
    }
}

/// What no statement in a claim's transaction but the claim's own holds.
const CLAIM: &str = "FOR SHARE";

/// The race of the takeover: a claim that began under a lease commits after that has run out.
#[test]
fn a_claim_that_commits_after_its_lease_has_run_out_is_not_stuck() {
    let Some(pair) = Pair::start() else { return };
    let api = pair.api(&pair._second);
    endpoint_of(&pair.database, &api, "a", &pair.receiver.url("/ok"));
    pair.proxy.hold_commits_of(CLAIM);
    assert_eq!(
        api.post("/events", r#"{"type":"to.it","data":1,"id":"e1"}"#)
            .status,
        202
    );
    until(
        "the claim is about to be committed",
        Duration::from_secs(10),
        || pair.proxy.held() > 0,
    );
    // Its renewals do not get through either, so that the lease runs out with the claim still open;
    // the server would give up on the open transaction after five seconds.
    let renewals = Instant::now();
    pair.proxy.silence(true);
    until(
        "the lease has run out",
        TTL + Duration::from_secs(1),
        || {
            let sql = "SELECT count(*) AS n FROM webhook_shards JOIN webhook_nodes ON instance = holder \
                   WHERE name = 'a' AND webhook_shards.expires_at > extract(epoch FROM clock_timestamp()) * 1000000";
            database::number(&pair.database, sql) == 0
        },
    );
    assert!(
        renewals.elapsed() < Duration::from_millis(4800),
        "{:?}",
        renewals.elapsed()
    );
    pair.proxy.let_commits_go();
    until(
        "the other node delivers it",
        Duration::from_secs(10),
        || count(&pair.database, "delivered") == 1,
    );
    pair.proxy.silence(false);
    std::thread::park_timeout(Duration::from_secs(2));
    let from: Vec<String> = pair
        .receiver
        .got()
        .iter()
        .filter_map(|got| {
            got.headers
                .iter()
                .find_map(|(name, _)| name.strip_prefix("x-from-").map(str::to_owned))
        })
        .collect();
    assert_eq!(
        from,
        ["b"],
        "and the first one, whose claim it was, sends nothing"
    );
    let interrupted = "SELECT count(*) AS n FROM webhook_attempts WHERE outcome = 'interrupted'";
    assert_eq!(
        database::number(&pair.database, interrupted),
        1,
        "the claim had been committed"
    );
}

/// Commits arrive and their answers do not: of what was published, of claims, of outcomes.
#[test]
fn a_commit_whose_answer_is_lost_loses_and_doubles_nothing() {
    let Some(pair) = Pair::start() else { return };
    let api = pair.api(&pair.first);
    endpoint_of(&pair.database, &api, "a", &pair.receiver.url("/slow/300"));
    let publish = |id: &str| {
        let body = json!({"type": "to.it", "data": 1, "id": id}).to_string();
        let mut refused = 0;
        loop {
            match api.post("/events", &body).status {
                202 | 200 => return refused,
                503 => refused += 1,
                other => panic!("{other}"),
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    };
    let delivered = |count_of: i64| {
        until("it is delivered", Duration::from_secs(20), || {
            count(&pair.database, "delivered") == count_of
        });
    };
    // Of a publication: the caller is told that it may have been done, and asks again.
    pair.proxy.lose_answers_of("INSERT INTO webhook_events", 1);
    assert_eq!(publish("published"), 1);
    delivered(1);
    // Of a claim: nobody knows of it, and the poll takes it back.
    pair.proxy.lose_answers_of(CLAIM, 1);
    publish("claimed");
    delivered(2);
    assert_eq!(pair.proxy.to_lose(), 0);
    // Of an outcome: it is written again, finds itself written, and nothing is sent twice.
    publish("recorded");
    until("it is in flight", Duration::from_secs(10), || {
        pair.receiver.got().len() == 3
    });
    pair.proxy.lose_answers_of("left_as", 1);
    delivered(3);
    until("it was lost", Duration::from_secs(10), || {
        pair.proxy.to_lose() == 0
    });
    let started = Instant::now();
    while metric(&api, "postrider_stale_outcomes_total") != 1.0 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "not told again:
{}",
            pair.first.log()
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(pair.receiver.got().len(), 3, "each was sent once");
    let rows = "SELECT count(*) AS n FROM webhook_attempts";
    assert_eq!(database::number(&pair.database, rows), 3);
}
