//! `postrider demo`: a server and a receiver in one process and a temporary folder, and a few
//! seconds of traffic between them. It shows the promises of the README and leaves nothing behind.

mod receiver;
mod timeline;

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use anyhow::{Context, anyhow};
use postrider::Postrider;
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::access::generate_token;
use postrider::http::ApiToken;
use reqwest::Method;
use serde_json::{Value, json};

use self::receiver::DemoReceiver;
use self::timeline::Timeline;
use crate::api::ApiClient;
use crate::output::{CommandError, rows, text};
use crate::serve::stop_signal;

/// Time limit of the whole demo, which therefore always finishes.
const TIME_LIMIT: Duration = Duration::from_secs(28);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

const EVENTS: usize = 5;
const PUBLISH_INTERVAL: Duration = Duration::from_millis(500);
/// Consecutive failures that open the dead endpoint's breaker: fewer than events, so that some
/// deliveries stay pending.
const BREAKER_AFTER: u64 = 3;

/// Run a self-contained demo: deliveries, retries, a circuit breaker and a recovery.
///
/// It needs nothing and leaves nothing behind: it starts its own server, receiver and temporary
/// database.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Print one JSON line per step
    #[arg(long)]
    json: bool,
}

/// The parts to stop at the end.
struct DemoServers {
    postrider: Postrider,
    servers: Vec<ServerHandle>,
}

/// The demo's script.
struct Scenario {
    timeline: Timeline,
    api: ApiClient,
    receiver: web::Data<DemoReceiver>,
    receiver_url: String,
}

impl DemoArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let folder = tempfile::tempdir()
            .context("cannot create a temporary folder: check TMPDIR and the free disk space")?;
        let timeline = Timeline::new(self.json);
        let (scenario, running) = start(timeline, folder.path().join("postrider.db")).await?;
        let result = tokio::select! {
            result = tokio::time::timeout(TIME_LIMIT, scenario.run()) => result.unwrap_or_else(|_| {
                let limit = TIME_LIMIT.as_secs();
                Err(anyhow!("the demo did not finish within {limit} s: try again when this machine is less busy").into())
            }),
            stopped = stop_signal() => stopped.map(|_| ()).map_err(CommandError::Other),
        };
        for server in &running.servers {
            server.stop(false).await;
        }
        running.postrider.drain().await;
        let path = folder.path().display().to_string();
        folder
            .close()
            .with_context(|| format!("cannot delete the temporary folder {path}"))?;
        result
    }
}

async fn start(
    timeline: Timeline,
    database: std::path::PathBuf,
) -> Result<(Scenario, DemoServers), CommandError> {
    let mut config = EngineConfig::default();
    config.allow_networks = vec!["127.0.0.0/8".parse().context("invalid network")?];
    config.drain_timeout = Duration::from_secs(2);
    let (receiver, receiver_url, receiver_handle) = DemoReceiver::start(timeline)?;
    let postrider = Postrider::builder()
        .database(DatabaseUrl::Sqlite(database))
        .config(config)
        .start()
        .await;
    let postrider = postrider.context("cannot start the engine")?;

    let token = generate_token(&postrider::ports::OsRandom);
    let listener = TcpListener::bind("127.0.0.1:0")
        .context("cannot listen on a free port of 127.0.0.1 for the server")?;
    let address = listener
        .local_addr()
        .context("cannot read the server's address")?;
    let base = format!("http://{address}");
    let handle = postrider.clone();
    let api_token = ApiToken::new(&token).map_err(|detail| anyhow!(detail))?;
    let app = move || App::new().configure(handle.api_with_tokens(api_token.clone()));
    let server = HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .shutdown_timeout(0);
    let server = server
        .listen(listener)
        .context("cannot start the server")?
        .run();
    let servers = vec![server.handle(), receiver_handle];
    actix_web::rt::spawn(server);
    let api = ApiClient::with_token(&base, &token)?;
    timeline.step(
        "server",
        &format!("on {base}, receiver on {receiver_url}"),
        json!({"server": base}),
    );
    let scenario = Scenario {
        timeline,
        api,
        receiver,
        receiver_url,
    };
    Ok((scenario, DemoServers { postrider, servers }))
}

