//! `/events`: publishing, and what was published.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::{OpenApi, ToSchema};

use super::ListBody;
use super::auth::{Access, Publish, Read, id_of};
use super::deliveries::DeliveryBody;
use super::problem::Problem;
use super::request::{JsonBody, NoParams, Object, Params};
use crate::domain::FieldError;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Content, EventType, MAX_BATCH, NewEvent, SealedEvent};
use crate::domain::idempotency;
use crate::domain::ids::{EventId, Tenant};
use crate::domain::trace::{TRACEPARENT, TraceParent};
use crate::engine::{EventListQuery, Receipt};

/// A single event: 256 KiB of payload, of which JSON may escape every byte into six.
const MAX_EVENT_REQUEST: usize = 2 * 1024 * 1024;
const MAX_BATCH_REQUEST: usize = 16 * 1024 * 1024;

/// What its cursors are told by.
const LIST: &str = "events";

/// The header that makes a publish repeatable.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(OpenApi)]
#[openapi(paths(publish, publish_batch, list, show))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/events")
                .post(publish)
                .get(list)
                .default_service(super::only("POST, GET")),
        )
        .service(
            web::resource("/events/batch")
                .post(publish_batch)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/events/{id}")
                .get(show)
                .default_service(super::only("GET")),
        );
}

/// An event to publish: `data`, or `payload` with its `content_type`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvent, example = json!({"type": "invoice.paid", "data": {"amount": 1200}}))]
struct EventRequest {
    #[schema(value_type = EventType)]
    r#type: String,
    /// Any JSON, sent as it came in `{"type","timestamp","data","id"}`; `null` is data.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = serde_json::Value)]
    data: Option<Box<RawValue>>,
    /// Sent byte for byte.
    payload: Option<String>,
    /// Of `payload`.
    #[schema(max_length = 128, pattern = "^[ -~]*/[ -~]*$")]
    content_type: Option<String>,
    /// A UUID v4 is made where it is absent.
    #[schema(value_type = Option<EventId>)]
    id: Option<String>,
    /// The token's own, or `default`.
    #[schema(value_type = Option<Tenant>)]
    tenant: Option<String>,
    /// Events that share one arrive in order at endpoints with `"ordering": "key"`.
    #[schema(max_length = 256, pattern = "^[^\\x00]+$")]
    ordering_key: Option<String>,
}

/// `null` is data.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl EventRequest {
    /// Checks every field; errors are named below `prefix`. Without a `tenant` it is the caller's
    /// own.
    fn into_event(self, own: &Tenant, prefix: &str) -> Result<NewEvent, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut fail = |field: &str, detail: String| {
            errors.push(FieldError::new(format!("{prefix}{field}"), detail));
        };
        let event_type = EventType::parse(&self.r#type)
            .map_err(|detail| fail("type", detail))
            .ok();
        let id = match self.id.as_deref().map(EventId::parse) {
            None => Some(EventId::generate()),
            Some(Ok(id)) => Some(id),
            Some(Err(detail)) => {
                fail("id", detail);
                None
            }
        };
        let tenant = match self.tenant.as_deref().map(Tenant::parse) {
            None => Some(own.clone()),
            Some(Ok(tenant)) => Some(tenant),
            Some(Err(detail)) => {
                fail("tenant", detail);
                None
            }
        };
        let content = match (self.data, self.payload, self.content_type) {
            (Some(data), None, None) => Some(Content::Data(data)),
            (None, Some(payload), Some(content_type)) => Some(Content::Payload {
                body: payload.into(),
                content_type,
            }),
            (None, Some(_), None) => {
                fail(
                    "content_type",
                    "is needed with `payload`, such as `text/plain`".into(),
                );
                None
            }
            (Some(_), None, Some(_)) => {
                fail(
                    "content_type",
                    "goes with `payload`; `data` is sent as application/json".into(),
                );
                None
            }
            (Some(_), Some(_), _) => {
                fail(
                    "payload",
                    "give either `data` or `payload`, not both".into(),
                );
                None
            }
            (None, None, _) => {
                fail(
                    "data",
                    "give either `data` (JSON) or `payload` (a string) with `content_type`".into(),
                );
                None
            }
        };
        match (id, tenant, event_type, content) {
            (Some(id), Some(tenant), Some(event_type), Some(content)) => {
                let event = NewEvent::new(event_type, content);
                Ok(NewEvent {
                    id,
                    tenant,
                    ordering_key: self.ordering_key,
                    ..event
                })
            }
            _ => Err(errors),
        }
    }
}

/// The event that a request's body asks to publish, if it is one.
#[cfg(feature = "testing")]
pub(crate) fn read_event(body: &[u8]) -> Option<NewEvent> {
    let body = JsonBody::<MAX_EVENT_REQUEST>::from_bytes(bytes::Bytes::copy_from_slice(body));
    body.read::<EventRequest>()
        .ok()?
        .into_event(&Tenant::default(), "")
        .ok()
}

