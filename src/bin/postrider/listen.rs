//! `postrider listen`: a development receiver. It verifies and prints each webhook, and can be made
//! to fail.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use postrider::domain::clock::Clock as _;
use postrider::ports::SystemClock;
use postrider::signature::{ReceiverKey, SignedContent};
use reqwest::Method;
use serde_json::json;

use crate::api::ClientArgs;
use crate::output::{CommandError, text};
use crate::serve::stop_signal;

const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Run a development receiver that verifies and prints each webhook.
#[derive(Debug, clap::Args)]
pub(crate) struct ListenArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,

    /// The endpoint's secret (whsec_…) or public key (whpk_…), used to verify signatures
    #[arg(
        long,
        env = "POSTRIDER_SECRET",
        value_name = "whsec_…",
        hide_env_values = true,
        conflicts_with = "register"
    )]
    secret: Option<String>,

    /// Add an endpoint for this receiver to the server, verify signatures with its secret, and
    /// delete it on exit
    #[arg(long)]
    register: bool,

    /// With --register: the endpoint's rate limit (attempt starts), such as 100/min or unlimited
    #[arg(long, requires = "register")]
    rate_limit: Option<String>,

    /// Respond with this status code
    #[arg(long, value_name = "CODE", default_value_t = 200)]
    status: u16,

    /// Never respond
    #[arg(long)]
    hang: bool,

    /// Respond to the first N requests with 500
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail_first: u64,

    #[command(flatten)]
    client: ClientArgs,
}

struct DevReceiver {
    secret: Option<ReceiverKey>,
    status: StatusCode,
    hang: bool,
    fail_first: u64,
    json: bool,
    received: AtomicU64,
}

impl ListenArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let status = StatusCode::from_u16(self.status).with_context(|| {
            format!(
                "--status {}: not an HTTP status code (100 to 999)",
                self.status
            )
        })?;
        let listener = TcpListener::bind(self.listen).with_context(|| {
            format!(
                "cannot listen on {}: choose another address with --listen",
                self.listen
            )
        })?;
        let address = listener.local_addr().context("cannot read the address")?;
        let mut registered = None;
        let secret = if self.register {
            let body = json!({
                "url": format!("http://{address}/"),
                "description": "postrider listen",
                "rate_limit": self.rate_limit,
            });
            let endpoint = self
                .client
                .call(Method::POST, "/endpoints", Some(body.to_string()))
                .await?;
            registered = Some(text(&endpoint, "id"));
            Some(text(&endpoint, "secret"))
        } else {
            self.secret.clone()
        };
        let secret = secret.as_deref().map(str::parse::<ReceiverKey>).transpose();
        let secret = secret.map_err(|detail| anyhow::anyhow!("--secret {detail}"))?;

        let verification = if secret.is_some() {
            "verifying signatures"
        } else {
            "not verifying signatures (no --secret)"
        };
        let endpoint = registered
            .as_ref()
            .map_or(String::new(), |id| format!(" as {id}"));
        eprintln!("listening on http://{address}/{endpoint}, {verification}; press Ctrl-C to stop");
        let receiver = web::Data::from(Arc::new(DevReceiver {
            secret,
            status,
            hang: self.hang,
            fail_first: self.fail_first,
            json: self.client.json,
            received: AtomicU64::new(0),
        }));
        let app = move || {
            App::new()
                .app_data(receiver.clone())
                .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
                .default_service(web::to(receive))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0);
        let server = server
            .listen(listener)
            .context("cannot start the receiver")?
            .run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        stop_signal().await?;
        handle.stop(false).await;
        if let Some(id) = registered {
            self.client
                .call(Method::DELETE, &format!("/endpoints/{id}"), None)
                .await?;
        }
        Ok(())
    }
}

async fn receive(
    receiver: web::Data<DevReceiver>,
    request: HttpRequest,
    body: web::Bytes,
) -> HttpResponse {
    let count = receiver.received.fetch_add(1, Ordering::Relaxed) + 1;
    let id = header(&request, "webhook-id");
    let timestamp = header(&request, "webhook-timestamp");
    let signatures = header(&request, "webhook-signature");
    let now = SystemClock::new().now();
    let verdict = match &receiver.secret {
        None => "unverified".to_owned(),
        Some(key) => match SignedContent::received(id, timestamp, &body)
            .and_then(|content| content.verify(key, signatures, now))
        {
            Ok(()) => "verified".to_owned(),
            Err(why) => format!("NOT TRUSTED: {why}"),
        },
    };
    let status = if count <= receiver.fail_first {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        receiver.status
    };
    let answer = if receiver.hang {
        "no answer".to_owned()
    } else {
        status.as_u16().to_string()
    };
    let body = String::from_utf8_lossy(&body);
    if receiver.json {
        let line = json!({
            "received_at": now.to_string(), "id": id, "verdict": verdict, "answer": answer, "body": body,
        });
        println!("{line}");
    } else {
        println!("{now}  #{count}  {id}  {verdict}  -> {answer}\n  {body}");
    }
    if receiver.hang {
        // Longer than any sender's timeout.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    HttpResponse::build(status).finish()
}

/// Returns a request header; empty if it is missing or not ASCII.
fn header<'r>(request: &'r HttpRequest, name: &str) -> &'r str {
    request
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
