//! `/overview` and `/endpoints/{id}/stats`.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};

use super::bodies::stats::{OverviewBody, StatsBody};
use super::extract::Id;
use super::params::Params;
use super::problem::Problem;
use crate::domain::ids::{EndpointId, Tenant};
use crate::engine::scoped::Read;
use crate::http::caller::access::Access;
use crate::http::route::routes;

const DEFAULT_WINDOW: Duration = Duration::from_secs(3600);
const WINDOWS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(24 * 3600);

routes!(overview, stats);

/// Maximum age of an overview: frequent requests share one.
pub(super) const OVERVIEW_MAX_AGE: Duration = Duration::from_secs(1);

/// Show an overview
#[utoipa::path(
    get,
    path = "/overview",
    operation_id = "overview",
    tag = "Operating",
    params(
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant."),
    ),
    responses(
        (status = 200, description = "The last five minutes, the backlog, and endpoints in trouble.", body = OverviewBody),
    )
)]
async fn overview(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant"]);
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let overview = access.overview(tenant, OVERVIEW_MAX_AGE).await?;
    Ok(HttpResponse::Ok().json(OverviewBody::new(&overview)))
}

fn window(text: &str) -> Result<Duration, String> {
    let given = humantime::parse_duration(text)
        .ok()
        .filter(|window| WINDOWS.contains(window));
    given.ok_or_else(|| "must be 1m to 24h, such as 1h".into())
}

/// Show statistics of an endpoint
#[utoipa::path(
    get,
    path = "/endpoints/{id}/stats",
    operation_id = "endpointStats",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
        ("window" = Option<String>, Query, description = "1m to 24h; default 1h.", pattern = "^(([1-9]|[1-5][0-9])m|([1-9]|1[0-9]|2[0-4])h)$"),
    ),
    responses(
        (status = 200, description = "Counts, and durations of attempts.", body = StatsBody),
    )
)]
async fn stats(
    access: Access<Read>,
    request: HttpRequest,
    Id(id): Id<EndpointId>,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["window"]);
    let window = params.take_with("window", window).unwrap_or(DEFAULT_WINDOW);
    params.done()?;
    let stats = access.endpoint_stats(&id, window).await?;
    Ok(HttpResponse::Ok().json(StatsBody::new(stats, window)))
}
