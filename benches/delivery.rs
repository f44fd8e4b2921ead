//! What a delivery costs: the real server as a process, against a receiver and a load generator in
//! this one. `cargo bench --bench delivery`.
//!
//! Figures of one machine mean little by themselves; the ratio to the parts measured alone is to
//! follow with the work on speed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::json;

const EVENTS: u64 = 20_000;
const CONNECTIONS: usize = 64;
const ENDPOINTS: usize = 10;

struct Server {
    child: Child,
    base: String,
    token: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
            .current_dir(folder)
            .args(["serve", "--listen", "127.0.0.1:0", "--allow-network", "127.0.0.0/8"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let base = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listens on ").map(|(_, base)| base.trim().to_owned()))
            .expect("the server listens");
        std::thread::spawn(move || lines.for_each(drop));
        let token = std::fs::read_to_string(folder.join("postrider.db.token")).expect("a token");
        Self { child, base, token: token.trim().to_owned() }
    }

    /// User and system time so far, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) / 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn receiver() -> (String, Arc<AtomicU64>) {
    let received = Arc::new(AtomicU64::new(0));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let data = web::Data::from(Arc::clone(&received));
    std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            let app = move || {
                App::new().app_data(data.clone()).default_service(web::to(
                    |received: web::Data<AtomicU64>, _body: web::Bytes| async move {
                        received.fetch_add(1, Ordering::Relaxed);
                        HttpResponse::Ok().finish()
                    },
                ))
            };
            HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run().await
        })
    });
    (base, received)
}

async fn post(client: &reqwest::Client, server: &Server, path: &str, body: String) -> reqwest::Response {
    let answer = client
        .post(format!("{}/api/v1{path}", server.base))
        .bearer_auth(&server.token)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
    answer
}

fn wait_for(received: &AtomicU64, count: u64) {
    while received.load(Ordering::Relaxed) < count {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let server = Arc::new(Server::start(folder.path()));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let (base, received) = receiver();
    let mut ids = Vec::new();
    for i in 0..ENDPOINTS {
        let endpoint = json!({"url": format!("{base}/{i}"), "rate_limit": "unlimited", "concurrency": 64,
                              "event_types": [format!("bench.e{i}")]});
        let answer = runtime.block_on(post(&client, &server, "/endpoints", endpoint.to_string()));
        let body = runtime.block_on(answer.bytes()).expect("a body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        ids.push(body["id"].as_str().expect("an id").to_owned());
    }
    println!("idle: {} MiB", server.rss_mib());
    let filler = "x".repeat(1000);
    let event = move |i: u64| json!({"type": format!("bench.e{}", i as usize % ENDPOINTS), "data": filler});

    // One event a request, over many connections, while everything is delivered.
    let (cpu, started, next) = (server.cpu_seconds(), Instant::now(), Arc::new(AtomicU64::new(0)));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let publishers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (client, server, next, event) =
                    (client.clone(), Arc::clone(&server), Arc::clone(&next), event.clone());
                tokio::task::spawn_local(async move {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= EVENTS {
                            return;
                        }
                        post(&client, &server, "/events", event(i).to_string()).await;
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.await.expect("it ends");
        }
    });
    let published = started.elapsed().as_secs_f64();
    wait_for(&received, EVENTS);
    let delivered = started.elapsed().as_secs_f64();
    let cost = (server.cpu_seconds() - cpu) / EVENTS as f64 * 10_000.0;
    let rate = |seconds: f64| EVENTS as f64 / seconds;
    println!(
        "one event a request: {:.0} published/s, {:.0} delivered/s end to end, {cost:.2} CPU-s per 10,000, {} MiB",
        rate(published),
        rate(delivered),
        server.rss_mib()
    );

    // A backlog: published in batches while paused, then let go.
    for id in &ids {
        runtime.block_on(post(&client, &server, &format!("/endpoints/{id}/pause"), String::new()));
    }
    let started = Instant::now();
    for batch in 0..EVENTS / 100 {
        let events: Vec<_> = (0..100).map(|i| event(batch * 100 + i)).collect();
        runtime.block_on(post(&client, &server, "/events/batch", json!({"events": events}).to_string()));
    }
    println!("batches of 100: {:.0} published/s", rate(started.elapsed().as_secs_f64()));
    let (cpu, started) = (server.cpu_seconds(), Instant::now());
    for id in &ids {
        runtime.block_on(post(&client, &server, &format!("/endpoints/{id}/resume"), String::new()));
    }
    wait_for(&received, 2 * EVENTS);
    let drained = started.elapsed().as_secs_f64();
    let cost = (server.cpu_seconds() - cpu) / EVENTS as f64 * 10_000.0;
    println!(
        "draining a backlog: {:.0} delivered/s, {cost:.2} CPU-s per 10,000, {} MiB",
        rate(drained),
        server.rss_mib()
    );

    // Latency from the publish call to the receiver, 100 a second.
    let mut latencies = Vec::new();
    for i in 0..500_u64 {
        let (before, started) = (received.load(Ordering::Relaxed), Instant::now());
        runtime.block_on(post(&client, &server, "/events", event(i).to_string()));
        while received.load(Ordering::Relaxed) == before {
            std::hint::spin_loop();
        }
        latencies.push(started.elapsed());
        std::thread::sleep(Duration::from_millis(10).saturating_sub(started.elapsed()));
    }
    latencies.sort();
    println!("latency at 100/s: p50 {:?}, p99 {:?}", latencies[250], latencies[495]);
}
