//! `/endpoints`: where webhooks go.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{OpenApi, ToSchema};

use super::ListBody;
use super::auth::{Access, Portal, Read};
use super::openapi::{ChangedEndpoint, NewEndpoint, Standing};
use super::problem::Problem;
use super::request::{JsonBody, NoFields, NoParams, Params, Strict, wrong_json};
use crate::domain::breaker::{Breaker, BreakerState};
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::PauseReason;
use crate::domain::event::EventFilter;
use crate::domain::headers::MASK;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::rate_limit::RateLimit;
use crate::domain::secret::SigningSecret;
use crate::domain::settings::{EndpointChange, OnFailed, Ordering, Signing};
use crate::engine::{EndpointQuery, EndpointView, Receipt};

pub(super) const MAX_REQUEST: usize = 256 * 1024;

type Body = JsonBody<MAX_REQUEST>;

/// What its cursors are told by.
const LIST: &str = "endpoints";

#[derive(OpenApi)]
#[openapi(paths(create, list, show, update, delete, pause, resume, test))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/endpoints")
                .post(create)
                .get(list)
                .default_service(super::only("POST, GET")),
        )
        .service(
            web::resource("/endpoints/{id}")
                .get(show)
                .patch(update)
                .delete(delete)
                .default_service(super::only("GET, PATCH, DELETE")),
        )
        .service(
            web::resource("/endpoints/{id}/pause")
                .post(pause)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/endpoints/{id}/resume")
                .post(resume)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/endpoints/{id}/test")
                .post(test)
                .default_service(super::only("POST")),
        );
}

/// How an endpoint is doing.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
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

/// Where webhooks go.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(super) struct EndpointBody {
    id: EndpointId,
    #[schema(example = "https://example.com/hook")]
    url: String,
    tenant: Tenant,
    #[schema(example = "Billing")]
    description: String,
    event_types: Vec<EventFilter>,
    /// Values are shown as `***`.
    #[schema(value_type = BTreeMap<String, String>)]
    headers: BTreeMap<String, &'static str>,
    rate_limit: RateLimit,
    #[schema(example = 3)]
    concurrency: u32,
    #[schema(example = 15000)]
    timeout_ms: u64,
    #[schema(example = json!([10, 20, 40, 80]))]
    retry_delays_s: Vec<u32>,
    #[schema(example = 2592000)]
    max_age_s: u64,
    #[schema(example = 10)]
    breaker_after: Option<u32>,
    ordering: Ordering,
    on_failed: OnFailed,
    signing: Vec<Signing>,
    #[schema(value_type = Standing)]
    status: &'static str,
    pause_reason: Option<PauseReason>,
    public_key: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    health: HealthBody,
    /// In the answer that creates it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl EndpointBody {
    pub(super) fn new(view: EndpointView) -> Self {
        let EndpointView {
            endpoint, health, ..
        } = view;
        let public_key = endpoint.public_key().map(|key| key.to_string());
        let settings = endpoint.settings;
        Self {
            id: endpoint.id,
            url: settings.url.into(),
            tenant: endpoint.tenant,
            description: settings.description,
            event_types: settings.event_types,
            headers: settings
                .headers
                .into_keys()
                .map(|name| (name, MASK))
                .collect(),
            rate_limit: endpoint.rate_limit,
            concurrency: endpoint.concurrency,
            timeout_ms: u64::try_from(endpoint.timeout.as_millis()).unwrap_or(u64::MAX),
            retry_delays_s: endpoint.retry_schedule.delays_s().to_vec(),
            max_age_s: endpoint.max_age.as_secs(),
            breaker_after: endpoint.breaker_after,
            ordering: settings.ordering,
            on_failed: settings.on_failed,
            signing: settings.signing,
            status: if endpoint.paused.is_some() {
                "paused"
            } else {
                "active"
            },
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
                estimated_drain_s: health
                    .estimated_drain
                    .map(|drain| drain.as_secs_f64().ceil() as u64),
            },
            secret: None,
        }
    }
}

/// What the stream tells of an endpoint.
#[derive(Serialize)]
pub(super) struct EndpointOutline {
    id: EndpointId,
    status: &'static str,
    pause_reason: Option<PauseReason>,
    breaker: BreakerState,
}

impl EndpointBody {
    pub(super) fn outline(self) -> EndpointOutline {
        let Self {
            id,
            status,
            pause_reason,
            health,
            ..
        } = self;
        EndpointOutline {
            id,
            status,
            pause_reason,
            breaker: health.breaker,
        }
    }
}

/// Create an endpoint
///
/// `tenant` and `secret` can be given once; the rest is what can be changed later too.
#[utoipa::path(
    post,
    path = "/endpoints",
    operation_id = "createEndpoint",
    tag = "Endpoints",
    request_body(content = NewEndpoint),
    responses(
        (status = 201, description = "The endpoint, and this once its secret.", body = EndpointBody),
    )
)]
async fn create(access: Access<Portal>, _: NoParams, body: Body) -> Result<HttpResponse, Problem> {
    let mut fields = body.read::<Strict>()?.into_fields();
    let tenant = access.tenant(take_text(&mut fields, "tenant", Tenant::parse)?)?;
    let secret = take_text(&mut fields, "secret", SigningSecret::parse)?;
    let asymmetric = matches!(secret, Some(SigningSecret::Private(_)));
    let view = access
        .postrider()
        .create_endpoint(tenant, change_of(fields)?, secret)
        .await?;
    let secret = view
        .endpoint
        .present_keys()
        .map(|keys| keys.signing_secret(asymmetric).reveal());
    let shown = EndpointBody {
        secret,
        ..EndpointBody::new(view)
    };
    Ok(HttpResponse::Created().json(shown))
}

