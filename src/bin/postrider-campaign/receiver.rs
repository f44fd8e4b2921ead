//! The receiver: verifies each webhook, logs it, and responds as its path says.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use postrider::domain::clock::Clock as _;
use postrider::ports::SystemClock;
use postrider::signature::{ReceiverKey, SignedContent};

use crate::ledger::{Ledger, Request, hash, now};

#[derive(Debug, clap::Args)]
pub(crate) struct ReceiverArgs {
    /// Folder of the ledger, and of the secrets
    #[arg(long)]
    folder: PathBuf,
    /// Port on loopback
    #[arg(long)]
    port: u16,
}

struct Receiver {
    folder: PathBuf,
    ledger: Ledger,
    /// Secrets of the endpoints, read when the first request of one arrives.
    keys: Mutex<HashMap<usize, ReceiverKey>>,
}

impl ReceiverArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port))
            .with_context(|| format!("cannot listen on port {}", self.port))?;
        let receiver = web::Data::new(Receiver {
            ledger: Ledger::append_to(&self.folder.join("received"))?,
            folder: self.folder,
            keys: Mutex::default(),
        });
        let app = move || {
            App::new()
                .app_data(receiver.clone())
                .route("/{behaviour}/{endpoint}", web::post().to(receive))
        };
        let server = HttpServer::new(app).workers(1).listen(listener)?;
        Ok(server.run().await?)
    }
}

async fn receive(
    receiver: web::Data<Receiver>,
    path: web::Path<(String, usize)>,
    request: HttpRequest,
    body: web::Bytes,
) -> HttpResponse {
    let at = now();
    let (behaviour, endpoint) = path.into_inner();
    let hangs = behaviour == "hang";
    let id = header(&request, "webhook-id").to_owned();
    receiver.ledger.note(&Request {
        at,
        endpoint,
        is_signed: receiver.is_signed(endpoint, &id, &request, &body),
        id,
        hash: hash(&body),
        status: if hangs { 0 } else { 200 },
    });
    if hangs {
        // Longer than any sender's timeout.
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    HttpResponse::Ok().finish()
}

impl Receiver {
    fn is_signed(&self, endpoint: usize, id: &str, request: &HttpRequest, body: &[u8]) -> bool {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains_key(&endpoint) {
            let secrets = std::fs::read_to_string(self.folder.join("secrets")).unwrap_or_default();
            let secrets = secrets.lines().enumerate();
            keys.extend(secrets.filter_map(|(n, secret)| Some((n, secret.parse().ok()?))));
        }
        let timestamp = header(request, "webhook-timestamp");
        let signatures = header(request, "webhook-signature");
        let now = SystemClock::new().now();
        keys.get(&endpoint).is_some_and(|key| {
            SignedContent::received(id, timestamp, body)
                .is_ok_and(|content| content.verify(key, signatures, now).is_ok())
        })
    }
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> &'r str {
    let value = request.headers().get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
