//! Event ids derived from idempotency keys. The same caller, path, query and key always yield the
//! same id, so the uniqueness of event ids is the whole mechanism, across restarts and nodes.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::{Builder, Uuid};
use zeroize::ZeroizeOnDrop;

use super::ids::EventId;

/// Maximum length of a key in characters.
const MAX_KEY_CHARS: usize = 255;

/// The database's own key for deriving ids: without it they cannot be predicted.
#[derive(Clone, ZeroizeOnDrop)]
pub struct IdempotencySecret([u8; 64]);

impl std::fmt::Debug for IdempotencySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdempotencySecret(***)")
    }
}

/// The parts of a request that are the same when it is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The caller, for example the token's id.
    pub caller: &'a str,
    /// Path of the URL.
    pub path: &'a str,
    /// Query of the URL.
    pub query: &'a str,
    /// Value of the header `Idempotency-Key`.
    pub key: &'a str,
}

/// Checks the value of the header `Idempotency-Key`.
///
/// # Errors
/// Returns an error unless it is 1 to 255 visible ASCII characters.
pub fn check_key(key: &[u8]) -> Result<&str, String> {
    let fits = (1..=MAX_KEY_CHARS).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    let wrong = || format!("must be 1 to {MAX_KEY_CHARS} visible ASCII characters");
    if fits {
        std::str::from_utf8(key).map_err(|_| wrong())
    } else {
        Err(wrong())
    }
}

impl IdempotencySecret {
    /// Creates a secret from these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Derives the id of the event that a request publishes: a UUID v8 (RFC 9562, section 5.8).
    #[must_use]
    pub fn event_id(&self, request: &Request<'_>) -> EventId {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&self.0.into());
        for part in [request.caller, request.path, request.query, request.key] {
            // Each part with its length, so that different requests cannot form the same input.
            mac.update(&part.len().to_be_bytes());
            mac.update(part.as_bytes());
        }
        let tag = mac.finalize().into_bytes();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&tag[..16]);
        let id: Uuid = Builder::from_custom_bytes(bytes).into_uuid();
        EventId::from_text(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request<'static> = Request {
        caller: "token",
        path: "/api/v1/events",
        query: "",
        key: "k1",
    };

    #[test]
    fn the_same_request_makes_the_same_id_and_another_one_another() {
        let secret = IdempotencySecret::new([7; 64]);
        let id = secret.event_id(&REQUEST);
        assert_eq!(id, secret.event_id(&REQUEST));
        let uuid: Uuid = id.as_str().parse().unwrap();
        assert_eq!(uuid.get_version_num(), 8);
        for other in [
            Request {
                caller: "other",
                ..REQUEST
            },
            Request {
                path: "/api/v1/event",
                query: "s",
                ..REQUEST
            },
            Request {
                query: "a=1",
                ..REQUEST
            },
            Request {
                key: "k2",
                ..REQUEST
            },
        ] {
            assert_ne!(id, secret.event_id(&other), "{other:?}");
        }
        assert_ne!(id, IdempotencySecret::new([8; 64]).event_id(&REQUEST));
    }

    #[test]
    fn keys_are_visible_ascii() {
        assert!(check_key(b"a-key").is_ok() && check_key(&[b'k'; 255]).is_ok());
        for wrong in [&b""[..], b"a key", b"k\xc3\xa9", &[b'k'; 256]] {
            assert!(check_key(wrong).is_err());
        }
    }
}
