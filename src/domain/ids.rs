//! Ids of events, endpoints, deliveries and so on. Opaque to callers; cheap to clone.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the id as text, as it is shown and stored.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Wraps text from the store or from a path without checking it.
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
    /// Id of an event: permanent, the same on every attempt, and part of the signed content.
    EventId
}
id! {
    /// Id of an endpoint, `ep_…`.
    EndpointId
}
id! {
    /// Id of a delivery, `dlv_…`: one event on its way to one endpoint.
    DeliveryId
}
id! {
    /// Id of one process that shares the database, `in_…`. A restart gets a new one.
    InstanceId
}
id! {
    /// Id of a recovery, `rec_…`.
    RecoveryId
}
id! {
    /// Id of a token, `tok_…`.
    TokenId
}
id! {
    /// Owner of events and endpoints. Event ids are unique within a tenant.
    Tenant
}

/// Key of a delivery in its database: an event, and the endpoint that it goes to. Callers see a
/// [`DeliveryId`], which does not reveal how much all tenants send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey {
    /// The event's place in the order of publishing.
    pub event_seq: i64,
    /// The endpoint's number.
    pub endpoint: i32,
}

/// The tenant of operational events; callers cannot publish to it.
pub const RESERVED_TENANT: &str = "_postrider";

impl EventId {
    /// Generates a UUID v4.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "a host makes events where no engine is at hand; one that needs a run to be determined gives ids of its own"
    )]
    pub fn generate() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// Parses an id chosen by the caller.
    ///
    /// # Errors
    /// Describes the valid form unless it is `[A-Za-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        word_of(text, 64).map(Self)
    }
}

impl Tenant {
    /// Parses a tenant's name.
    ///
    /// # Errors
    /// Describes the valid form unless it is `[A-Za-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        word_of(text, 64).map(Self)
    }

    /// Returns the tenant of operational events.
    #[must_use]
    pub fn reserved() -> Self {
        Self(RESERVED_TENANT.into())
    }

    /// Returns whether this is the tenant of operational events.
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

/// Returns whether a text has the form of an id; nothing else needs to be looked up.
#[must_use]
pub fn is_valid_id(text: &str) -> bool {
    word_of(text, 128).is_ok()
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
    fn a_callers_id_is_held_to_its_alphabet() {
        assert!(EventId::parse("order-17_a").is_ok());
        for bad in ["", "a b", "ü", "a.b", &"x".repeat(65)] {
            assert!(EventId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
