//! What is measured, on one database.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use postrider::Postrider;
use postrider::domain::event::{Content, EventType, NewEvent};
use serde_json::json;
use tempfile::TempDir;

use crate::database::{Database, write_history};
use crate::parts;
use crate::postgres::Cluster;
use crate::server::{Server, cpu_seconds, endpoint, event_type};
use crate::table::Table;
use crate::until;
use crate::wire::{Arrivals, Connection, WATCHED, flood, flooding_receiver, on_a_thread, receiver};

const CONNECTIONS: usize = 64;
const BATCH: u64 = 100;

/// The ten endpoints of those measures that are not about their number.
const TEN: usize = 10;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Of endpoints, for the measures of what flows.
    pub endpoints: &'static [usize],
    events: u64,
    waiting: u64,
    waiting_at: usize,
    known_endpoints: usize,
    latency_seconds: u64,
}

impl Sizes {
    pub const FULL: Self = Self {
        endpoints: &[1, 10, 100, 10_000],
        events: 100_000,
        waiting: 1_000_000,
        waiting_at: 10_000,
        known_endpoints: 100_000,
        latency_seconds: 20,
    };
    pub const QUICK: Self = Self {
        endpoints: &[10],
        events: 20_000,
        waiting: 20_000,
        waiting_at: 100,
        known_endpoints: 1_000,
        latency_seconds: 2,
    };
}

pub struct Bench<'a> {
    database: &'static str,
    cluster: Option<&'a Cluster>,
    sizes: Sizes,
    history: u64,
    bar: &'a ProgressBar,
    table: &'a mut Table,
    receiver: SocketAddr,
    arrivals: Arc<Arrivals>,
    filler: String,
}

/// A database that nobody else uses, and where its server runs.
struct Place {
    folder: TempDir,
    url: String,
}

impl<'a> Bench<'a> {
    pub fn new(
        cluster: Option<&'a Cluster>,
        sizes: Sizes,
        history: u64,
        bar: &'a ProgressBar,
        table: &'a mut Table,
    ) -> Self {
        let (receiver, arrivals) = receiver();
        let database = if cluster.is_some() {
            "postgres"
        } else {
            "sqlite"
        };
        Self {
            database,
            cluster,
            sizes,
            history,
            bar,
            table,
            receiver,
            arrivals,
            filler: "x".repeat(1000),
        }
    }

