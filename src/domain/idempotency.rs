//! Event ids made of idempotency keys: the same caller, path, query and key always make the same
//! id, so that the uniqueness of event ids is the whole mechanism, over restarts and nodes.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::{Builder, Uuid};
use zeroize::ZeroizeOnDrop;

use super::ids::EventId;

/// The longest key, in characters.
const MAX_KEY_CHARS: usize = 255;

/// The database's own key that ids are made with: who does not know it cannot foresee them.
#[derive(Clone, ZeroizeOnDrop)]
pub struct IdempotencySecret([u8; 64]);

impl std::fmt::Debug for IdempotencySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdempotencySecret(***)")
    }
}

/// A request as its repetition looks.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who calls, such as by which token.
    pub caller: &'a str,
    /// The URL's path.
    pub path: &'a str,
    /// The URL's query.
    pub query: &'a str,
    /// The header `Idempotency-Key`.
    pub key: &'a str,
}

/// Checks the header `Idempotency-Key`.
///
/// # Errors
/// Unless it is 1 to 255 visible ASCII characters.
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
    /// A secret of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Returns the id of the event that a request publishes: a UUID of version 8 (RFC 9562, section
    /// 5.8).
    #[must_use]
    pub fn event_id(&self, request: &Request<'_>) -> EventId {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&self.0.into());
        for part in [request.caller, request.path, request.query, request.key] {
            // With its length, so that no two requests are one text.
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
