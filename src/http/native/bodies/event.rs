//! Bodies of events: requests and responses.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::delivery::DeliveryBody;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Content, EventType, MAX_BATCH, NewEvent, StoredEvent};
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::engine::{EventView, Receipt};
use crate::http::native::body::Object;
use crate::http::native::field::InvalidField;

/// An event to publish: `data`, or `payload` with its `content_type`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvent, example = json!({"type": "invoice.paid", "data": {"amount": 1200}}))]
pub(crate) struct EventRequest {
    #[schema(value_type = EventType)]
    pub(crate) r#type: String,
    /// Any JSON, sent unchanged in `{"type","timestamp","data","id"}`; `null` is data.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = serde_json::Value)]
    pub(crate) data: Option<Box<RawValue>>,
    /// Sent byte for byte.
    pub(crate) payload: Option<String>,
    /// Content type of `payload`.
    #[schema(max_length = 128, pattern = "^[ -~]*/[ -~]*$")]
    pub(crate) content_type: Option<String>,
    /// Default: a new UUID v4.
    #[schema(value_type = Option<EventId>)]
    pub(crate) id: Option<String>,
    /// Default: the token's tenant, or `default`.
    #[schema(value_type = Option<Tenant>)]
    pub(crate) tenant: Option<String>,
    /// Events with the same key arrive in order at endpoints with `"ordering": "key"`.
    #[schema(max_length = 256, pattern = "^[^\\x00]+$")]
    pub(crate) ordering_key: Option<String>,
}

/// `null` is data.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl EventRequest {
    /// Checks every field; errors are named below `prefix`. Without a `tenant`, it is `own`.
    pub(crate) fn into_event(
        self,
        own: &Tenant,
        prefix: &str,
    ) -> Result<NewEvent, Vec<InvalidField>> {
        let mut errors = Vec::new();
        let mut fail = |field: &str, detail: String| {
            errors.push(InvalidField::new(format!("{prefix}{field}"), detail));
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
        let content = content(self.data, self.payload, self.content_type)
            .map_err(|(field, detail)| fail(field, detail.to_owned()))
            .ok();
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

/// Returns the content of an event, or the wrong field.
fn content(
    data: Option<Box<RawValue>>,
    payload: Option<String>,
    content_type: Option<String>,
) -> Result<Content, (&'static str, &'static str)> {
    match (data, payload, content_type) {
        (Some(data), None, None) => Ok(Content::Data(data)),
        (None, Some(payload), Some(content_type)) => Ok(Content::Payload {
            body: payload.into(),
            content_type,
        }),
        (None, Some(_), None) => Err((
            "content_type",
            "is required with `payload`, such as `text/plain`",
        )),
        (Some(_), None, Some(_)) => Err((
            "content_type",
            "goes with `payload`; `data` is sent as application/json",
        )),
        (Some(_), Some(_), _) => Err(("payload", "give either `data` or `payload`, not both")),
        (None, None, _) => Err((
            "data",
            "give either `data` (JSON) or `payload` (a string) with `content_type`",
        )),
    }
}

/// Events to publish together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvents)]
pub(crate) struct BatchRequest {
    #[schema(value_type = Vec<EventRequest>, min_items = 1, max_items = 1000)]
    #[serde(deserialize_with = "at_most_a_batch")]
    pub(crate) events: Vec<Object<EventRequest>>,
}

/// Stops reading above the batch limit: the body's size does not bound memory, because events may
/// be short.
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

/// The result of publishing an event.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
pub(crate) struct ReceiptBody {
    pub(crate) id: EventId,
    pub(crate) r#type: EventType,
    pub(crate) tenant: Tenant,
    pub(crate) created_at: Timestamp,
    /// True if it had been published before.
    pub(crate) duplicate: bool,
    pub(crate) deliveries: Vec<ReceiptDelivery>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReceiptDelivery {
    pub(crate) id: DeliveryId,
    pub(crate) endpoint_id: EndpointId,
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

/// One receipt per event, in their order.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipts)]
pub(crate) struct BatchBody {
    pub(crate) data: Vec<ReceiptBody>,
}

/// An event, as in lists.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventBody {
    pub(crate) id: EventId,
    pub(crate) r#type: EventType,
    pub(crate) tenant: Tenant,
    pub(crate) ordering_key: Option<String>,
    pub(crate) content_type: String,
    pub(crate) created_at: Timestamp,
}

impl EventBody {
    pub(crate) fn new(event: &StoredEvent) -> Self {
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

/// An event with its body and deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = FullEvent)]
pub(crate) struct FullEventBody {
    #[serde(flatten)]
    pub(crate) event: EventBody,
    /// The body as text, if it is UTF-8.
    pub(crate) body: Option<String>,
    /// The body in base64, if it is not UTF-8.
    pub(crate) body_base64: Option<String>,
    pub(crate) deliveries: Vec<DeliveryBody>,
}

impl From<EventView> for FullEventBody {
    fn from(view: EventView) -> Self {
        let bytes = &view.event.body;
        let text = std::str::from_utf8(bytes).ok();
        Self {
            event: EventBody::new(&view.event),
            body: text.map(str::to_owned),
            body_base64: text.is_none().then(|| BASE64_STANDARD.encode(bytes)),
            deliveries: view.deliveries.into_iter().map(DeliveryBody::new).collect(),
        }
    }
}
