//! The publisher: publishes at a constant rate, each event to one endpoint, and logs what a node
//! accepted. What one node does not take it gives to the next, until one does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use crate::ledger::{Accepted, Ledger, hash, now};

#[derive(Debug, clap::Args)]
pub(crate) struct PublisherArgs {
    /// Folder of the ledger
    #[arg(long)]
    folder: PathBuf,
    /// Addresses of the nodes
    #[arg(long = "node", required = true)]
    nodes: Vec<String>,
    /// Token of the API
    #[arg(long, env = "POSTRIDER_API_TOKEN", hide_env_values = true)]
    token: String,
    /// Number of events
    #[arg(long)]
    events: u64,
    /// Events a second
    #[arg(long)]
    rate: u32,
    /// Without ordering keys
    #[arg(long)]
    unordered: bool,
    /// Number of endpoints that get them in turn
    #[arg(long)]
    endpoints: usize,
}

/// Longest time in which no node accepts an event.
const PATIENCE: Duration = Duration::from_secs(120);

struct Publisher {
    client: reqwest::Client,
    args: PublisherArgs,
    ledger: Ledger,
    next_node: AtomicUsize,
}

impl PublisherArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .context("cannot set up the HTTP client")?;
        let ledger = Ledger::append_to(&self.folder.join("accepted"))?;
        let (events, rate) = (self.events, self.rate);
        let publisher = Arc::new(Publisher {
            client,
            args: self,
            ledger,
            next_node: AtomicUsize::new(0),
        });
        let mut tick = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // The events of an endpoint are published one after the other: only so do they have an order.
        let lanes: Vec<_> = (0..publisher.args.endpoints)
            .map(|endpoint| {
                let (queue, mut events) = tokio::sync::mpsc::unbounded_channel();
                let publisher = Arc::clone(&publisher);
                let lane = tokio::spawn(async move {
                    while let Some(place) = events.recv().await {
                        publisher.publish(endpoint, place).await?;
                    }
                    anyhow::Ok(())
                });
                (queue, lane)
            })
            .collect();
        for number in 0..events {
            tick.tick().await;
            let to = usize::try_from(number)? % lanes.len();
            let _ = lanes[to].0.send(number / lanes.len() as u64);
        }
        for (queue, lane) in lanes {
            drop(queue);
            lane.await??;
        }
        Ok(())
    }
}

impl Publisher {
    async fn publish(&self, endpoint: usize, place: u64) -> anyhow::Result<()> {
        let id = format!("c-{endpoint}-{place}");
        let payload = format!("event {place} for endpoint {endpoint}");
        let mut event = json!({"type": format!("to.{endpoint}"), "id": id, "payload": payload,
                               "content_type": "text/plain"});
        if !self.args.unordered {
            event["ordering_key"] = format!("key-{endpoint}").into();
        }
        let body = event.to_string();
        let began = Instant::now();
        loop {
            let nodes = &self.args.nodes;
            let node = &nodes[self.next_node.fetch_add(1, Ordering::Relaxed) % nodes.len()];
            let asked = now();
            let request = self
                .client
                .post(format!("{node}/api/v1/events"))
                .bearer_auth(&self.args.token)
                .header("content-type", "application/json")
                .body(body.clone());
            let answer = request.send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                self.ledger.note(&Accepted {
                    asked,
                    answered: now(),
                    endpoint,
                    place,
                    id,
                    hash: hash(payload.as_bytes()),
                });
                return Ok(());
            }
            anyhow::ensure!(
                began.elapsed() < PATIENCE,
                "no node has accepted an event for {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
