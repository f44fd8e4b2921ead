//! The demo's receiver: one path that works, one that fails at first, and one that is down until it
//! is fixed.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;

use super::timeline::Timeline;

/// Failures of the flaky path before it accepts an event.
const FLAKY_FAILURES: u32 = 2;

pub(super) struct DemoReceiver {
    timeline: Timeline,
    is_fixed: AtomicBool,
    /// Requests per endpoint and event.
    requests: Mutex<HashMap<(String, String), u32>>,
}

impl DemoReceiver {
    /// Starts the receiver on a free port; returns it with its URL and the handle that stops it.
    pub(super) fn start(
        timeline: Timeline,
    ) -> anyhow::Result<(web::Data<Self>, String, ServerHandle)> {
        let receiver = web::Data::new(Self {
            timeline,
            is_fixed: AtomicBool::new(false),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0")
            .context("cannot listen on a free port of 127.0.0.1 for the receiver")?;
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
        let server = server
            .listen(listener)
            .context("cannot start the receiver")?
            .run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Ok((receiver, base, handle))
    }

    /// Makes the path that is down work.
    pub(super) fn fix(&self) {
        self.is_fixed.store(true, Ordering::Relaxed);
    }
}

async fn receive(
    receiver: web::Data<DemoReceiver>,
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
        let mut requests = receiver
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = requests
            .entry((name.clone(), event.to_owned()))
            .or_default();
        *count += 1;
        *count
    };
    let accepted = match name.as_str() {
        "flaky" => count > FLAKY_FAILURES,
        "dead" => receiver.is_fixed.load(Ordering::Relaxed),
        _ => true,
    };
    receiver.timeline.request(&name, event, count, accepted);
    if accepted {
        HttpResponse::Ok().finish()
    } else {
        HttpResponse::InternalServerError().finish()
    }
}
