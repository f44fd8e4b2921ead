//! `/events`: publishing events and reading them.

use actix_web::{HttpRequest, HttpResponse};

use super::bodies::event::{
    BatchBody, BatchRequest, EventBody, EventRequest, FullEventBody, ReceiptBody,
};
use super::bodies::list::ListBody;
use super::body::{JsonBody, Object};
use super::extract::Id;
use super::params::{NoQuery, Params};
use super::problem::Problem;
use crate::domain::clock::Timestamp;
use crate::domain::event::{EventType, NewEvent};
use crate::domain::idempotency;
use crate::domain::ids::{EventId, Tenant};
use crate::domain::query::EventQuery;
use crate::domain::trace::{TRACEPARENT, TraceParent};
use crate::engine::scoped::{Publish, Read};
use crate::http::caller::access::Access;
use crate::http::route::routes;

/// A single event: 256 KiB of payload, in which JSON may escape each byte with six.
const MAX_EVENT_REQUEST: usize = 2 * 1024 * 1024;
const MAX_BATCH_REQUEST: usize = 16 * 1024 * 1024;

/// The header with an idempotency key.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

routes!(publish, publish_batch, list, show);

/// Reads an event from a request's body, if it is valid.
#[cfg(feature = "testing")]
pub(crate) fn read_event(body: &[u8]) -> Option<NewEvent> {
    let body = JsonBody::<MAX_EVENT_REQUEST>::from_bytes(bytes::Bytes::copy_from_slice(body));
    body.read::<EventRequest>()
        .ok()?
        .into_event(&Tenant::default(), "")
        .ok()
}

/// Publish an event
///
/// Give either `data` (any JSON) or `payload` with its `content_type`. The same id with the same
/// content is a duplicate and gets the first response again. Without an `id`, the header
/// `Idempotency-Key` determines it: a repetition with the same key gets the stored event, whatever
/// its body.
#[utoipa::path(
    post,
    path = "/events",
    operation_id = "publish",
    tag = "Publishing",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Determines the event's id; not together with `id`.", min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$"),
    ),
    request_body(content = EventRequest),
    responses(
        (status = 202, description = "Stored durably and queued.", body = ReceiptBody),
        (status = 200, description = "A duplicate: the first response again.", body = ReceiptBody),
        (status = 409, description = "The id belongs to a different event (`event-id-conflict`)."),
    )
)]
async fn publish(
    access: Access<Publish>,
    _: NoQuery,
    request: HttpRequest,
    body: JsonBody<MAX_EVENT_REQUEST>,
) -> Result<HttpResponse, Problem> {
    let asked = body.read::<EventRequest>()?;
    let key = idempotency_key(&request)?;
    if key.is_some() && asked.id.is_some() {
        let detail = "cannot be combined with an event `id`: give only one of them";
        return Err(Problem::field("Idempotency-Key", detail));
    }
    let mut event = asked
        .into_event(&access.own_tenant()?, "")
        .map_err(Problem::invalid)?;
    event.traceparent = traceparent(&request);
    let receipt = match key {
        Some(key) => {
            let (caller, path, query) = (access.caller(), request.path(), request.query_string());
            let repeatable = idempotency::Request {
                caller: &caller,
                path,
                query,
                key: &key,
            };
            event.id = access.idempotent_event_id(&repeatable);
            access.publish_once(event).await?
        }
        None => access.publish(event).await?,
    };
    let receipt = ReceiptBody::from(receipt);
    Ok(receipt_response(&receipt).json(receipt))
}

/// Reads the header `Idempotency-Key`, if it is given.
fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let wrong = |detail: String| Problem::field("Idempotency-Key", detail);
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(first) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(wrong("is given twice".to_owned()));
    }
    idempotency::check_key(first.as_bytes())
        .map(|key| Some(key.to_owned()))
        .map_err(wrong)
}

