//! Errors of single fields.

use std::fmt;

/// A field that an error is about. Each API shows it under its own name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// Lifetime of a portal link.
    Lifetime,
    /// Start of a time range.
    Since,
    /// Name of a token.
    TokenName,
    /// Tenant.
    Tenant,
    /// Place at which a page of a list begins.
    Cursor,
    /// Grace period of a rotated secret.
    Grace,
    /// Target URL of an endpoint.
    Url,
    /// Description of an endpoint.
    Description,
    /// All event type filters of an endpoint.
    EventTypes,
    /// The event type filter at this index.
    EventTypeAt(usize),
    /// All headers of an endpoint.
    Headers,
    /// The header with this name.
    Header(String),
    /// Rate limit.
    RateLimit,
    /// Maximum attempts in flight.
    Concurrency,
    /// Timeout of a request.
    Timeout,
    /// Delays between attempts.
    RetrySchedule,
    /// Maximum age of a pending delivery.
    MaxAge,
    /// Failures that open the breaker.
    BreakerAfter,
    /// Ordering.
    Ordering,
    /// Effect of a failed delivery on later ones.
    OnFailed,
    /// Signature schemes.
    Signing,
    /// Id of an event.
    EventId,
    /// Type of an event.
    EventType,
    /// Data of an event.
    Data,
    /// Content type of an event's payload.
    ContentType,
    /// Ordering key of an event.
    OrderingKey,
    /// A single event as a whole.
    Event,
    /// A batch of events as a whole.
    Events,
    /// A field of the event at this index of a batch.
    OfEvent(usize, Box<Self>),
}

impl Field {
    /// Returns this field of an event of a batch, or itself for a single event.
    #[must_use]
    pub fn of_event(self, index: Option<usize>) -> Self {
        match index {
            Some(index) => Self::OfEvent(index, Box::new(self)),
            None => self,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Lifetime => "lifetime",
            Self::Since => "since",
            Self::TokenName => "name",
            Self::Tenant => "tenant",
            Self::Cursor => "cursor",
            Self::Grace => "grace",
            Self::Url => "url",
            Self::Description => "description",
            Self::EventTypes => "event_types",
            Self::EventTypeAt(index) => return write!(f, "event_types[{index}]"),
            Self::Headers => "headers",
            Self::Header(name) => return write!(f, "headers.{name}"),
            Self::RateLimit => "rate_limit",
            Self::Concurrency => "concurrency",
            Self::Timeout => "timeout",
            Self::RetrySchedule => "retry_schedule",
            Self::MaxAge => "max_age",
            Self::BreakerAfter => "breaker_after",
            Self::Ordering => "ordering",
            Self::OnFailed => "on_failed",
            Self::Signing => "signing",
            Self::EventId => "id",
            Self::EventType => "type",
            Self::Data => "data",
            Self::ContentType => "content_type",
            Self::OrderingKey => "ordering_key",
            Self::Event => "event",
            Self::Events => "events",
            Self::OfEvent(index, field) if **field == Self::Event => {
                return write!(f, "events[{index}]");
            }
            Self::OfEvent(index, field) => return write!(f, "events[{index}].{field}"),
        };
        f.write_str(name)
    }
}

/// An invalid field, with its valid values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct FieldError {
    /// The field.
    pub field: Field,
    /// The problem, and what would be valid.
    pub detail: String,
}

impl FieldError {
    /// Creates an error of `field`.
    pub fn new(field: Field, detail: impl Into<String>) -> Self {
        Self {
            field,
            detail: detail.into(),
        }
    }
}

/// An invalid setting of the engine, with its valid values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct SettingError {
    /// Name of the setting.
    pub setting: &'static str,
    /// The problem, and what would be valid.
    pub detail: String,
}

impl SettingError {
    /// Creates an error of `setting`.
    pub fn new(setting: &'static str, detail: impl Into<String>) -> Self {
        Self {
            setting,
            detail: detail.into(),
        }
    }
}
