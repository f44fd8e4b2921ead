//! A little backend that tells its customers of their trades. It used to send webhooks by itself,
//! after its commit; what was lost by a time-out, a 5xx or a restart stayed lost. Now the trade and
//! its webhook are committed together, and Postrider, in the same process, sends it until it has
//! arrived.
//!
//! ```console
//! $ WEBHOOK_URL=http://127.0.0.1:9000/hook cargo run --example notifications
//! $ curl -d '{"symbol":"ACME","quantity":10}' -H 'Content-Type: application/json' http://127.0.0.1:8080/trades
//! $ curl -H 'X-Operator-Key: let-me-in' http://127.0.0.1:8080/webhooks/api/v1/deliveries
//! ```
//!
//! `DATABASE_URL` is `sqlite:trades.db`, or `postgres://…`. `docs/embedding.md` builds this up step
//! by step.

#![allow(
    clippy::disallowed_methods,
    reason = "the rules of the library are not those of a host"
)]

mod trades;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpResponse, HttpServer, error, web};
use postrider::Postrider;
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::ids::Tenant;
use postrider::domain::query::{EndpointQuery, Page};
use postrider::domain::settings::EndpointChange;
use trades::{Order, TradeError};

/// What every handler needs.
#[derive(Clone)]
struct Backend {
    database: DatabaseUrl,
    postrider: Postrider,
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let setting =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let database: DatabaseUrl = setting("DATABASE_URL", "sqlite:trades.db").parse()?;
    trades::connect(&database)?.migrate()?;

    // Retries after 10, 20, 40 and 80 s, ten a minute and three in flight are the defaults.
    let mut config = EngineConfig::default();
    config.event_id_header = Some("X-Example-Event-Id".into());
    config.allow_networks = vec!["127.0.0.0/8".parse()?]; // for a receiver on this machine
    let postrider = Postrider::builder()
        .database(database.clone())
        .config(config)
        .start()
        .await?;
    if let Ok(url) = std::env::var("WEBHOOK_URL") {
        let known = postrider
            .endpoints(EndpointQuery::default(), Page::first(1))
            .await?;
        if known.entries.is_empty() {
            postrider
                .create_endpoint(Tenant::default(), EndpointChange::to(url.parse()?), None)
                .await?;
        }
    }

    let backend = Backend {
        database,
        postrider: postrider.clone(),
    };
    let app = move || {
        App::new()
            .app_data(web::Data::new(backend.clone()))
            .route("/trades", web::post().to(execute))
            .route("/trades", web::get().to(all))
            .service(
                web::scope("/webhooks")
                    .configure(backend.postrider.api())
                    .wrap(from_fn(operators_only)),
            )
    };
    let server = HttpServer::new(app)
        .workers(2)
        .bind(setting("LISTEN", "127.0.0.1:8080"))?;
    for address in server.addrs() {
        eprintln!("listens on http://{address}");
    }
    server.run().await?;
    // What is in flight ends first, and nothing is sent twice.
    postrider.drain().await;
    Ok(())
}

async fn execute(
    backend: web::Data<Backend>,
    order: web::Json<Order>,
) -> Result<HttpResponse, Error> {
    // diesel blocks, so it does that on a thread that may.
    let done = web::block(move || {
        let mut conn = trades::connect(&backend.database).map_err(|error| error.to_string())?;
        let done = conn.execute(&backend.postrider, order.into_inner());
        if std::env::var_os("ABORT_AFTER_COMMIT").is_some() && done.is_ok() {
            std::process::abort(); // as a crash would, for the test of this example
        }
        Ok::<_, String>(done)
    });
    match done.await?.map_err(error::ErrorServiceUnavailable)? {
        Ok((trade, event_id)) => Ok(HttpResponse::Created()
            .json(serde_json::json!({ "trade": trade, "eventId": event_id }))),
        Err(refused @ TradeError::AboveLimit(_)) => Err(error::ErrorUnprocessableEntity(refused)),
        Err(failed) => Err(error::ErrorServiceUnavailable(failed)),
    }
}

async fn all(backend: web::Data<Backend>) -> Result<HttpResponse, Error> {
    let read = move || {
        let mut conn = trades::connect(&backend.database).map_err(|error| error.to_string())?;
        conn.all().map_err(|error| error.to_string())
    };
    Ok(HttpResponse::Ok().json(
        web::block(read)
            .await?
            .map_err(error::ErrorServiceUnavailable)?,
    ))
}

/// The host's own authentication. (A real one asks more of its operators.)
async fn operators_only(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let given = request
        .headers()
        .get("X-Operator-Key")
        .map(|key| key.as_bytes());
    if given != Some(b"let-me-in") {
        return Err(error::ErrorUnauthorized("operators only"));
    }
    next.call(request).await
}
