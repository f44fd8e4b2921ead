//! `postrider demo`: a server and a receiver in one process and a temporary folder, and what
//! happens between them in some seconds. It shows what the README promises, and leaves nothing
//! behind.

mod receiver;
mod stage;

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use anyhow::{Context, anyhow};
use postrider::Postrider;
use postrider::admin::ApiToken;
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::access::generate_token;
use reqwest::Method;
use serde_json::{Value, json};

use self::receiver::Receiver;
use self::stage::Stage;
use crate::api::Connection;
use crate::output::{Failure, rows, text};
use crate::serve::stop_signal;

/// The demo ends by itself, come what may.
const AT_MOST: Duration = Duration::from_secs(28);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const EVENTS: usize = 5;
const BETWEEN_EVENTS: Duration = Duration::from_millis(500);
/// Failures in a row that open the dead endpoint's breaker: fewer than events, so that some wait.
const BREAKER_AFTER: u64 = 3;

/// Show in some seconds what Postrider does: deliveries, retries, a breaker and a recovery.
///
/// Needs nothing and leaves nothing behind: server, receiver and database are this command's own.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Print a JSON line for each thing that happens
    #[arg(long)]
    json: bool,
}

/// What has to be stopped at the end.
struct Running {
    postrider: Postrider,
    servers: Vec<ServerHandle>,
}

struct Play {
    stage: Stage,
    api: Connection,
    receiver: web::Data<Receiver>,
    receiver_url: String,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let folder =
            tempfile::tempdir().context("no temporary folder: check TMPDIR and the disk")?;
        let stage = Stage::new(self.json);
        let (play, running) = start(stage, folder.path().join("postrider.db")).await?;
        let played = tokio::select! {
            played = tokio::time::timeout(AT_MOST, play.play()) => played.unwrap_or_else(|_| {
                Err(anyhow!("the demo took longer than {} s: is this machine very busy?", AT_MOST.as_secs()).into())
            }),
            stopped = stop_signal() => stopped.map(|_| ()).map_err(Failure::Other),
        };
        for server in &running.servers {
            server.stop(false).await;
        }
        running.postrider.drain().await;
        folder
            .close()
            .context("the temporary folder is left behind")?;
        played
    }
}

async fn start(stage: Stage, database: std::path::PathBuf) -> Result<(Play, Running), Failure> {
    let mut config = EngineConfig::default();
    config.allow_networks = vec!["127.0.0.0/8".parse().context("a network")?];
    config.drain_timeout = Duration::from_secs(2);
    let (receiver, receiver_url, receiver_handle) = Receiver::start(stage)?;
    let postrider = Postrider::builder()
        .database(DatabaseUrl::Sqlite(database))
        .config(config)
        .start()
        .await;
    let postrider = postrider.context("the engine does not start")?;

    let token = generate_token();
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port for the server")?;
    let base = format!("http://{}", listener.local_addr().context("no address")?);
    let (handle, api_token) = (
        postrider.clone(),
        ApiToken::new(&token).map_err(|detail| anyhow!(detail))?,
    );
    let app = move || App::new().configure(handle.admin_with_tokens(api_token.clone()));
    let server = HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .shutdown_timeout(0);
    let server = server.listen(listener).context("cannot serve")?.run();
    let servers = vec![server.handle(), receiver_handle];
    actix_web::rt::spawn(server);
    let api = Connection::with_token(&base, &token)?;
    stage.happened(
        "server",
        &format!("on {base}, receiver on {receiver_url}"),
        json!({"server": base}),
    );
    Ok((
        Play {
            stage,
            api,
            receiver,
            receiver_url,
        },
        Running { postrider, servers },
    ))
}

