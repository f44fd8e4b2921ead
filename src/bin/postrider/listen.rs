//! `postrider listen`: a receiver for development. It verifies each webhook, prints it, and can be
//! told to misbehave.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use postrider::domain::clock::{Clock as _, SystemClock};
use postrider::signature::{Content, ReceiverKey};
use reqwest::Method;
use serde_json::json;

use crate::api::Client;
use crate::output::{Failure, text};
use crate::serve::stop_signal;

const MAX_BODY: usize = 1024 * 1024;

/// Run a receiver for development: it verifies and prints each webhook.
#[derive(Debug, clap::Args)]
pub(crate) struct Listen {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,

    /// The endpoint's secret, or its public key (whpk_…), to verify by
    #[arg(
        long,
        env = "POSTRIDER_SECRET",
        value_name = "whsec_…",
        hide_env_values = true,
        conflicts_with = "register"
    )]
    secret: Option<String>,

    /// Add an endpoint for this receiver to the server, verify by its secret, and delete it at the
    /// end
    #[arg(long)]
    register: bool,

    /// With --register: attempt starts, such as 100/min or unlimited
    #[arg(long, requires = "register")]
    rate_limit: Option<String>,

    /// Answer with this status
    #[arg(long, value_name = "CODE", default_value_t = 200)]
    status: u16,

    /// Never answer
    #[arg(long)]
    hang: bool,

    /// Answer the first N requests with 500
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail_first: u64,

    #[command(flatten)]
    client: Client,
}

struct Receiver {
    secret: Option<ReceiverKey>,
    status: StatusCode,
    hang: bool,
    fail_first: u64,
    json: bool,
    received: AtomicU64,
}

impl Listen {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let status = StatusCode::from_u16(self.status).context("--status")?;
        let listener = TcpListener::bind(self.listen).with_context(|| {
            format!(
                "cannot listen on {}: choose another port by --listen",
                self.listen
            )
        })?;
        let address = listener.local_addr().context("no address")?;
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

        let verifies = if secret.is_some() {
            "verifying signatures"
        } else {
            "not verifying (no --secret)"
        };
        let whose = registered
            .as_ref()
            .map_or(String::new(), |id| format!(" as {id}"));
        eprintln!("listening on http://{address}/{whose}, {verifies}; Ctrl-C ends");
        let receiver = web::Data::from(Arc::new(Receiver {
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
                .app_data(web::PayloadConfig::new(MAX_BODY))
                .default_service(web::to(receive))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0);
        let server = server.listen(listener).context("cannot serve")?.run();
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
    receiver: web::Data<Receiver>,
    request: HttpRequest,
    body: web::Bytes,
) -> HttpResponse {
    let count = receiver.received.fetch_add(1, Ordering::Relaxed) + 1;
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (id, timestamp, signatures) = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    );
    let now = SystemClock::new().now();
    let verdict = match &receiver.secret {
        None => "unverified".to_owned(),
        Some(key) => match Content::received(&id, &timestamp, &body)
            .and_then(|content| content.verify(key, &signatures, now))
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
    let shown = String::from_utf8_lossy(&body);
    if receiver.json {
        let line = json!({
            "received_at": now.to_string(), "id": id, "verdict": verdict, "answer": answer, "body": shown,
        });
        println!("{line}");
    } else {
        println!("{now}  #{count}  {id}  {verdict}  -> {answer}\n  {shown}");
    }
    if receiver.hang {
        // Longer than any sender waits.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    HttpResponse::build(status).finish()
}