/// Returns the trace of a request. An invalid header is ignored (W3C Trace Context, section 4.3).
fn traceparent(request: &HttpRequest) -> Option<TraceParent> {
    let mut given = request.headers().get_all(TRACEPARENT);
    let (first, None) = (given.next()?, given.next()) else {
        return None;
    };
    TraceParent::parse(first.to_str().ok()?).ok()
}

/// 202 for a new event, 200 for a duplicate.
fn receipt_response(receipt: &ReceiptBody) -> actix_web::HttpResponseBuilder {
    if receipt.duplicate {
        HttpResponse::Ok()
    } else {
        HttpResponse::Accepted()
    }
}

/// Publish up to 1,000 events, all or none
#[utoipa::path(
    post,
    path = "/events/batch",
    operation_id = "publishBatch",
    tag = "Publishing",
    request_body(content = BatchRequest),
    responses(
        (status = 202, description = "All events are stored durably.", body = BatchBody),
        (status = 409, description = "An id belongs to a different event; nothing was published."),
    )
)]
async fn publish_batch(
    access: Access<Publish>,
    _: NoQuery,
    request: HttpRequest,
    body: JsonBody<MAX_BATCH_REQUEST>,
) -> Result<HttpResponse, Problem> {
    if idempotency_key(&request)?.is_some() {
        let detail = "is only allowed with a single event: give each event of a batch an `id`";
        return Err(Problem::field("Idempotency-Key", detail));
    }
    let parent = traceparent(&request);
    let own = access.own_tenant()?;
    let mut errors = Vec::new();
    let mut events = Vec::new();
    for (i, Object(event)) in body.read::<BatchRequest>()?.events.into_iter().enumerate() {
        match event.into_event(&own, &format!("events[{i}].")) {
            Ok(event) => events.push(NewEvent {
                traceparent: parent,
                ..event
            }),
            Err(wrong) => errors.extend(wrong),
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let receipts = access.publish_batch(events).await?;
    let data = receipts.into_iter().map(ReceiptBody::from).collect();
    Ok(HttpResponse::Accepted().json(BatchBody { data }))
}

/// Show an event with its body and deliveries
#[utoipa::path(
    get,
    path = "/events/{id}",
    operation_id = "showEvent",
    tag = "Publishing",
    params(
        ("id" = EventId, Path),
        ("tenant" = Option<Tenant>, Query, description = "Owning tenant, unless the token determines it: ids are unique per tenant."),
    ),
    responses(
        (status = 200, description = "The event.", body = FullEventBody),
    )
)]
async fn show(
    access: Access<Read>,
    request: HttpRequest,
    Id(id): Id<EventId>,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant"]);
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let view = access.event(tenant, &id).await?;
    Ok(HttpResponse::Ok().json(FullEventBody::from(view)))
}

/// List events
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "listEvents",
    tag = "Publishing",
    params(
        ("type" = Option<EventType>, Query, description = "Only events of this type."),
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant."),
        ("since" = Option<Timestamp>, Query, description = "Published at or after this time."),
        ("until" = Option<Timestamp>, Query, description = "Published before this time."),
        ("limit" = Option<i64>, Query, description = "Page size; default 50.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the previous page.", pattern = "^[A-Za-z0-9_-]{1,256}$"),
    ),
    responses(
        (status = 200, description = "A page of events.", body = ListBody<EventBody>),
    )
)]
async fn list(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(
        &request,
        &["type", "tenant", "since", "until", "limit", "cursor"],
    );
    let page = params.page();
    let query = EventQuery {
        event_type: params
            .take_with("type", EventType::parse)
            .map(|name| name.to_string()),
        tenant: params.take_with("tenant", Tenant::parse),
        since: params.take_time("since"),
        until: params.take_time("until"),
    };
    params.done()?;
    let listed = access.events(query, page).await?;
    let bodies = listed.as_ref().map(|event| EventBody::new(event));
    Ok(HttpResponse::Ok().json(ListBody::new(bodies)))
}