impl Play {
    async fn play(&self) -> Result<(), Failure> {
        let stage = self.stage;
        stage.say("Three endpoints: one that works, one that fails twice before it takes an event, one that is down.");
        let good = self.endpoint("good", json!({})).await?;
        let flaky = self
            .endpoint(
                "flaky",
                json!({"retry_delays_s": [1, 1, 2], "breaker_after": 0}),
            )
            .await?;
        let down = json!({"retry_delays_s": [], "breaker_after": BREAKER_AFTER, "concurrency": 1});
        let dead = self.endpoint("dead", down).await?;

        stage.say("Events are published. Each is durable, with its three deliveries, before it is answered.");
        let began = self.publish().await?;

        stage.say("What fails is retried with the same event id. The dead endpoint is left alone after three failures.");
        self.until(&dead, |endpoint| endpoint["health"]["breaker"] != "closed")
            .await?;
        let endpoint = self.get(&format!("/endpoints/{dead}")).await?;
        let waiting = text(&endpoint, "health.pending");
        stage.happened(
            "breaker",
            &format!("open at dead: {waiting} wait and use up no retry"),
            json!({"endpoint": "dead", "breaker": "open", "waiting": endpoint["health"]["pending"]}),
        );
        self.until_ended(&flaky).await?;

        stage.say("The dead endpoint's receiver is repaired. Resumed, what waits goes out.");
        self.receiver.repair();
        self.api
            .call(Method::POST, &format!("/endpoints/{dead}/resume"), None)
            .await?;
        stage.happened("resume", "dead", json!({"endpoint": "dead"}));
        self.until_ended(&dead).await?;

        stage.say("What had failed meanwhile is not lost: a recovery brings it back.");
        self.recover(&dead, &began).await?;
        self.until_ended(&dead).await?;
        self.until_ended(&good).await?;
        self.summary(&[("good", &good), ("flaky", &flaky), ("dead", &dead)])
            .await
    }

    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.api.call(Method::GET, path, None).await
    }

    async fn endpoint(&self, name: &str, mut settings: Value) -> Result<String, Failure> {
        settings["url"] = json!(format!("{}/{name}", self.receiver_url));
        settings["rate_limit"] = json!("unlimited");
        let made = self
            .api
            .call(Method::POST, "/endpoints", Some(settings.to_string()))
            .await?;
        let id = text(&made, "id");
        self.stage.happened(
            "endpoint",
            &format!("{name:5} is {id}"),
            json!({"endpoint": name, "id": id}),
        );
        Ok(id)
    }

    /// Publishes all events; returns when the first one was.
    async fn publish(&self) -> Result<String, Failure> {
        let mut began = String::new();
        for number in 1..=EVENTS {
            let event = json!({"id": format!("order-{number}"), "type": "order.placed", "data": {"order": number}});
            let answer = self
                .api
                .call(Method::POST, "/events", Some(event.to_string()))
                .await?;
            let id = text(&answer, "id");
            self.stage
                .happened("event", &format!("{id} is stored"), json!({"event": id}));
            if number == 1 {
                began = text(&answer, "created_at");
            }
            tokio::time::sleep(BETWEEN_EVENTS).await;
        }
        Ok(began)
    }

    async fn until(&self, endpoint: &str, done: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        while !done(&self.get(&format!("/endpoints/{endpoint}")).await?) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn until_ended(&self, endpoint: &str) -> Result<(), Failure> {
        let ended = |endpoint: &Value| {
            endpoint["health"]["pending"] == 0 && endpoint["health"]["sending"] == 0
        };
        self.until(endpoint, ended).await
    }

    async fn recover(&self, endpoint: &str, since: &str) -> Result<(), Failure> {
        let body = json!({"since": since, "include": "failed"}).to_string();
        let path = format!("/endpoints/{endpoint}/recover");
        let mut recovery = self.api.call(Method::POST, &path, Some(body)).await?;
        while text(&recovery, "status") == "running" {
            tokio::time::sleep(LOOK_EVERY).await;
            recovery = self
                .get(&format!("/recoveries/{}", text(&recovery, "id")))
                .await?;
        }
        let requeued = text(&recovery, "requeued");
        self.stage.happened(
            "recovery",
            &format!("{requeued} deliveries of dead go out again"),
            json!({"endpoint": "dead", "requeued": recovery["requeued"]}),
        );
        Ok(())
    }

    async fn summary(&self, endpoints: &[(&str, &String)]) -> Result<(), Failure> {
        self.stage.say("All of it has arrived:");
        for (name, id) in endpoints {
            let list = self
                .get(&format!(
                    "/deliveries?endpoint_id={id}&status=delivered&limit=250"
                ))
                .await?;
            let delivered = rows(&list).len();
            let text = format!("{name:5} has {delivered} of {EVENTS}");
            self.stage.happened(
                "summary",
                &text,
                json!({"endpoint": name, "delivered": delivered}),
            );
        }
        self.stage.say(TRY_NEXT);
        Ok(())
    }
}

const TRY_NEXT: &str = "\
Nothing of this is left. To try it yourself, in three terminals:
  postrider serve --allow-network 127.0.0.0/8,::1/128
  postrider listen --register --fail-first 2
  postrider send invoice.paid '{\"amount\": 1200}'
Then look: postrider deliveries list --watch
And before going live: postrider doctor";