impl Scenario {
    async fn run(&self) -> Result<(), CommandError> {
        let timeline = self.timeline;
        timeline.explain("Three endpoints: good works, flaky fails twice before it accepts an event, dead is down.");
        let good = self.add_endpoint("good", json!({})).await?;
        let flaky = self
            .add_endpoint(
                "flaky",
                json!({"retry_delays_s": [1, 1, 2], "breaker_after": 0}),
            )
            .await?;
        let settings =
            json!({"retry_delays_s": [], "breaker_after": BREAKER_AFTER, "concurrency": 1});
        let dead = self.add_endpoint("dead", settings).await?;

        timeline.explain("Five events are published. Each is committed with its three deliveries before its publish call returns.");
        let began = self.publish().await?;

        timeline.explain("Failed attempts are retried with the same event id. After three failures the dead endpoint's breaker opens.");
        self.until(&dead, |endpoint| endpoint["health"]["breaker"] != "closed")
            .await?;
        let endpoint = self.get(&format!("/endpoints/{dead}")).await?;
        let pending = text(&endpoint, "health.pending");
        timeline.step(
            "breaker",
            &format!("open for dead: {pending} deliveries are pending and use up no retries"),
            json!({"endpoint": "dead", "breaker": "open", "waiting": endpoint["health"]["pending"]}),
        );
        self.until_finished(&flaky).await?;

        timeline.explain("The dead endpoint's receiver is fixed. Resuming the endpoint sends its pending deliveries.");
        self.receiver.fix();
        self.api
            .call(Method::POST, &format!("/endpoints/{dead}/resume"), None)
            .await?;
        timeline.step("resume", "dead", json!({"endpoint": "dead"}));
        self.until_finished(&dead).await?;

        timeline.explain("Deliveries that had failed are not lost: a recovery sends them again.");
        self.recover(&dead, &began).await?;
        self.until_finished(&dead).await?;
        self.until_finished(&good).await?;
        self.summary(&[("good", &good), ("flaky", &flaky), ("dead", &dead)])
            .await
    }

    async fn get(&self, path: &str) -> Result<Value, CommandError> {
        self.api.call(Method::GET, path, None).await
    }

    async fn add_endpoint(&self, name: &str, mut settings: Value) -> Result<String, CommandError> {
        settings["url"] = json!(format!("{}/{name}", self.receiver_url));
        settings["rate_limit"] = json!("unlimited");
        let endpoint = self
            .api
            .call(Method::POST, "/endpoints", Some(settings.to_string()))
            .await?;
        let id = text(&endpoint, "id");
        self.timeline.step(
            "endpoint",
            &format!("{name:5} is {id}"),
            json!({"endpoint": name, "id": id}),
        );
        Ok(id)
    }

    /// Publishes all events; returns the time of the first.
    async fn publish(&self) -> Result<String, CommandError> {
        let mut first_published = String::new();
        for number in 1..=EVENTS {
            let event = json!({"id": format!("order-{number}"), "type": "order.placed", "data": {"order": number}});
            let answer = self
                .api
                .call(Method::POST, "/events", Some(event.to_string()))
                .await?;
            let id = text(&answer, "id");
            self.timeline
                .step("event", &format!("{id} is stored"), json!({"event": id}));
            if number == 1 {
                first_published = text(&answer, "created_at");
            }
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
        Ok(first_published)
    }

    async fn until(
        &self,
        endpoint: &str,
        done: impl Fn(&Value) -> bool,
    ) -> Result<(), CommandError> {
        while !done(&self.get(&format!("/endpoints/{endpoint}")).await?) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    async fn until_finished(&self, endpoint: &str) -> Result<(), CommandError> {
        self.until(endpoint, |endpoint| {
            endpoint["health"]["pending"] == 0 && endpoint["health"]["sending"] == 0
        })
        .await
    }

    async fn recover(&self, endpoint: &str, since: &str) -> Result<(), CommandError> {
        let body = json!({"since": since, "include": "failed"}).to_string();
        let path = format!("/endpoints/{endpoint}/recover");
        let mut recovery = self.api.call(Method::POST, &path, Some(body)).await?;
        while text(&recovery, "status") == "running" {
            tokio::time::sleep(POLL_INTERVAL).await;
            recovery = self
                .get(&format!("/recoveries/{}", text(&recovery, "id")))
                .await?;
        }
        let requeued = text(&recovery, "requeued");
        self.timeline.step(
            "recovery",
            &format!("{requeued} failed deliveries to dead are queued again"),
            json!({"endpoint": "dead", "requeued": recovery["requeued"]}),
        );
        Ok(())
    }

    async fn summary(&self, endpoints: &[(&str, &String)]) -> Result<(), CommandError> {
        self.timeline.explain("All events have been delivered:");
        for (name, id) in endpoints {
            let list = self
                .get(&format!(
                    "/deliveries?endpoint_id={id}&status=delivered&limit=250"
                ))
                .await?;
            let delivered = rows(&list).len();
            self.timeline.step(
                "summary",
                &format!("{name:5} received {delivered} of {EVENTS} events"),
                json!({"endpoint": name, "delivered": delivered}),
            );
        }
        self.timeline.explain(TRY_NEXT);
        Ok(())
    }
}

const TRY_NEXT: &str = "\
The demo leaves nothing behind. To try Postrider yourself, in three terminals:
  postrider serve --allow-network 127.0.0.0/8,::1/128
  postrider listen --register --fail-first 2
  postrider send invoice.paid '{\"amount\": 1200}'
Then watch the deliveries: postrider deliveries list --watch
Before going live: postrider doctor";