fn take_text<T>(
    fields: &mut Map<String, Value>,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => read(&text)
            .map(Some)
            .map_err(|detail| Problem::field(name, detail)),
        Some(_) => Err(Problem::field(name, "must be a string")),
    }
}

fn change_of(fields: Map<String, Value>) -> Result<EndpointChange, Problem> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        wrong_json(error.into_inner(), &path)
    })
}

/// Change an endpoint
///
/// It takes effect at once. Arrays and headers are replaced whole.
#[utoipa::path(
    patch,
    path = "/endpoints/{id}",
    operation_id = "changeEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    request_body(content = ChangedEndpoint),
    responses(
        (status = 200, description = "The endpoint as it is now.", body = EndpointBody),
    )
)]
async fn update(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let fields = body.read::<Strict>()?.into_fields();
    for (name, instead) in [
        ("secret", "use POST …/secret/rotate"),
        ("tenant", "it belongs to the endpoint for good"),
    ] {
        if fields.contains_key(name) {
            return Err(Problem::field(
                name,
                format!("cannot be changed: {instead}"),
            ));
        }
    }
    let view = access
        .postrider()
        .update_endpoint(&access.endpoint(id).await?, change_of(fields)?)
        .await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// One endpoint
#[utoipa::path(
    get,
    path = "/endpoints/{id}",
    operation_id = "showEndpoint",
    tag = "Endpoints",
    params(("id" = EndpointId, Path)),
    responses((status = 200, description = "The endpoint.", body = EndpointBody))
)]
async fn show(
    access: Access<Read>,
    _: NoParams,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .endpoint(&access.endpoint(id).await?)
        .await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// What is looked for in URLs and descriptions.
fn search(text: &str) -> Result<String, String> {
    let chars = text.chars().count();
    let sought = (1..=200).contains(&chars) && !text.chars().any(char::is_control);
    sought
        .then(|| text.to_owned())
        .ok_or_else(|| "must be 1 to 200 characters".into())
}

/// Endpoints
#[utoipa::path(
    get,
    path = "/endpoints",
    operation_id = "listEndpoints",
    tag = "Endpoints",
    params(
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant's."),
        ("status" = Option<Standing>, Query, description = "Only active or only paused ones."),
        ("search" = Option<String>, Query, description = "Only those with this in their URL or description.", max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"),
        ("limit" = Option<i64>, Query, description = "How many at most: 50 unless given.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before.", pattern = "^endpoints:[A-Za-z0-9_-]{1,64}$"),
    ),
    responses(
        (status = 200, description = "A page.", body = ListBody<EndpointBody>),
    )
)]
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
    let query = EndpointQuery {
        tenant,
        paused,
        search,
        after,
        limit,
    };
    let (views, next) = access.postrider().endpoints(query).await?;
    let data = views.into_iter().map(EndpointBody::new).collect();
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, data, next)))
}

/// Delete an endpoint
#[utoipa::path(
    delete,
    path = "/endpoints/{id}",
    operation_id = "deleteEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 204, description = "What waited for it has failed (`endpoint_deleted`); its history stays."),
    )
)]
async fn delete(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    access
        .postrider()
        .delete_endpoint(&access.endpoint(id).await?)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Pause an endpoint
///
/// Nothing new is sent, what is in flight ends, everything waits.
#[utoipa::path(
    post,
    path = "/endpoints/{id}/pause",
    operation_id = "pauseEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 200, description = "The endpoint as it is now.", body = EndpointBody),
    )
)]
async fn pause(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .pause_endpoint(&access.endpoint(id).await?)
        .await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// Resume an endpoint
///
/// Whatever paused it; it also clears a hold and closes the breaker.
#[utoipa::path(
    post,
    path = "/endpoints/{id}/resume",
    operation_id = "resumeEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 200, description = "The endpoint as it is now.", body = EndpointBody),
    )
)]
async fn resume(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .resume_endpoint(&access.endpoint(id).await?)
        .await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// The test that was sent.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointTest)]
struct TestBody {
    event_id: crate::domain::ids::EventId,
    delivery_id: Option<crate::domain::ids::DeliveryId>,
}

/// Send it a test event
#[utoipa::path(
    post,
    path = "/endpoints/{id}/test",
    operation_id = "testEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 202, description = "A `postrider.test` event is on its way to this endpoint alone.", body = TestBody),
    )
)]
async fn test(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let receipt: Receipt = access
        .postrider()
        .test_endpoint(&access.endpoint(id).await?)
        .await?;
    let delivery_id = receipt
        .deliveries
        .into_iter()
        .next()
        .map(|(delivery, _)| delivery);
    Ok(HttpResponse::Accepted().json(TestBody {
        event_id: receipt.id,
        delivery_id,
    }))
}
