//! `/healthz`, `/readyz` and `/metrics`.

use std::time::Duration;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::caller::access::Access;
use super::caller::gate::Gate;
use super::head;
use super::native::extract::authenticate;
use super::native::problem::Problem;
use super::route::only;
use crate::engine::MetricsFormat;
use crate::engine::scoped::Read;

#[derive(OpenApi)]
#[openapi(paths(healthz, readyz, metrics))]
pub(super) struct ProbesApi;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(probe("/healthz", web::get().to(healthz)))
        .service(probe("/readyz", web::get().to(readyz)))
        .service(
            web::resource("/metrics")
                .wrap(from_fn(authenticate))
                .wrap(from_fn(head::as_get))
                .get(metrics)
                .default_service(only(&["GET"])),
        );
}

fn probe(path: &str, get: actix_web::Route) -> impl HttpServiceFactory + use<> {
    web::resource(path)
        .route(get)
        .default_service(only(&["GET"]))
        .wrap(from_fn(head::as_get))
}

/// The status of a probe.
#[derive(Serialize, ToSchema)]
#[schema(as = Probe)]
struct StatusBody {
    status: &'static str,
}

/// The lag of a thread that sends.
#[derive(Serialize, ToSchema)]
#[schema(as = SendingThread)]
struct SendingThreadBody {
    thread: usize,
    /// The largest lag in the last seconds, in milliseconds.
    lag_ms: u64,
}

/// The readiness of the process.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness)]
struct ReadinessBody {
    #[schema(example = "ready")]
    status: &'static str,
    /// `ready`, or `waiting for leases` while this process sends for no endpoint.
    #[schema(example = "ready")]
    sending: &'static str,
    #[schema(example = json!([{"thread": 0, "lag_ms": 0}]))]
    sending_threads: Vec<SendingThreadBody>,
}

/// Check that the process is alive
#[utoipa::path(
    get,
    path = "healthz",
    operation_id = "healthz",
    tag = "Operating",
    responses(
        (status = 200, description = "The process is alive.", body = StatusBody),
    ),
    security(())
)]
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(StatusBody { status: "ok" })
}

/// Check that events are accepted and sent
#[utoipa::path(
    get,
    path = "readyz",
    operation_id = "readyz",
    tag = "Operating",
    responses(
        (status = 200, description = "The database takes writes. `sending` tells whether this process has leases to send.", body = ReadinessBody),
    ),
    security(())
)]
async fn readyz(gate: web::Data<Gate>) -> Result<HttpResponse, Problem> {
    let ready = gate.postrider.ready().await?;
    let lag = |(thread, lag): (usize, Duration)| SendingThreadBody {
        thread,
        lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(HttpResponse::Ok().json(ReadinessBody {
        status: "ready",
        sending: match ready.has_leases {
            true => "ready",
            false => "waiting for leases",
        },
        sending_threads: ready.sending_lags.into_iter().map(lag).collect(),
    }))
}

/// Metrics
#[utoipa::path(
    get,
    path = "metrics",
    operation_id = "metrics",
    tag = "Operating",
    responses(
        (status = 200, description = "OpenMetrics or the text format of Prometheus, as `accept` requests.", body = String, content_type = "text/plain", example = "# TYPE postrider_waiting gauge\npostrider_waiting 0\n"),
    )
)]
async fn metrics(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    let format = MetricsFormat::accepted(accept.unwrap_or_default());
    let text = access.metrics(format).await?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, format.content_type()))
        .insert_header((VARY, "accept"))
        .body(text))
}