/// Events to publish together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvents)]
struct BatchRequest {
    #[schema(value_type = Vec<EventRequest>, min_items = 1, max_items = 1000)]
    #[serde(deserialize_with = "at_most_a_batch")]
    events: Vec<Object<EventRequest>>,
}

/// Stops to read once it is more than a batch may hold: its size bounds no memory, events may be
/// short.
fn at_most_a_batch<'de, D>(deserializer: D) -> Result<Vec<Object<EventRequest>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    struct Batch;

    impl<'de> serde::de::Visitor<'de> for Batch {
        type Value = Vec<Object<EventRequest>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an array of events")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut events: A,
        ) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(event) = events.next_element()? {
                all.push(event);
                if all.len() > MAX_BATCH {
                    return Err(serde::de::Error::custom(format!(
                        "must hold 1 to {MAX_BATCH} events, not more"
                    )));
                }
            }
            Ok(all)
        }
    }

    deserializer.deserialize_seq(Batch)
}

/// What became of an event.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
struct ReceiptBody {
    id: EventId,
    r#type: EventType,
    tenant: Tenant,
    created_at: Timestamp,
    /// Whether it had been published before.
    duplicate: bool,
    deliveries: Vec<ReceiptDelivery>,
}

#[derive(Serialize, ToSchema)]
struct ReceiptDelivery {
    id: crate::domain::ids::DeliveryId,
    endpoint_id: crate::domain::ids::EndpointId,
}

impl From<Receipt> for ReceiptBody {
    fn from(receipt: Receipt) -> Self {
        let deliveries = receipt.deliveries.into_iter();
        Self {
            id: receipt.id,
            r#type: receipt.event_type,
            tenant: receipt.tenant,
            created_at: receipt.created_at,
            duplicate: receipt.duplicate,
            deliveries: deliveries
                .map(|(id, endpoint_id)| ReceiptDelivery { id, endpoint_id })
                .collect(),
        }
    }
}

/// Publish an event
///
/// Give either `data`, any JSON, or `payload` with its `content_type`. The same id with the same
/// content is a duplicate and answered as the first time. The header `Idempotency-Key` makes the id
/// where none is given: a repetition with the same key, whatever its body, is answered with the
/// stored event.
#[utoipa::path(
    post,
    path = "/events",
    operation_id = "publish",
    tag = "Publishing",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the event's id; not together with `id`.", min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$"),
    ),
    request_body(content = EventRequest),
    responses(
        (status = 202, description = "It is durable, and on its way.", body = ReceiptBody),
        (status = 200, description = "It was there already: the first answer again.", body = ReceiptBody),
        (status = 409, description = "The id belongs to another event (`event-id-conflict`)."),
    )
)]
async fn publish(
    access: Access<Publish>,
    _: NoParams,
    request: HttpRequest,
    body: JsonBody<MAX_EVENT_REQUEST>,
) -> Result<HttpResponse, Problem> {
    let asked = body.read::<EventRequest>()?;
    let key = idempotency_key(&request)?;
    if key.is_some() && asked.id.is_some() {
        let detail = "goes with an event that has no `id` of its own: give one of them";
        return Err(Problem::field("Idempotency-Key", detail));
    }
    let mut event = asked
        .into_event(&access.tenant(None)?, "")
        .map_err(Problem::invalid)?;
    access.tenant(Some(event.tenant.clone()))?;
    event.traceparent = traceparent(&request);
    let postrider = access.postrider();
    let receipt = match key {
        Some(key) => {
            let (caller, path, query) = (access.caller(), request.path(), request.query_string());
            let repeatable = idempotency::Request {
                caller: &caller,
                path,
                query,
                key: &key,
            };
            event.id = postrider.idempotent_event_id(&repeatable);
            postrider.publish_once(event).await?
        }
        None => postrider.publish(event).await?,
    };
    let receipt = ReceiptBody::from(receipt);
    Ok(receipt_response(&receipt).json(receipt))
}

/// The header `Idempotency-Key`, if it is given.
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

/// The trace that a request belongs to. A header that is none begins no trace, and hinders nobody
/// (W3C Trace Context, section 4.3).
fn traceparent(request: &HttpRequest) -> Option<TraceParent> {
    let mut given = request.headers().get_all(TRACEPARENT);
    let (first, None) = (given.next()?, given.next()) else {
        return None;
    };
    TraceParent::parse(first.to_str().ok()?).ok()
}

/// 202 for what is new, 200 for what was there.
fn receipt_response(receipt: &ReceiptBody) -> actix_web::HttpResponseBuilder {
    if receipt.duplicate {
        HttpResponse::Ok()
    } else {
        HttpResponse::Accepted()
    }
}

