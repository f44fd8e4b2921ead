//! The ids by which everything is named. Opaque to callers; cheap to clone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::{ContextV7, Uuid};

use super::clock::Timestamp;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text, as it is shown and stored.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Takes text that came from the store or from a path for an id, as it is.
            #[must_use]
            pub fn from_text(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// An event's id: one for ever, the same on every attempt and part of what is signed.
    EventId
}
id! {
    /// An endpoint's id, `ep_…`.
    EndpointId
}
id! {
    /// A delivery's id, `dlv_…`: one event on its way to one endpoint. Ids sort by creation.
    DeliveryId
}
id! {
    /// One process that shares the database, `in_…`: a restart makes another one of it.
    InstanceId
}
id! {
    /// A recovery's id, `rec_…`.
    RecoveryId
}
id! {
    /// A token's id, `tok_…`.
    TokenId
}
id! {
    /// Who an event or endpoint belongs to. Ids of events are unique within a tenant.
    Tenant
}

/// The tenant of operational events; nobody publishes to it from outside.
pub const RESERVED_TENANT: &str = "_postrider";

impl EventId {
    /// A fresh UUID v4.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// An id that the caller chose.
    ///
    /// # Errors
    /// Says what is wrong unless it is `[A-Za-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        word_of(text, 64).map(Self)
    }
}

impl EndpointId {
    /// A fresh id, sorting by `now`.
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        Self(format!("ep_{}", time_ordered(now)).into())
    }
}

impl InstanceId {
    /// A fresh id.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("in_{}", Uuid::new_v4().simple()).into())
    }
}

impl RecoveryId {
    /// A fresh id, sorting by `now`.
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        Self(format!("rec_{}", time_ordered(now)).into())
    }
}

impl TokenId {
    /// A fresh id, sorting by `now`.
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        Self(format!("tok_{}", time_ordered(now)).into())
    }
}

impl DeliveryId {
    /// A fresh id, sorting by `now`.
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        Self(format!("dlv_{}", time_ordered(now)).into())
    }
}

impl Tenant {
    /// A tenant's name as a caller wrote it.
    ///
    /// # Errors
    /// Says what is wrong unless it is `[A-Za-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        word_of(text, 64).map(Self)
    }

    /// The tenant of operational events.
    #[must_use]
    pub fn reserved() -> Self {
        Self(RESERVED_TENANT.into())
    }

    /// Whether this is the tenant of operational events.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        &*self.0 == RESERVED_TENANT
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

/// Whether a text could be an id of ours: what else comes in a path is nobody's.
#[must_use]
pub fn could_be_id(text: &str) -> bool {
    word_of(text, 128).is_ok()
}

/// The id of the attempt that claim number `claim_no` of a delivery led to, `att_…`.
#[must_use]
pub fn attempt_id(delivery: &DeliveryId, claim_no: i64) -> String {
    format!(
        "att_{}_{claim_no}",
        delivery.as_str().trim_start_matches("dlv_")
    )
}

/// Ids of one process sort by creation even within a millisecond: a counter (RFC 9562, section
/// 6.2).
static COUNTER: Mutex<ContextV7> = Mutex::new(ContextV7::new());

/// UUID v7 (RFC 9562, section 5.7): new rows land at the end of the index, not all over it.
fn time_ordered(now: Timestamp) -> uuid::fmt::Simple {
    let micros = now.as_micros().max(0).unsigned_abs();
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let nanos = u32::try_from(micros * 1000).unwrap_or(0);
    let counter = COUNTER.lock().unwrap_or_else(PoisonError::into_inner);
    Uuid::new_v7(uuid::Timestamp::from_unix(&*counter, seconds, nanos)).simple()
}

fn word_of(text: &str, max: usize) -> Result<Arc<str>, String> {
    let fits = (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        Ok(text.into())
    } else {
        Err(format!(
            "must be 1 to {max} characters of A-Z, a-z, 0-9, `_` and `-`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_ids_sort_by_creation() {
        let early = DeliveryId::generate(Timestamp::from_micros(1_700_000_000_000_000));
        let late = DeliveryId::generate(Timestamp::from_micros(1_700_000_000_001_000));
        assert!(early < late, "{early} {late}");
        let mut same = Vec::new();
        same.resize_with(1000, || {
            DeliveryId::generate(Timestamp::from_micros(1_800_000_000_000_000))
        });
        assert!(same.is_sorted());
    }

    #[test]
    fn a_callers_id_is_held_to_its_alphabet() {
        assert!(EventId::parse("order-17_a").is_ok());
        for bad in ["", "a b", "ü", "a.b", &"x".repeat(65)] {
            assert!(EventId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_generated_event_id_is_a_uuid_v4() {
        let id = EventId::generate();
        assert_eq!(Uuid::parse_str(id.as_str()).unwrap().get_version_num(), 4);
    }
}
