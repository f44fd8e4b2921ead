//! One campaign: its processes, endpoints, faults and judgement.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use postrider::domain::random;
use postrider::ports::OsRandom;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::fleet::{Fleet, Process, TOKEN, free_port};
use crate::judge::{CampaignVerdict, Rules, judge};
use crate::ledger::{self, Struck, now};
use crate::report::{Remainder, report};

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// URL of an empty Postgres database, which the nodes share
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true)]
    database: Option<String>,

    /// Number of nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,

    /// Number of events
    #[arg(long, default_value_t = 20_000)]
    events: u64,

    /// Events a second
    #[arg(long, default_value_t = 500)]
    rate: u32,

    /// Number of endpoints; every second one is ordered
    #[arg(long, default_value_t = 128)]
    endpoints: usize,

    /// Publish without ordering keys, to endpoints without order
    #[arg(long)]
    unordered: bool,

    /// Number of further endpoints that never respond: each has an attempt in flight at any time
    #[arg(long, default_value_t = 64)]
    hanging: usize,

    /// Number of faults, one after the other, each of a random kind at a random node
    #[arg(long, default_value_t = 20)]
    faults: usize,

    /// Kinds of faults
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,restart,freeze"
    )]
    kinds: Vec<Fault>,

    /// Seconds between two faults
    #[arg(long, default_value_t = 5)]
    pause: u64,

    /// Seconds for which a killed node stays down
    #[arg(long, default_value_t = 2)]
    down: u64,

    /// Strike the nodes in turn, as a rolling restart does
    #[arg(long)]
    rolling: bool,

    /// Seed of the faults
    #[arg(long)]
    seed: Option<u64>,

    /// The `postrider` binary; default: beside this one
    #[arg(long)]
    server: Option<PathBuf>,

    /// Folder for ledgers and logs, which must not exist
    #[arg(long, default_value = "campaign")]
    folder: PathBuf,

    /// More arguments of `postrider serve`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Limit of the endpoints with a rate limit: starts in a minute.
const LIMIT: usize = 10;

/// Number of endpoints with a rate limit, which are the last ones.
const LIMITED: usize = 8;

/// Longest time in which everything is to be delivered in the end.
const SETTLING: Duration = Duration::from_secs(300);

impl RunArgs {
    /// Runs the campaign. Returns false if a promise was broken.
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let database = self
            .database
            .clone()
            .context("--database: the URL of an empty Postgres database is missing")?;
        std::fs::create_dir(&self.folder)
            .with_context(|| format!("--folder {}: must not exist", self.folder.display()))?;
        let folder = self.folder.canonicalize()?;
        let own = std::env::current_exe()?;
        let server = match &self.server {
            Some(server) => server.clone(),
            None => own.with_file_name("postrider"),
        };
        let seed = self
            .seed
            .unwrap_or_else(|| u64::from_le_bytes(random::bytes(&OsRandom)));
        eprintln!("seed {seed}");
        let began = now();
        let port = free_port()?;
        let mut fleet = Fleet::new(
            server,
            &folder,
            database,
            self.arguments.clone(),
            self.nodes,
        )?;
        for node in 0..self.nodes {
            fleet.start(node).await?;
        }
        let _receiver = Process::spawn(
            Command::new(&own)
                .args(["receiver", "--port", &port.to_string(), "--folder"])
                .arg(&folder),
        )?;
        let endpoints = self.create_endpoints(&fleet, port, &folder).await?;
        self.until_settled(&fleet).await?;
        let mut publisher = self.start_publisher(&own, &folder, &fleet)?;
        let faults = self.strike(&mut fleet, seed).await?;
        let ended = publisher.end().await?;
        anyhow::ensure!(ended.success(), "the publisher has failed: {ended}");
        let remainder = self.settle(&fleet, &endpoints).await?;