/// One receipt for each event, in their order.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipts)]
struct BatchBody {
    data: Vec<ReceiptBody>,
}

/// Publish up to 1,000 events, all or none
#[utoipa::path(
    post,
    path = "/events/batch",
    operation_id = "publishBatch",
    tag = "Publishing",
    request_body(content = BatchRequest),
    responses(
        (status = 202, description = "All of them are durable.", body = BatchBody),
        (status = 409, description = "The id of one belongs to another event; none was published."),
    )
)]
async fn publish_batch(
    access: Access<Publish>,
    _: NoParams,
    request: HttpRequest,
    body: JsonBody<MAX_BATCH_REQUEST>,
) -> Result<HttpResponse, Problem> {
    if idempotency_key(&request)?.is_some() {
        let detail = "goes with a single event: give each event of a batch an `id`";
        return Err(Problem::field("Idempotency-Key", detail));
    }
    let parent = traceparent(&request);
    let own = access.tenant(None)?;
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
    for event in &events {
        access.tenant(Some(event.tenant.clone()))?;
    }
    let receipts = access.postrider().publish_batch(events).await?;
    let data = receipts.into_iter().map(ReceiptBody::from).collect();
    Ok(HttpResponse::Accepted().json(BatchBody { data }))
}

/// An event as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
struct EventBody {
    id: EventId,
    r#type: EventType,
    tenant: Tenant,
    ordering_key: Option<String>,
    content_type: String,
    created_at: Timestamp,
}

impl EventBody {
    fn new(event: &SealedEvent) -> Self {
        Self {
            id: event.id.clone(),
            r#type: event.event_type.clone(),
            tenant: event.tenant.clone(),
            ordering_key: event.ordering_key.clone(),
            content_type: event.content_type.clone(),
            created_at: event.created_at,
        }
    }
}

/// An event, its body and its deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = FullEvent)]
struct FullEventBody {
    #[serde(flatten)]
    event: EventBody,
    /// The bytes that are sent, where they are UTF-8.
    body: Option<String>,
    /// The same in base64, where they are not.
    body_base64: Option<String>,
    deliveries: Vec<DeliveryBody>,
}

/// One event, its body and its deliveries
#[utoipa::path(
    get,
    path = "/events/{id}",
    operation_id = "showEvent",
    tag = "Publishing",
    params(
        ("id" = EventId, Path),
        ("tenant" = Option<Tenant>, Query, description = "Whose it is, unless the token says so: ids are unique per tenant."),
    ),
    responses(
        (status = 200, description = "The event.", body = FullEventBody),
    )
)]
async fn show(
    access: Access<Read>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant"]);
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let tenant = access.tenant(tenant)?;
    let view = access
        .postrider()
        .event(&tenant, &EventId::from_text(id_of(id, "event")?))
        .await?;
    let text = std::str::from_utf8(&view.event.body)
        .ok()
        .map(str::to_owned);
    let encoded = text
        .is_none()
        .then(|| BASE64_STANDARD.encode(&view.event.body));
    Ok(HttpResponse::Ok().json(FullEventBody {
        event: EventBody::new(&view.event),
        body: text,
        body_base64: encoded,
        deliveries: view.deliveries.into_iter().map(DeliveryBody::new).collect(),
    }))
}

/// Events
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "listEvents",
    tag = "Publishing",
    params(
        ("type" = Option<EventType>, Query, description = "Only events of that type."),
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant's."),
        ("since" = Option<Timestamp>, Query, description = "Published then or later."),
        ("until" = Option<Timestamp>, Query, description = "Published before that."),
        ("limit" = Option<i64>, Query, description = "How many at most: 50 unless given.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before.", pattern = "^events:[0-9]{1,18}$"),
    ),
    responses(
        (status = 200, description = "A page.", body = ListBody<EventBody>),
    )
)]
async fn list(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(
        &request,
        &["type", "tenant", "since", "until", "limit", "cursor"],
    );
    let (limit, after) = params.page(LIST);
    if after
        .as_ref()
        .is_some_and(|key| key.parse::<i64>().is_err())
    {
        return Err(Problem::field(
            "cursor",
            "is none that this list answered with",
        ));
    }
    let tenant = params.take_with("tenant", Tenant::parse);
    let query = EventListQuery {
        event_type: params
            .take_with("type", EventType::parse)
            .map(|name| name.to_string()),
        tenant: access.tenant_filter(tenant)?,
        since: params.take_time("since"),
        until: params.take_time("until"),
        after,
        limit,
    };
    params.done()?;
    let (events, next) = access.postrider().events(query).await?;
    let data = events.iter().map(|event| EventBody::new(event)).collect();
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, data, next)))
}
