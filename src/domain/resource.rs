//! Kinds of objects that callers name.

use super::words;

words! {
    /// A kind of object.
    Resource {
        /// A delivery.
        Delivery = "delivery",
        /// An endpoint.
        Endpoint = "endpoint",
        /// An event.
        Event = "event",
        /// An older signing key.
        Key = "key",
        /// A recovery.
        Recovery = "recovery",
        /// A signing secret.
        Secret = "secret",
        /// A tenant.
        Tenant = "tenant",
        /// A token.
        Token = "token",
    }
}
