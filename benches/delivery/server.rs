//! The server that is measured: the real binary, as a process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::wire::{Connection, request};

const TOKEN: &str = "a-token-of-the-benchmark-alone";

pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it in `folder`, on that database, and waits until it listens.
    pub fn start(folder: &Path, database: &str) -> Self {
        Self::start_with(folder, database, &[])
    }

    /// Like [`start`](Self::start), with more arguments.
    pub fn start_with(folder: &Path, database: &str, more: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
            .current_dir(folder)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--allow-network",
                "127.0.0.0/8",
            ])
            .args(["--database-url", database])
            .args(more)
            .env("POSTRIDER_API_TOKEN", TOKEN)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut told = String::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            told = line + "\n";
            told.split_once("listens on http://")
                .map(|(_, address)| address.trim().to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("the server did not start: {told}"));
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.parse().expect("an address"),
        }
    }

    /// A `POST` to the API, as it goes over the wire.
    pub fn post(path: &str, body: &str) -> Vec<u8> {
        request("POST", &format!("/api/v1{path}"), TOKEN, body)
    }

    /// Calls the API once.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let mut connection = Connection::open(self.address).await;
        let request = request(method, &format!("/api/v1{path}"), TOKEN, body);
        let (status, body) = connection.exchange(&request).await;
        assert!(
            (200..300).contains(&status),
            "{path}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    /// User and system time so far, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.child.id().to_string())
    }

    /// Bytes that it has caused to be written to disks so far.
    pub fn written(&self) -> f64 {
        let io =
            std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0.0)
    }

    /// The commits so far, and the requests in them.
    pub async fn commits(&self) -> (f64, f64) {
        let text = self.text("/metrics").await;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or(0.0)
        };
        (
            value("postrider_commit_members_count"),
            value("postrider_commit_members_sum"),
        )
    }

    async fn text(&self, path: &str) -> String {
        let mut connection = Connection::open(self.address).await;
        let (_, body) = connection.exchange(&request("GET", path, TOKEN, "")).await;
        String::from_utf8_lossy(&body).into_owned()
    }

    pub fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or("0 kB");
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<f64>()
            .unwrap_or(0.0)
            / 1024.0
    }

    /// Ends it as an operator would.
    pub fn stop(mut self) {
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let patience = Instant::now() + Duration::from_secs(30);
        while Instant::now() < patience && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process (`self` for this one), in seconds.
pub fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// An endpoint of the benchmark's, for the events of one type alone.
pub fn endpoint(receiver: SocketAddr, i: usize) -> String {
    json!({"url": format!("http://{receiver}/{i}"), "rate_limit": "unlimited", "concurrency": 64,
           "event_types": [event_type(i)]})
    .to_string()
}

pub fn event_type(i: usize) -> String {
    format!("bench.e{i}")
}
