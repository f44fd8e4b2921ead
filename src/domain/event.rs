//! Events: the content that callers publish, and the bytes that are signed and sent.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::clock::Timestamp;
use super::ids::{EventId, Tenant};
use super::trace::TraceParent;
use super::{Field, FieldError};

/// Maximum size of a sent body in bytes: 256 KiB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// Maximum number of events in a batch.
pub const MAX_BATCH: usize = 1000;

const MAX_TYPE_BYTES: usize = 128;
const MAX_ORDERING_KEY_CHARS: usize = 256;
const MAX_CONTENT_TYPE_BYTES: usize = 128;

/// An event type, such as `invoice.paid`: `[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*`, at most 128 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct EventType(Arc<str>);

impl EventType {
    /// Parses an event type.
    ///
    /// # Errors
    /// Describes the valid form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let segment =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if text.len() <= MAX_TYPE_BYTES && text.split('.').all(segment) {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "must be words of A-Z, a-z, 0-9 and `_`, joined by single dots (`invoice.paid`), at most {MAX_TYPE_BYTES} characters"
            ))
        }
    }

    /// Creates an event type of this crate's own, without a check.
    pub(super) fn of_static(name: &'static str) -> Self {
        Self(name.into())
    }

    /// Returns the event type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A filter of event types: one type, or all below a prefix (`invoice.*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EventFilter(String);

impl EventFilter {
    /// Returns whether events of this type pass.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => event_type.as_str().starts_with(prefix),
            None => self.0 == event_type.as_str(),
        }
    }

    /// Returns whether a list of filters accepts an event type. An empty list accepts all.
    #[must_use]
    pub fn any_matches(filters: &[Self], event_type: &EventType) -> bool {
        filters.is_empty() || filters.iter().any(|filter| filter.matches(event_type))
    }
}

impl TryFrom<String> for EventFilter {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        EventType::parse(text.strip_suffix(".*").unwrap_or(&text)).map_err(
            |_| "must be an event type (`invoice.paid`), or a prefix and `.*` (`invoice.*`)",
        )?;
        Ok(Self(text))
    }
}

impl From<EventFilter> for String {
    fn from(filter: EventFilter) -> Self {
        filter.0
    }
}

/// The content of an event.
#[derive(Debug, Clone)]
pub enum Content {
    /// JSON in its original form; it is sent inside `{"type","timestamp","data","id"}`.
    Data(Box<RawValue>),
    /// Bytes that are sent unchanged.
    Payload {
        /// The body.
        body: Bytes,
        /// Its `content-type`.
        content_type: String,
    },
}

/// An event of a host application. Its `Serialize` implementation produces the JSON.
///
/// ```
/// use postrider::domain::event::{Event, NewEvent};
/// use postrider::domain::ids::EventId;
///
/// #[derive(serde::Serialize)]
/// #[serde(rename_all = "camelCase")]
/// struct OrderPlaced {
///     event_id: EventId,
///     order: i64,
/// }
///
/// impl Event for OrderPlaced {
///     const TYPE: &'static str = "order.placed";
/// }
///
/// let event = NewEvent::body(|id| OrderPlaced { event_id: id.clone(), order: 7 })?;
/// # Ok::<(), postrider::domain::event::EventError>(())
/// ```
pub trait Event: serde::Serialize {
    /// The event type, such as `order.placed`.
    const TYPE: &'static str;

    /// Returns the ordering key, used by endpoints with `"ordering":"key"`.
    fn ordering_key(&self) -> Option<String> {
        None
    }
}

/// An event to publish. Its id is already assigned.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Unique within the tenant, permanently.
    pub id: EventId,
    /// Owning tenant; only that tenant's endpoints receive the event.
    pub tenant: Tenant,
    /// Event type.
    pub event_type: EventType,
    /// Content.
    pub content: Content,
    /// Events with the same key reach an endpoint with `"ordering":"key"` in order.
    pub ordering_key: Option<String>,
    /// Trace that the publishing belongs to, passed on to the receiver. Not part of the content.
    pub traceparent: Option<TraceParent>,
}

impl NewEvent {
    /// Creates an event of the default tenant with a new UUID v4.
    #[must_use]
    pub fn new(event_type: EventType, content: Content) -> Self {
        Self {
            id: EventId::generate(),
            tenant: Tenant::default(),
            event_type,
            content,
            ordering_key: None,
            traceparent: None,
        }
    }