        let verdict = self.judge(&folder, &faults)?;
        let lasted = now().saturating_sub(began);
        println!("{}", report(&verdict, remainder, &faults, lasted));
        Ok(verdict.violations() == 0 && remainder.stuck == 0 && remainder.failed == 0)
    }

    /// Compares the ledgers.
    fn judge(&self, folder: &Path, faults: &[Struck]) -> anyhow::Result<CampaignVerdict> {
        let accepted: Vec<ledger::Accepted> = ledger::read(&folder.join("accepted"))?;
        let received: Vec<ledger::Request> = ledger::read(&folder.join("received"))?;
        let limited = self.endpoints.saturating_sub(LIMITED)..self.endpoints;
        let rules = Rules {
            ordered: match self.unordered {
                true => Vec::new(),
                false => (0..self.endpoints).step_by(2).collect(),
            },
            limited: limited.map(|endpoint| (endpoint, LIMIT)).collect(),
            limited_until: accepted.last().map_or(Duration::ZERO, |last| last.answered),
        };
        Ok(judge(&accepted, &received, faults, &rules))
    }

    /// Creates the endpoints at the receiver. Returns their ids, those that respond first.
    async fn create_endpoints(
        &self,
        fleet: &Fleet,
        port: u16,
        folder: &Path,
    ) -> anyhow::Result<Vec<String>> {
        let (mut ids, mut secrets) = (Vec::new(), String::new());
        for number in 0..self.endpoints + self.hanging {
            let hangs = number >= self.endpoints;
            let is_limited = !hangs && number + LIMITED >= self.endpoints;
            let behaviour = if hangs { "hang" } else { "ok" };
            let body = json!({
                "url": format!("http://127.0.0.1:{port}/{behaviour}/{number}"),
                "event_types": [format!("to.{number}")],
                "rate_limit": if is_limited { format!("{LIMIT}/min") } else { "unlimited".into() },
                "ordering": if number % 2 == 0 && !hangs && !self.unordered { "key" } else { "none" },
                "concurrency": if hangs { 1 } else { 3 },
                "breaker_after": null,
            });
            let created = fleet
                .call(0, Method::POST, "/endpoints", Some(&body))
                .await?;
            ids.push(text(&created, "id"));
            secrets.push_str(&text(&created, "secret"));
            secrets.push('\n');
        }
        std::fs::write(folder.join("secrets"), secrets)?;
        for number in self.endpoints..ids.len() {
            // Enough for an attempt at any time.
            for _ in 0..20 {
                let event = json!({"type": format!("to.{number}"), "data": null});
                fleet.call(0, Method::POST, "/events", Some(&event)).await?;
            }
        }
        Ok(ids)
    }

    /// Waits until the nodes share the endpoints.
    async fn until_settled(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let began = now();
        loop {
            let nodes = fleet.call(0, Method::GET, "/nodes", None).await?;
            let nodes = nodes["data"].as_array().cloned().unwrap_or_default();
            let shards = nodes.iter().filter_map(|node| node["shards"].as_u64());
            let least = shards.min().unwrap_or_default();
            if nodes.len() == self.nodes && least + 1 >= 64 / self.nodes as u64 {
                return Ok(());
            }
            anyhow::ensure!(
                now().saturating_sub(began) < SETTLING,
                "the nodes do not share the endpoints"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn start_publisher(&self, own: &Path, folder: &Path, fleet: &Fleet) -> anyhow::Result<Process> {
        let mut command = Command::new(own);
        command
            .args(["publisher", "--events", &self.events.to_string()])
            .args(["--rate", &self.rate.to_string()])
            .args(["--endpoints", &self.endpoints.to_string()])
            .env("POSTRIDER_API_TOKEN", TOKEN)
            .stdout(Stdio::null())
            .arg("--folder")
            .arg(folder);
        if self.unordered {
            command.arg("--unordered");
        }
        for node in &fleet.nodes {
            command.args(["--node", &node.base()]);
        }
        Process::spawn(&mut command)
    }

    async fn strike(&self, fleet: &mut Fleet, seed: u64) -> anyhow::Result<Vec<Struck>> {
        let mut seeded = StdRng::seed_from_u64(seed);
        let pause = Duration::from_secs(self.pause);
        let down = Duration::from_secs(self.down);
        let mut faults = Vec::new();
        for number in 0..self.faults {
            tokio::time::sleep(pause).await;
            let kind = self.kinds[seeded.random_range(..self.kinds.len())];
            let node = match self.rolling {
                true => number % self.nodes,
                false => seeded.random_range(..self.nodes),
            };
            let struck = kind.strike(fleet, node, down).await?;
            eprintln!("{} ({} of {})", struck.what, number + 1, self.faults);
            faults.push(struck);
        }
        Ok(faults)
    }

    /// Removes what keeps deliveries waiting on purpose, and waits until the others have ended.
    async fn settle(&self, fleet: &Fleet, endpoints: &[String]) -> anyhow::Result<Remainder> {
        for id in &endpoints[self.endpoints..] {
            fleet
                .call(0, Method::DELETE, &format!("/endpoints/{id}"), None)
                .await?;
        }
        // The last limits are kept for as long as the publisher publishes, and then lifted.
        let lifted = json!({"rate_limit": "unlimited"});
        for id in &endpoints[self.endpoints.saturating_sub(LIMITED)..self.endpoints] {
            fleet
                .call(0, Method::PATCH, &format!("/endpoints/{id}"), Some(&lifted))
                .await?;
        }
        let began = now();
        loop {
            let mut remainder = Remainder::default();
            for id in &endpoints[..self.endpoints] {
                let view = fleet
                    .call(0, Method::GET, &format!("/endpoints/{id}"), None)
                    .await?;
                let count = |name: &str| view["health"][name].as_u64().unwrap_or_default();
                remainder.stuck += count("pending") + count("sending") + count("held");
            }
            if remainder.stuck == 0 || now().saturating_sub(began) > SETTLING {
                for id in &endpoints[..self.endpoints] {
                    let path = format!("/deliveries?endpoint_id={id}&status=failed&limit=250");
                    let failed = fleet.call(0, Method::GET, &path, None).await?;
                    remainder.failed += failed["data"].as_array().map_or(0, Vec::len) as u64;
                }
                return Ok(remainder);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}
