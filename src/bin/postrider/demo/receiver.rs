//! The demo's receiver: one path that works, one that fails at times, one that is down until it is
//! repaired.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;

use super::stage::Stage;

/// How often the flaky one fails before it takes an event.
const FLAKY_FAILS: u32 = 2;

pub(super) struct Receiver {
    stage: Stage,
    repaired: AtomicBool,
    /// Requests by endpoint and event.
    seen: Mutex<HashMap<(String, String), u32>>,
}

impl Receiver {
    /// Starts it on a free port; returns where it is, and what stops it.
    pub(super) fn start(stage: Stage) -> anyhow::Result<(web::Data<Self>, String, ServerHandle)> {
        let receiver = web::Data::new(Self {
            stage,
            repaired: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port for the receiver")?;
        let base = format!("http://{}", listener.local_addr()?);
        let shared = receiver.clone();
        let app = move || {
            App::new()
                .app_data(shared.clone())
                .route("/{name}", web::post().to(receive))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0);
        let server = server.listen(listener).context("cannot serve")?.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Ok((receiver, base, handle))
    }

    pub(super) fn repair(&self) {
        self.repaired.store(true, Ordering::Relaxed);
    }
}

async fn receive(
    receiver: web::Data<Receiver>,
    name: web::Path<String>,
    request: HttpRequest,
    _body: web::Bytes,
) -> HttpResponse {
    let event = request
        .headers()
        .get("webhook-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    let count = {
        let mut seen = receiver.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry((name.clone(), event.to_owned())).or_default();
        *count += 1;
        *count
    };
    let works = match name.as_str() {
        "flaky" => count > FLAKY_FAILS,
        "dead" => receiver.repaired.load(Ordering::Relaxed),
        _ => true,
    };
    receiver.stage.received(&name, event, count, works);
    if works {
        HttpResponse::Ok().finish()
    } else {
        HttpResponse::InternalServerError().finish()
    }
}