    /// Creates an event with the value of `make` as `data` in `{"type","timestamp","data","id"}`.
    /// `make` receives the event's id, so that its value can include it.
    ///
    /// # Errors
    /// Returns an error if the event type is invalid or the value does not serialize.
    pub fn data<E: Event>(make: impl FnOnce(&EventId) -> E) -> Result<Self, EventError> {
        Self::typed(make, |event| {
            Ok(Content::Data(serde_json::value::to_raw_value(event)?))
        })
    }

    /// Creates an event with the value of `make`, as JSON, as the whole body.
    ///
    /// # Errors
    /// Returns an error if the event type is invalid or the value does not serialize.
    pub fn body<E: Event>(make: impl FnOnce(&EventId) -> E) -> Result<Self, EventError> {
        Self::typed(make, |event| {
            let content_type = "application/json".to_owned();
            Ok(Content::Payload {
                body: serde_json::to_vec(event)?.into(),
                content_type,
            })
        })
    }

    fn typed<E: Event>(
        make: impl FnOnce(&EventId) -> E,
        content: impl FnOnce(&E) -> serde_json::Result<Content>,
    ) -> Result<Self, EventError> {
        let invalid =
            |field: Field, detail: String| EventError::Invalid(FieldError::new(field, detail));
        let id = EventId::generate();
        let event = make(&id);
        let event_type =
            EventType::parse(E::TYPE).map_err(|detail| invalid(Field::EventType, detail))?;
        let content = content(&event).map_err(|error| invalid(Field::Data, error.to_string()))?;
        let ordering_key = event.ordering_key();
        Ok(Self {
            id,
            ordering_key,
            ..Self::new(event_type, content)
        })
    }

    /// Assigns the event to a tenant.
    #[must_use]
    pub fn of_tenant(self, tenant: Tenant) -> Self {
        Self { tenant, ..self }
    }

    /// Composes the bytes to sign and send, and the hash that identifies duplicates.
    ///
    /// # Errors
    /// Returns an error if the body is larger than [`MAX_BODY_BYTES`] or a field cannot be sent.
    pub fn freeze(self, now: Timestamp) -> Result<StoredEvent, EventError> {
        if let Some(key) = &self.ordering_key
            && (!(1..=MAX_ORDERING_KEY_CHARS).contains(&key.chars().count()) || key.contains('\0'))
        {
            let detail = format!("must be 1 to {MAX_ORDERING_KEY_CHARS} characters, without NUL");
            return Err(EventError::Invalid(FieldError::new(
                Field::OrderingKey,
                detail,
            )));
        }
        // Not over the body: that includes the time, so duplicates would differ.
        let content_hash = self.content_hash();
        let (body, content_type) = match self.content {
            Content::Data(data) => {
                let body = compose(&self.event_type, now, &data, &self.id);
                (body, "application/json".to_owned())
            }
            Content::Payload { body, content_type } => {
                check_content_type(&content_type)?;
                (body, content_type)
            }
        };
        if body.len() > MAX_BODY_BYTES {
            return Err(EventError::TooLarge { bytes: body.len() });
        }
        Ok(StoredEvent {
            id: self.id,
            tenant: self.tenant,
            event_type: self.event_type,
            ordering_key: self.ordering_key,
            content_type,
            body,
            content_hash,
            created_at: now,
            traceparent: self.traceparent,
        })
    }

