//! `/overview` and `/endpoints/{id}/stats`: how all of it is doing, and how one endpoint has been
//! doing.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::auth::{Access, Read};
use super::endpoints::EndpointBody;
use super::problem::Problem;
use super::request::Params;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lifecycle::Status;
use crate::engine::{Bucket, EndpointStats, Overview};

const DEFAULT_WINDOW: Duration = Duration::from_secs(3600);
const WINDOWS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(24 * 3600);

#[derive(OpenApi)]
#[openapi(paths(overview, stats))]
pub(super) struct Api;

/// How old an overview may be: who asks again and again costs no more than one who looks.
pub(super) const FRESH: Duration = Duration::from_secs(1);

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/overview")
                .get(overview)
                .default_service(super::only("GET")),
        )
        .service(
            web::resource("/endpoints/{id}/stats")
                .get(stats)
                .default_service(super::only("GET")),
        );
}

/// Attempts in a part of the time.
#[derive(Serialize, ToSchema)]
#[schema(as = Bucket)]
struct BucketBody {
    at: Timestamp,
    delivered: u64,
    failed: u64,
}

impl BucketBody {
    fn all(series: &[Bucket]) -> Vec<Self> {
        let body = |Bucket {
                        at,
                        delivered,
                        failed,
                    }: &Bucket| Self {
            at: *at,
            delivered: *delivered,
            failed: *failed,
        };
        series.iter().map(body).collect()
    }
}

/// `None` where there were none.
fn success_rate(delivered: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| delivered as f64 / total as f64)
}

#[derive(Serialize, ToSchema)]
#[schema(as = AttemptCounts)]
struct AttemptsBody {
    total: u64,
    delivered: u64,
    failed: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = EndpointCounts)]
struct EndpointsBody {
    total: u64,
    active: u64,
    paused: u64,
    failing: u64,
}

/// How all of it is doing.
#[derive(Serialize, ToSchema)]
#[schema(as = Overview)]
pub(super) struct OverviewBody {
    window_s: u64,
    attempts: AttemptsBody,
    success_rate: Option<f64>,
    throughput_per_s: f64,
    series: Vec<BucketBody>,
    waiting: u64,
    in_flight: u64,
    held: u64,
    oldest_waiting_at: Option<Timestamp>,
    endpoints: EndpointsBody,
    troubled: Vec<EndpointBody>,
}

impl OverviewBody {
    pub(super) fn new(overview: &Overview) -> Self {
        let (delivered, failed) = overview.series.iter().fold((0, 0), |(good, bad), one| {
            (good + one.delivered, bad + one.failed)
        });
        let window_s = overview.window.as_secs();
        let counts = overview.endpoints;
        Self {
            window_s,
            attempts: AttemptsBody {
                total: delivered + failed,
                delivered,
                failed,
            },
            success_rate: success_rate(delivered, delivered + failed),
            throughput_per_s: (delivered + failed) as f64 / window_s.max(1) as f64,
            series: BucketBody::all(&overview.series),
            waiting: overview.waiting,
            in_flight: overview.in_flight,
            held: overview.held,
            oldest_waiting_at: overview.oldest_waiting_at,
            endpoints: EndpointsBody {
                total: counts.total,
                active: counts.active,
                paused: counts.paused,
                failing: counts.failing,
            },
            troubled: overview
                .troubled
                .iter()
                .cloned()
                .map(EndpointBody::new)
                .collect(),
        }
    }
}

/// How all of it is doing
#[utoipa::path(
    get,
    path = "/overview",
    operation_id = "overview",
    tag = "Operating",
    params(
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant's."),
    ),
    responses(
        (status = 200, description = "The last five minutes, what waits, and which endpoints are in trouble.", body = OverviewBody),
    )
)]
async fn overview(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant"]);
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let tenant = access.tenant_filter(tenant)?;
    let overview = access.postrider().recent_overview(&tenant, FRESH).await?;
    Ok(HttpResponse::Ok().json(OverviewBody::new(&overview)))
}

/// Milliseconds.
#[derive(Serialize, ToSchema)]
#[schema(as = Percentiles)]
struct DurationBody {
    p50: f64,
    p95: f64,
    p99: f64,
}

/// How an endpoint has been doing.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointStats)]
struct StatsBody {
    window_s: u64,
    /// By status.
    #[schema(value_type = BTreeMap<String, u64>)]
    deliveries: BTreeMap<Status, u64>,
    /// Attempts by outcome.
    #[schema(value_type = BTreeMap<String, u64>)]
    outcomes: BTreeMap<Outcome, u64>,
    attempts: u64,
    success_rate: Option<f64>,
    duration_ms: Option<DurationBody>,
    series: Vec<BucketBody>,
}

impl StatsBody {
    fn new(stats: EndpointStats, window: Duration) -> Self {
        let counted = stats
            .outcomes
            .iter()
            .filter(|(outcome, _)| outcome.is_conclusive());
        let attempts = counted.map(|(_, count)| count).sum();
        let delivered = stats
            .outcomes
            .get(&Outcome::Delivered)
            .copied()
            .unwrap_or(0);
        Self {
            window_s: window.as_secs(),
            deliveries: stats.deliveries,
            outcomes: stats.outcomes,
            attempts,
            success_rate: success_rate(delivered, attempts),
            duration_ms: stats
                .duration_ms
                .map(|[p50, p95, p99]| DurationBody { p50, p95, p99 }),
            series: BucketBody::all(&stats.series),
        }
    }
}

fn window(text: &str) -> Result<Duration, String> {
    let given = humantime::parse_duration(text)
        .ok()
        .filter(|window| WINDOWS.contains(window));
    given.ok_or_else(|| "must be 1m to 24h, such as 1h".into())
}

/// How an endpoint has been doing
#[utoipa::path(
    get,
    path = "/endpoints/{id}/stats",
    operation_id = "endpointStats",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
        ("window" = Option<String>, Query, description = "1m to 24h; 1h unless given.", pattern = "^(([1-9]|[1-5][0-9])m|([1-9]|1[0-9]|2[0-4])h)$"),
    ),
    responses(
        (status = 200, description = "Counts, and how long attempts took.", body = StatsBody),
    )
)]
async fn stats(
    access: Access<Read>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["window"]);
    let window = params.take_with("window", window).unwrap_or(DEFAULT_WINDOW);
    params.done()?;
    let stats = access
        .postrider()
        .endpoint_stats(&access.endpoint(id).await?, window)
        .await?;
    Ok(HttpResponse::Ok().json(StatsBody::new(stats, window)))
}
