//! Events: what a caller publishes, and the bytes that are signed and sent for it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::FieldError;
use super::clock::Timestamp;
use super::ids::{EventId, Tenant};
use super::trace::TraceParent;

/// The largest body that is sent, in bytes: 256 KiB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// The most events that one batch may hold.
pub const MAX_BATCH: usize = 1000;

const MAX_TYPE_BYTES: usize = 128;
const MAX_ORDERING_KEY_CHARS: usize = 256;
const MAX_CONTENT_TYPE_BYTES: usize = 128;

/// An event's name, such as `invoice.paid`: `[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*`, at most 128 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct EventType(Arc<str>);

impl EventType {
    /// Reads a name.
    ///
    /// # Errors
    /// Says what a name looks like.
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

    /// A name of this crate's own.
    pub(super) fn of_static(name: &'static str) -> Self {
        Self(name.into())
    }

    /// The name.
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

/// Which events an endpoint wants: one name, or all below a prefix (`invoice.*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EventFilter(String);

impl EventFilter {
    /// Whether events of this type pass.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => event_type.as_str().starts_with(prefix),
            None => self.0 == event_type.as_str(),
        }
    }

    /// Whether a list of filters lets an event through. An empty list wants everything.
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

/// What an event carries.
#[derive(Debug, Clone)]
pub enum Content {
    /// JSON, kept as the text it came as; it is sent inside `{"type","timestamp","data","id"}`.
    Data(Box<RawValue>),
    /// Bytes that are sent as they are.
    Payload {
        /// The body.
        body: Bytes,
        /// Its `content-type`.
        content_type: String,
    },
}

/// What a host's own type needs to be an event: a name. Its `Serialize` makes the JSON.
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
    /// Its name, such as `order.placed`.
    const TYPE: &'static str;

    /// What it is ordered by, at endpoints with `"ordering":"key"`.
    fn ordering_key(&self) -> Option<String> {
        None
    }
}

/// An event to publish. It has its id from here on.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Unique within the tenant, for ever.
    pub id: EventId,
    /// Whose event it is; only that tenant's endpoints get it.
    pub tenant: Tenant,
    /// Its name.
    pub event_type: EventType,
    /// What it carries.
    pub content: Content,
    /// Events that share it reach an endpoint with `"ordering":"key"` in order.
    pub ordering_key: Option<String>,
    /// The trace that publishing it belongs to; it goes on to the receiver. Not part of its
    /// content.
    pub traceparent: Option<TraceParent>,
}

impl NewEvent {
    /// An event of the default tenant with a fresh UUID v4.
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

    /// An event whose `data` is what `make` makes, inside `{"type","timestamp","data","id"}`.
    /// `make` is told the event's id, so that what it makes may carry it.
    ///
    /// # Errors
    /// When its name is none, or it does not serialize.
    pub fn data<E: Event>(make: impl FnOnce(&EventId) -> E) -> Result<Self, EventError> {
        Self::typed(make, |event| {
            Ok(Content::Data(serde_json::value::to_raw_value(event)?))
        })
    }

    /// An event whose body is what `make` makes, as it is, in JSON.
    ///
    /// # Errors
    /// When its name is none, or it does not serialize.
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
            |field: &str, detail: String| EventError::Invalid(FieldError::new(field, detail));
        let id = EventId::generate();
        let event = make(&id);
        let event_type = EventType::parse(E::TYPE).map_err(|detail| invalid("type", detail))?;
        let content = content(&event).map_err(|error| invalid("data", error.to_string()))?;
        let ordering_key = event.ordering_key();
        Ok(Self {
            id,
            ordering_key,
            ..Self::new(event_type, content)
        })
    }

    /// The same as another tenant's.
    #[must_use]
    pub fn of_tenant(self, tenant: Tenant) -> Self {
        Self { tenant, ..self }
    }

    /// Composes the bytes that will be signed and sent, and what duplicates are told by.
    ///
    /// # Errors
    /// When the body is larger than [`MAX_BODY_BYTES`], or a field cannot be sent.
    pub fn seal(self, now: Timestamp) -> Result<SealedEvent, EventError> {
        if let Some(key) = &self.ordering_key
            && (!(1..=MAX_ORDERING_KEY_CHARS).contains(&key.chars().count()) || key.contains('\0'))
        {
            let detail = format!("must be 1 to {MAX_ORDERING_KEY_CHARS} characters, without NUL");
            return Err(EventError::Invalid(FieldError::new("ordering_key", detail)));
        }
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
        Ok(SealedEvent {
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

    /// SHA-256 over type, the exact bytes of the content, content type and ordering key, each with
    /// its length, so that no two different events can be told to be the same.
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

/// Written by hand, because `data` must stay byte for byte what the caller wrote.
fn compose(event_type: &EventType, now: Timestamp, data: &RawValue, id: &EventId) -> Bytes {
    // Neither name nor id can hold a character that JSON would escape.
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
    Err(EventError::Invalid(FieldError::new("content_type", detail)))
}

/// An event with the bytes that every attempt signs and sends.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SealedEvent {
    /// Unique within the tenant, for ever.
    pub id: EventId,
    /// Whose event it is.
    pub tenant: Tenant,
    /// Its name.
    pub event_type: EventType,
    /// What it is ordered by, if anything.
    pub ordering_key: Option<String>,
    /// The `content-type` it is sent with.
    pub content_type: String,
    /// The body, byte for byte.
    pub body: Bytes,
    /// Two events with one id are the same if this is.
    pub content_hash: [u8; 32],
    /// When it was published.
    pub created_at: Timestamp,
    /// The publisher's trace.
    pub traceparent: Option<TraceParent>,
}

/// Why an event cannot be published.
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
        /// How large it is.
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
        let body = event.seal(NOW).unwrap().body;
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"type":"invoice.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":{ "b":1.10,  "a":"\u00e9" },"id":"e1"}"#
        );
    }

    #[test]
    fn the_hash_tells_content_apart_but_not_the_time_or_id() {
        let hash = |event: NewEvent, now| event.seal(now).unwrap().content_hash;
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
            data(&big).seal(NOW),
            Err(EventError::TooLarge { .. })
        ));
    }
}