    fn place(&self) -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let url = match self.cluster {
            Some(cluster) => cluster.text(&cluster.database()),
            None => format!("sqlite:{}", folder.path().join("bench.db").display()),
        };
        Place { folder, url }
    }

    fn begin(&self, what: String, length: u64) {
        self.bar.set_message(format!("{}: {what}", self.database));
        self.bar.set_length(length);
        self.bar.set_position(0);
    }

    fn add(&mut self, measure: impl Into<String>, value: f64, unit: &'static str) {
        self.table.add(self.database, measure, value, unit);
    }

    fn wait_for(&self, count: u64) {
        let first = self.arrivals.count();
        self.bar.set_length(count - first.min(count));
        while self.arrivals.count() < count {
            self.bar.set_position(self.arrivals.count() - first);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A server with so many endpoints, each for events of its own type.
    async fn server_with(&self, place: &Place, endpoints: usize, more: &[String]) -> Server {
        let server = Server::start_with(place.folder.path(), &place.url, more);
        self.begin(format!("{endpoints} endpoints"), endpoints as u64);
        let receiver = self.receiver;
        let write = move |i: u64| Server::post("/endpoints", &endpoint(receiver, i as usize));
        flood(
            server.address,
            CONNECTIONS.min(endpoints),
            endpoints as u64,
            write,
            |at| self.bar.set_position(at),
        )
        .await;
        server
    }

    async fn publish_singly(&self, server: &Server, count: u64, endpoints: usize) -> f64 {
        let filler = self.filler.clone();
        let write = move |i: u64| {
            let event = json!({"type": event_type(i as usize % endpoints), "data": filler});
            Server::post("/events", &event.to_string())
        };
        flood(server.address, CONNECTIONS, count, write, |at| {
            self.bar.set_position(at)
        })
        .await
    }

    async fn publish_batches(&self, server: &Server, count: u64, endpoints: usize) -> f64 {
        let filler = self.filler.clone();
        let write = move |batch: u64| {
            let event = |i| json!({"type": event_type((batch * BATCH + i) as usize % endpoints), "data": filler});
            let events: Vec<_> = (0..BATCH).map(event).collect();
            Server::post("/events/batch", &json!({"events": events}).to_string())
        };
        flood(server.address, 4, count / BATCH, write, |at| {
            self.bar.set_position(at * BATCH)
        })
        .await
    }

    async fn on_each_endpoint(&self, server: &Server, action: &str) {
        let mut cursor = String::new();
        loop {
            let page = server
                .call("GET", &format!("/endpoints?limit=250{cursor}"), "")
                .await;
            let ids: Vec<String> = page["data"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|one| one["id"].as_str().expect("an id").to_owned())
                .collect();
            let (count, action) = (ids.len() as u64, action.to_owned());
            let write =
                move |i: u64| Server::post(&format!("/endpoints/{}/{action}", ids[i as usize]), "");
            flood(
                server.address,
                CONNECTIONS.min(count as usize),
                count,
                write,
                |_| {},
            )
            .await;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return,
            }
        }
    }

    /// Publishing, delivering while publishing, draining.
    pub async fn flow(&mut self, endpoints: usize, threads: Option<usize>) {
        let (count, place) = (self.sizes.events, self.place());
        let more: Vec<String> = threads
            .iter()
            .flat_map(|threads| ["--threads".to_owned(), threads.to_string()])
            .collect();
        let mut server = self.server_with(&place, endpoints, &more).await;
        if self.history > 0 {
            server.stop();
            self.begin(format!("a history of {}", self.history), 1);
            write_history(Database::open(&place.url), self.history);
            server = Server::start_with(place.folder.path(), &place.url, &more);
        }
        let mut of = if endpoints == 1 {
            "1 endpoint".into()
        } else {
            format!("{endpoints} endpoints")
        };
        if let Some(threads) = threads {
            of = format!("{of}, {threads} threads");
        }
        // One event to each, so that connections are open.
        let first = self.arrivals.count();
        self.publish_singly(&server, endpoints as u64, endpoints)
            .await;
        self.wait_for(first + endpoints as u64);

        self.begin(format!("{of}: one event a request"), count);
        let (first, cpu, started) = (self.arrivals.count(), server.cpu_seconds(), Instant::now());
        let (written, backends, wal) = (server.written(), self.cpu_of_backends(), self.wal(&place));
        let commits = server.commits().await;
        self.publish_singly(&server, count, endpoints).await;
        self.wait_for(first + count);
        let rate = count as f64 / started.elapsed().as_secs_f64();
        let each = |whole: f64| whole / count as f64;
        let cost = each(server.cpu_seconds() - cpu) * 10_000.0;
        let loaded = server.rss_mib();
        let in_backends = each(self.cpu_of_backends() - backends) * 10_000.0;
        let (commits_after, members_after) = server.commits().await;
        let commit = (members_after - commits.1) / (commits_after - commits.0).max(1.0);
        if self.cluster.is_some() {
            self.add(
                format!("end to end, {of}: CPU of the database"),
                in_backends,
                "s/10,000",
            );
            let wal = each(self.wal(&place) - wal);
            self.add(
                format!("end to end, {of}: log of the database"),
                wal,
                "B each",
            );
        } else {
            let written = each(server.written() - written);
            self.add(format!("end to end, {of}: written"), written, "B each");
        }
        self.add(
            format!("end to end, {of}: requests in a commit"),
            commit,
            "",
        );
        self.add(format!("end to end, {of}"), rate, "deliveries/s");
        self.add(
            format!("end to end, {of}: CPU of the server"),
            cost,
            "s/10,000",
        );
        if endpoints == TEN {
            self.compare_with_parts(cost + in_backends, commit);
        }
        self.add(format!("end to end, {of}: memory"), loaded, "MiB");

        self.on_each_endpoint(&server, "pause").await;
        self.begin(format!("{of}: publishing one by one, paused"), count / 2);
        let singly = self.publish_singly(&server, count / 2, endpoints).await;
        self.add(
            format!("publish, one a request, {of}"),
            (count / 2) as f64 / singly,
            "events/s",
        );
        self.begin(format!("{of}: publishing in batches, paused"), count / 2);
        let batches = self.publish_batches(&server, count / 2, endpoints).await;
        self.add(
            format!("publish, batches of {BATCH}, {of}"),
            (count / 2) as f64 / batches,
            "events/s",
        );

        self.begin(format!("{of}: draining"), count);
        let (first, cpu, started) = (self.arrivals.count(), server.cpu_seconds(), Instant::now());
        self.on_each_endpoint(&server, "resume").await;
        self.wait_for(first + count / 2 * 2);
        let rate = (count / 2 * 2) as f64 / started.elapsed().as_secs_f64();
        let cost = (server.cpu_seconds() - cpu) / count as f64 * 10_000.0;
        self.add(format!("drain, {of}"), rate, "deliveries/s");
        self.add(format!("drain, {of}: CPU of the server"), cost, "s/10,000");
        self.add(format!("drain, {of}: memory"), server.rss_mib(), "MiB");
        server.stop();
        let file = std::fs::metadata(place.folder.path().join("bench.db"));
        if let Ok(file) = file.map(|file| file.len() as f64) {
            let deliveries = (count * 2 + endpoints as u64 + self.history) as f64;
            self.add(format!("file, {of}"), file / deliveries, "B each");
        }
    }

    /// User and system time of the database's processes, in seconds.
    fn cpu_of_backends(&self) -> f64 {
        let processes = self.cluster.map(Cluster::processes).unwrap_or_default();
        processes.iter().map(|pid| cpu_seconds(pid)).sum()
    }

    /// Bytes of the database's log so far.
    fn wal(&self, place: &Place) -> f64 {
        match self.cluster {
            Some(_) => Database::open(&place.url).wal_bytes(),
            None => 0.0,
        }
    }

    /// Compares the cost of a delivery with the sum of its parts, if those were measured. The
    /// database's part runs now, in commits of the size that the server has reached.
    fn compare_with_parts(&mut self, cost: f64, commit: f64) {
        let of = |part: &str| {
            self.table
                .value(self.database, &format!("part {part}: CPU"))
        };
        let Some((post, take)) = of("post").zip(of("take")) else {
            return;
        };
        let (count, batch) = (self.sizes.events, commit.round().max(1.0) as u64);
        let backends = self.cpu_of_backends();
        let cycle = parts::cost_of("cycle", &self.place_kept(), count, batch);
        let in_backends = (self.cpu_of_backends() - backends) / count as f64 * 10_000.0;
        let what = format!("part cycle: the database's cycle alone, commits of {batch}");
        self.add(what, cycle.rate, "/s");
        self.add("part cycle: CPU", cycle.cpu + in_backends, "s/10,000");
        self.add(
            "end to end, 10 endpoints: ratio to the sum of its parts",
            cost / (post + cycle.cpu + in_backends + take),
            "×",
        );
    }

    /// Each part alone.
    pub async fn parts(&mut self) {
        let count = self.sizes.events;
        self.begin("the parts".into(), 2);
        let post = parts::cost_of("post", &self.receiver.to_string(), count, 1);
        self.bar.inc(1);

        let mut child = parts::start("take", "", 0, 1);
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)
            .expect("an address");
        let body = json!({"type": "a.b", "data": self.filler}).to_string();
        let write = move |_| crate::wire::request("POST", "/events", "", &body);
        let process = child.id().to_string();
        let before = cpu_seconds(&process);
        let seconds = flood(
            line.trim().parse().expect("an address"),
            CONNECTIONS,
            count,
            write,
            |_| {},
        )
        .await;
        let take = parts::Cost::of(count, seconds, cpu_seconds(&process) - before);
        let _ = (child.kill(), child.wait());
        for (name, what, cost) in [
            ("post", "reqwest alone, signed", post),
            ("take", "actix-web alone, POST and 202", take),
        ] {
            self.add(format!("part {name}: {what}"), cost.rate, "/s");
            self.add(format!("part {name}: CPU"), cost.cpu, "s/10,000");
        }
    }

    /// A database that outlives this call, for a process that uses it at once.
    fn place_kept(&self) -> String {
        let Place { folder, url } = self.place();
        let _ = folder.keep();
        url
    }

    /// From the publish call to the first byte at the receiver.
    pub async fn latency(&mut self) {
        let place = self.place();
        let server = self.server_with(&place, TEN, &[]).await;
        for rate in [100_u64, 1_000] {
            let seconds = self.sizes.latency_seconds;
            let took = self.paced(&server, rate, seconds, TEN).await;
            for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                self.add(
                    format!("latency at {rate}/s, {name}"),
                    quantile(&took, part),
                    "ms",
                );
            }
        }
        server.stop();
    }

    /// The latency of healthy endpoints beside receivers that send interim responses without end.
    pub async fn floods(&mut self, threads: usize) {
        const HEALTHY: usize = 100;
        let (place, more) = (self.place(), ["--threads".to_owned(), threads.to_string()]);
        let server = self.server_with(&place, HEALTHY, &more).await;
        let seconds = self.sizes.latency_seconds;
        // Every endpoint has a connection and a supervisor, which stay while it is measured.
        self.paced(&server, 200, 1, HEALTHY).await;
        let mut present = 0;
        for floods in [0, 1, 10] {
            while present < floods {
                let url = format!("http://{}/", flooding_receiver());
                let endpoint = json!({"url": url, "rate_limit": "unlimited", "concurrency": 3,
                    "breaker_after": 0, "retry_delays_s": [], "event_types": ["bench.flood"]});
                server
                    .call("POST", "/endpoints", &endpoint.to_string())
                    .await;
                present += 1;
            }
            if floods > 0 {
                let event = json!({"type": "bench.flood", "data": 1});
                let batch = json!({"events": vec![event; 1000]}).to_string();
                for _ in 0..20 {
                    server.call("POST", "/events/batch", &batch).await;
                }
            }
            let took = self.paced(&server, 200, seconds, HEALTHY).await;
            for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
                self.add(
                    format!("beside {floods} floods, {threads} threads, {name}"),
                    quantile(&took, part),
                    "ms",
                );
            }
        }
        let slowest = server
            .call("GET", "/deliveries?status=failed&limit=100", "")
            .await;
        let mut durations = Vec::new();
        for one in slowest["data"].as_array().expect("a list") {
            let id = one["id"].as_str().expect("an id");
            let shown = server.call("GET", &format!("/deliveries/{id}"), "").await;
            let attempt = &shown["attempts"][0];
            assert_eq!(attempt["outcome"], "protocol_error", "{shown}");
            durations.push(attempt["duration_ms"].as_f64().expect("a number"));
        }
        durations.sort_by(f64::total_cmp);
        self.add(
            format!("beside 10 floods, {threads} threads: a flooded attempt, p99"),
            quantile(&durations, 0.99),
            "ms",
        );
        server.stop();
    }

    /// Publishes so many events a second. Returns the milliseconds until they arrived, sorted.
    async fn paced(&self, server: &Server, rate: u64, seconds: u64, endpoints: usize) -> Vec<f64> {
        let count = rate * seconds;
        self.begin(format!("latency at {rate} a second"), count);
        let started = Instant::now();
        // The longest idle one is taken: the server closes what says nothing for long.
        let mut idle = VecDeque::new();
        for _ in 0..CONNECTIONS {
            idle.push_back(Connection::open(server.address).await);
        }
        let idle = std::rc::Rc::new(std::cell::RefCell::new(idle));
        let mut calls = Vec::new();
        self.arrivals.take_watched();
        let first = self.arrivals.count();
        for i in 0..count {
            let at = started + Duration::from_micros(1_000_000 / rate * (i + 10));
            tokio::time::sleep_until(at.into()).await;
            let id = format!("{WATCHED}{rate}-{first}-{i}");
            let event =
                json!({"type": event_type(i as usize % endpoints), "data": self.filler, "id": id});
            let request = Server::post("/events", &event.to_string());
            let Some(mut connection) = idle.borrow_mut().pop_front() else {
                continue;
            };
            let called = Instant::now();
            let idle = std::rc::Rc::clone(&idle);
            tokio::task::spawn_local(async move {
                let (status, _) = connection.exchange(&request).await;
                assert_eq!(status, 202);
                idle.borrow_mut().push_back(connection);
            });
            calls.push((id, called));
            self.bar.set_position(i);
        }
        while self.arrivals.count() < first + calls.len() as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let arrived = self.arrivals.take_watched();
        let mut took: Vec<f64> = calls
            .iter()
            .map(|(id, called)| {
                arrived[id].saturating_duration_since(*called).as_secs_f64() * 1000.0
            })
            .collect();
        took.sort_by(f64::total_cmp);
        took
    }

    /// Publishing in the engine's own process, from 64 tasks.
    pub async fn embedded(&mut self) {
        let (place, count) = (self.place(), self.sizes.events);
        self.begin("embedded: publishing".into(), count);
        let url = place.url.parse().expect("a database");
        let (sender, done) = tokio::sync::oneshot::channel();
        on_a_thread("publisher", move || async move {
            let postrider = Postrider::builder()
                .database(url)
                .start()
                .await
                .expect("an engine");
            let started = Instant::now();
            let tasks: Vec<_> = (0..CONNECTIONS as u64)
                .map(|task| {
                    let postrider = postrider.clone();
                    tokio::task::spawn_local(async move {
                        let text = format!("\"{}\"", "x".repeat(1000));
                        for _ in (task..count).step_by(CONNECTIONS) {
                            let data = serde_json::value::RawValue::from_string(text.clone())
                                .expect("JSON");
                            let name = EventType::parse("bench.embedded").expect("a name");
                            postrider
                                .publish(NewEvent::new(name, Content::Data(data)))
                                .await
                                .expect("durable");
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("a publisher ends well");
            }
            let _ = sender.send(count as f64 / started.elapsed().as_secs_f64());
            postrider.drain().await;
        });
        let rate = done.await.expect("it ends well");
        self.add(
            "publish in process, no endpoint, 64 tasks",
            rate,
            "events/s",
        );
    }

    /// What a long backlog costs in memory, and when a server that starts on it first sends.
    pub async fn backlog(&mut self) {
        let (place, waiting, at) = (self.place(), self.sizes.waiting, self.sizes.waiting_at);
        let server = Server::start(place.folder.path(), &place.url);
        self.add("memory, idle", server.rss_mib(), "MiB");
        server.stop();
        let server = self.server_with(&place, at, &[]).await;
        self.on_each_endpoint(&server, "pause").await;
        self.begin(format!("a backlog of {waiting}"), waiting);
        self.publish_batches(&server, waiting, at).await;
        self.add(
            format!("memory, {waiting} waiting, paused"),
            server.rss_mib(),
            "MiB",
        );
        server.stop();

        // They are let go while nothing runs that could send.
        self.begin(
            format!("a start with {waiting} waiting at {at} endpoints"),
            1,
        );
        self.release(&place);
        let (first, started) = (self.arrivals.count(), Instant::now());
        let server = Server::start(place.folder.path(), &place.url);
        until("the first delivery", Duration::from_secs(60), || {
            self.arrivals.count() > first
        });
        self.add(
            format!("start to first send, {waiting} waiting at {at} endpoints"),
            started.elapsed().as_secs_f64(),
            "s",
        );
        // What comes up once for each endpoint is over by then.
        let drained = || self.arrivals.count() - first >= waiting;
        let pass = |seconds| {
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(seconds) && !drained() {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        pass(if waiting >= 1_000_000 { 5 } else { 0 });
        let (from, cpu, started) = (self.arrivals.count(), server.cpu_seconds(), Instant::now());
        pass(5);
        let sent = (self.arrivals.count() - from) as f64;
        let rate = sent / started.elapsed().as_secs_f64();
        let cost = (server.cpu_seconds() - cpu) / sent * 10_000.0;
        self.add(
            format!("drain, {waiting} waiting at {at} endpoints"),
            rate,
            "deliveries/s",
        );
        self.add(
            format!("drain, {waiting} waiting at {at} endpoints: CPU of the server"),
            cost,
            "s/10,000",
        );
        self.add(
            format!("memory, {waiting} waiting at {at} endpoints, sending"),
            server.rss_mib(),
            "MiB",
        );
    }

    /// Resumes every endpoint behind the server's back.
    fn release(&self, place: &Place) {
        let statements = [
            "UPDATE webhook_endpoints SET pause_reason = NULL",
            "UPDATE webhook_counters SET value = value + 1 WHERE name = 'endpoints'",
        ];
        let mut database = Database::open(&place.url);
        statements.into_iter().for_each(|sql| database.run(sql));
    }

    /// When a server with many endpoints listens, and sends what is published then.
    pub async fn boot(&mut self) {
        let (place, known) = (self.place(), self.sizes.known_endpoints);
        let server = self.server_with(&place, known, &[]).await;
        server.stop();
        self.begin(format!("a start with {known} endpoints"), 1);
        let started = Instant::now();
        let server = Server::start(place.folder.path(), &place.url);
        self.add(
            format!("start, {known} endpoints"),
            started.elapsed().as_secs_f64(),
            "s",
        );
        self.add(
            format!("memory, {known} endpoints, idle"),
            server.rss_mib(),
            "MiB",
        );
        let first = self.arrivals.count();
        let event = json!({"type": event_type(1), "data": self.filler}).to_string();
        server.call("POST", "/events", &event).await;
        until("the delivery", Duration::from_secs(60), || {
            self.arrivals.count() > first
        });
        self.add(
            format!("start to first send, {known} endpoints"),
            started.elapsed().as_secs_f64(),
            "s",
        );
        server.stop();
    }
}

/// A part of sorted values.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted[at.min(sorted.len() - 1)]
}
