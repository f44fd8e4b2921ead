//! `/endpoints`: where webhooks go.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ListBody;
use super::auth::{Access, Portal, Read};
use super::problem::Problem;
use super::request::{JsonBody, NoFields, NoParams, Params, Strict, wrong_json};
use crate::domain::breaker::{Breaker, BreakerState};
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::PauseReason;
use crate::domain::event::EventFilter;
use crate::domain::headers::MASK;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::rate_limit::RateLimit;
use crate::domain::secret::Secret;
use crate::domain::settings::{EndpointChange, OnFailed, Ordering, Signing};
use crate::engine::{EndpointQuery, EndpointView, Receipt};

const MAX_REQUEST: usize = 256 * 1024;

/// How long both keys sign after a rotation, unless the caller says otherwise: a day.
const DEFAULT_GRACE_S: u64 = 86_400;

type Body = JsonBody<MAX_REQUEST>;

/// What its cursors are told by.
const LIST: &str = "endpoints";

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/endpoints").post(create).get(list).default_service(super::only("POST, GET")))
        .service(
            web::resource("/endpoints/{id}")
                .get(show)
                .patch(update)
                .delete(delete)
                .default_service(super::only("GET, PATCH, DELETE")),
        )
        .service(web::resource("/endpoints/{id}/pause").post(pause).default_service(super::only("POST")))
        .service(web::resource("/endpoints/{id}/resume").post(resume).default_service(super::only("POST")))
        .service(web::resource("/endpoints/{id}/secret").get(secret).default_service(super::only("GET")))
        .service(
            web::resource("/endpoints/{id}/secret/rotate").post(rotate).default_service(super::only("POST")),
        )
        .service(web::resource("/endpoints/{id}/test").post(test).default_service(super::only("POST")));
}

#[derive(Serialize)]
struct HealthBody {
    breaker: BreakerState,
    consecutive_failures: u32,
    hold_until: Option<Timestamp>,
    next_probe_at: Option<Timestamp>,
    next_slot_at: Option<Timestamp>,
    pending: u64,
    sending: u64,
    held: u64,
    oldest_pending_at: Option<Timestamp>,
    estimated_drain_s: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct EndpointBody {
    id: EndpointId,
    url: String,
    tenant: Tenant,
    description: String,
    event_types: Vec<EventFilter>,
    headers: BTreeMap<String, &'static str>,
    rate_limit: RateLimit,
    concurrency: u32,
    timeout_ms: u64,
    retry_delays_s: Vec<u32>,
    max_age_s: u64,
    breaker_after: Option<u32>,
    ordering: Ordering,
    on_failed: OnFailed,
    signing: Vec<Signing>,
    status: &'static str,
    pause_reason: Option<PauseReason>,
    public_key: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    health: HealthBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl EndpointBody {
    pub(super) fn new(view: EndpointView) -> Self {
        let EndpointView { endpoint, health, .. } = view;
        let public_key = endpoint.public_key().map(|key| key.to_string());
        let settings = endpoint.settings;
        Self {
            id: endpoint.id,
            url: settings.url.into(),
            tenant: endpoint.tenant,
            description: settings.description,
            event_types: settings.event_types,
            headers: settings.headers.into_keys().map(|name| (name, MASK)).collect(),
            rate_limit: endpoint.rate_limit,
            concurrency: endpoint.concurrency,
            timeout_ms: u64::try_from(endpoint.timeout.as_millis()).unwrap_or(u64::MAX),
            retry_delays_s: endpoint.retry_schedule.delays_s().to_vec(),
            max_age_s: endpoint.max_age.as_secs(),
            breaker_after: endpoint.breaker_after,
            ordering: settings.ordering,
            on_failed: settings.on_failed,
            signing: settings.signing,
            status: if endpoint.paused.is_some() { "paused" } else { "active" },
            pause_reason: endpoint.paused,
            public_key,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            health: HealthBody {
                breaker: health.state.breaker.state(),
                consecutive_failures: health.state.consecutive_failures,
                hold_until: health.state.hold_until,
                next_probe_at: match health.state.breaker {
                    Breaker::Open { probe_at, .. } => Some(probe_at),
                    Breaker::Closed | Breaker::HalfOpen { .. } => None,
                },
                next_slot_at: health.next_slot_at,
                pending: health.backlog.pending,
                sending: health.backlog.sending,
                held: health.backlog.held,
                oldest_pending_at: health.backlog.oldest_pending_at,
                estimated_drain_s: health.estimated_drain.map(|drain| drain.as_secs_f64().ceil() as u64),
            },
            secret: None,
        }
    }
}

/// `tenant` and `secret` can be given once; the rest is what can be changed later too.
async fn create(access: Access<Portal>, _: NoParams, body: Body) -> Result<HttpResponse, Problem> {
    let mut fields = body.read::<Strict>()?.into_fields();
    let tenant = access.tenant(take_text(&mut fields, "tenant", Tenant::parse)?)?;
    let secret = take_text(&mut fields, "secret", Secret::parse)?;
    let view = access.postrider().create_endpoint(tenant, change_of(fields)?, secret).await?;
    let secret = view.endpoint.present_keys().map(|keys| keys.secret.reveal());
    let shown = EndpointBody { secret, ..EndpointBody::new(view) };
    Ok(HttpResponse::Created().json(shown))
}

fn take_text<T>(
    fields: &mut Map<String, Value>,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => read(&text).map(Some).map_err(|detail| Problem::field(name, detail)),
        Some(_) => Err(Problem::field(name, "must be a string")),
    }
}

fn change_of(fields: Map<String, Value>) -> Result<EndpointChange, Problem> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        wrong_json(error.into_inner(), &path)
    })
}