    /// Returns the SHA-256 of type, exact content bytes, content type and ordering key. Each is
    /// hashed with its length, so different events cannot hash the same input.
    fn content_hash(&self) -> [u8; 32] {
        let (kind, bytes, content_type) = match &self.content {
            Content::Data(data) => ("data", data.get().as_bytes(), ""),
            Content::Payload { body, content_type } => {
                ("payload", &body[..], content_type.as_str())
            }
        };
        let key = self.ordering_key.as_deref();
        let mut hash = Sha256::new();
        for part in [
            kind.as_bytes(),
            self.event_type.as_str().as_bytes(),
            bytes,
            content_type.as_bytes(),
            if key.is_some() { b"key" } else { b"" },
            key.unwrap_or_default().as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// Composes the body as text, because `data` must stay byte for byte as the caller wrote it.
fn compose(event_type: &EventType, now: Timestamp, data: &RawValue, id: &EventId) -> Bytes {
    // Type and id contain no character that JSON would escape.
    format!(r#"{{"type":"{event_type}","timestamp":"{now}","data":{data},"id":"{id}"}}"#).into()
}

fn check_content_type(content_type: &str) -> Result<(), EventError> {
    let printable = content_type.bytes().all(|b| (0x20..0x7f).contains(&b));
    if printable && content_type.contains('/') && content_type.len() <= MAX_CONTENT_TYPE_BYTES {
        return Ok(());
    }
    let detail = format!(
        "must be a media type such as `application/json`, in printable ASCII, at most {MAX_CONTENT_TYPE_BYTES} characters"
    );
    Err(EventError::Invalid(FieldError::new(
        Field::ContentType,
        detail,
    )))
}

/// An event with the bytes that every attempt signs and sends.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoredEvent {
    /// Unique within the tenant, permanently.
    pub id: EventId,
    /// Owning tenant.
    pub tenant: Tenant,
    /// Event type.
    pub event_type: EventType,
    /// Ordering key, if any.
    pub ordering_key: Option<String>,
    /// The `content-type` it is sent with.
    pub content_type: String,
    /// The exact body.
    pub body: Bytes,
    /// Events with the same id are duplicates if their hashes are equal.
    pub content_hash: [u8; 32],
    /// Publishing time.
    pub created_at: Timestamp,
    /// Trace of the publisher.
    pub traceparent: Option<TraceParent>,
}

/// A reason why an event cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// A field cannot be sent.
    #[error("{0}")]
    Invalid(FieldError),
    /// The body is too large.
    #[error(
        "the body to send is {bytes} bytes; at most {MAX_BODY_BYTES} (256 KiB) can be sent: send a reference instead"
    )]
    TooLarge {
        /// Size of the body.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

    fn data(json: &str) -> NewEvent {
        let content = Content::Data(RawValue::from_string(json.to_owned()).unwrap());
        NewEvent::new(EventType::parse("invoice.paid").unwrap(), content)
    }

    #[test]
    fn data_is_sent_as_the_text_it_came_as() {
        let mut event = data(r#"{ "b":1.10,  "a":"\u00e9" }"#);
        event.id = EventId::parse("e1").unwrap();
        let body = event.freeze(NOW).unwrap().body;
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"type":"invoice.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":{ "b":1.10,  "a":"\u00e9" },"id":"e1"}"#
        );
    }

    #[test]
    fn the_hash_tells_content_apart_but_not_the_time_or_id() {
        let hash = |event: NewEvent, now| event.freeze(now).unwrap().content_hash;
        let later = Timestamp::from_micros(1);
        assert_eq!(hash(data("1"), NOW), hash(data("1"), later));
        assert_ne!(
            hash(data("[1]"), NOW),
            hash(data("[ 1]"), NOW),
            "exact bytes"
        );
        let keyed = NewEvent {
            ordering_key: Some("k".into()),
            ..data("1")
        };
        assert_ne!(hash(data("1"), NOW), hash(keyed, NOW));
        let payload = Content::Payload {
            body: "1".into(),
            content_type: "text/plain".into(),
        };
        assert_ne!(
            hash(data("1"), NOW),
            hash(
                NewEvent {
                    content: payload,
                    ..data("1")
                },
                NOW
            )
        );
    }

    #[test]
    fn filters_match_names_and_prefixes() {
        let filter = |text: &str| EventFilter::try_from(text.to_owned());
        let paid = EventType::parse("invoice.paid").unwrap();
        assert!(filter("invoice.paid").unwrap().matches(&paid));
        assert!(filter("invoice.*").unwrap().matches(&paid));
        assert!(!filter("invoice").unwrap().matches(&paid));
        assert!(!filter("inv.*").unwrap().matches(&paid));
        assert!(
            !filter("invoice.*")
                .unwrap()
                .matches(&EventType::parse("invoice").unwrap())
        );
        assert!(EventFilter::any_matches(&[], &paid));
        for bad in ["*", "", "invoice*", "*.paid", "invoice..*", "a b"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_body_above_the_limit_is_refused_by_its_size() {
        let big = format!("\"{}\"", "x".repeat(MAX_BODY_BYTES));
        assert!(matches!(
            data(&big).freeze(NOW),
            Err(EventError::TooLarge { .. })
        ));
    }
}