async fn update(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let fields = body.read::<Strict>()?.into_fields();
    for (name, instead) in
        [("secret", "use POST …/secret/rotate"), ("tenant", "it belongs to the endpoint for good")]
    {
        if fields.contains_key(name) {
            return Err(Problem::field(name, format!("cannot be changed: {instead}")));
        }
    }
    let view = access.postrider().update_endpoint(&access.endpoint(id).await?, change_of(fields)?).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

async fn show(access: Access<Read>, _: NoParams, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let view = access.postrider().endpoint(&access.endpoint(id).await?).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// What is looked for in URLs and descriptions.
fn search(text: &str) -> Result<String, String> {
    let chars = text.chars().count();
    let sought = (1..=200).contains(&chars) && !text.chars().any(char::is_control);
    sought.then(|| text.to_owned()).ok_or_else(|| "must be 1 to 200 characters".into())
}

async fn list(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant", "status", "search", "limit", "cursor"]);
    let (limit, after) = params.page(LIST);
    let tenant = params.take_with("tenant", Tenant::parse);
    let paused = params.take_with("status", |text| match text {
        "active" => Ok(false),
        "paused" => Ok(true),
        _ => Err("must be active or paused".into()),
    });
    let search = params.take_with("search", search);
    params.done()?;
    let tenant = access.tenant_filter(tenant)?;
    let query = EndpointQuery { tenant, paused, search, after, limit };
    let (views, next) = access.postrider().endpoints(query).await?;
    let data = views.into_iter().map(EndpointBody::new).collect();
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, data, next)))
}

async fn delete(access: Access<Portal>, _: NoParams, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    access.postrider().delete_endpoint(&access.endpoint(id).await?).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn pause(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access.postrider().pause_endpoint(&access.endpoint(id).await?).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

async fn resume(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access.postrider().resume_endpoint(&access.endpoint(id).await?).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

#[derive(Serialize)]
struct SecretBody {
    secret: String,
}

async fn secret(access: Access<Portal>, _: NoParams, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let secret = access.postrider().endpoint_secret(&access.endpoint(id).await?).await?;
    Ok(HttpResponse::Ok().json(SecretBody { secret: secret.reveal() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    secret: Option<String>,
    grace_s: Option<u64>,
}

async fn rotate(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let request: RotateRequest = body.read()?;
    let secret = request.secret.as_deref().map(Secret::parse).transpose();
    let secret = secret.map_err(|detail| Problem::field("secret", detail))?;
    let grace = Duration::from_secs(request.grace_s.unwrap_or(DEFAULT_GRACE_S));
    let secret = access.postrider().rotate_secret(&access.endpoint(id).await?, secret, grace).await?;
    Ok(HttpResponse::Ok().json(SecretBody { secret: secret.reveal() }))
}

#[derive(Serialize)]
struct TestBody {
    event_id: crate::domain::ids::EventId,
    delivery_id: Option<crate::domain::ids::DeliveryId>,
}

async fn test(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let receipt: Receipt = access.postrider().test_endpoint(&access.endpoint(id).await?).await?;
    let delivery_id = receipt.deliveries.into_iter().next().map(|(delivery, _)| delivery);
    Ok(HttpResponse::Accepted().json(TestBody { event_id: receipt.id, delivery_id }))
}
