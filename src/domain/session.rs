//! Browser sessions and portal links: their content, and their signature.
//!
//! Only the signing key is stored: with it every node can verify a session without a lookup.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::ZeroizeOnDrop;

use super::access::TokenHash;
use super::clock::Timestamp;
use super::ids::Tenant;

/// Lifetime of a session.
pub const SESSION_LASTS: Duration = Duration::from_secs(12 * 3600);
/// Lifetime of a session opened by a portal link.
pub const PORTAL_SESSION_LASTS: Duration = Duration::from_secs(3600);
/// Maximum lifetime of a portal link.
pub const MAX_LINK_LASTS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Block size of SHA-256, which HMAC uses without hashing it first.
const KEY_BYTES: usize = 64;

/// The purpose of a credential: it is valid for this purpose only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A browser's cookie.
    Session,
    /// The fragment of a portal link.
    PortalLink,
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::PortalLink => "portal-link",
        }
    }
}

/// The subject of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionSubject {
    /// The bearer of this token. The session has the token's current permissions.
    Token(TokenHash),
    /// The bearer of a portal link of this tenant.
    Portal(Tenant),
}

/// A session, or the content of a portal link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its subject.
    pub subject: SessionSubject,
    /// End of its validity.
    pub expires_at: Timestamp,
}

/// The serialized form: short names, and a random number that makes each one unique.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    h: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<String>,
    e: i64,
    n: u64,
}

/// The key that signs sessions.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SessionKey([u8; KEY_BYTES]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(***)")
    }
}

impl SessionKey {
    /// Creates a key from these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    fn mac(&self, label: &str, text: &str) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&self.0.into());
        for part in [label, ".", text] {
            mac.update(part.as_bytes());
        }
        mac
    }

    /// Returns the signed credential for a session.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, session: &Session, nonce: u64) -> String {
        let (hash, tenant) = match &session.subject {
            SessionSubject::Token(hash) => {
                (Some(BASE64_STANDARD_NO_PAD.encode(hash.bytes())), None)
            }
            SessionSubject::Portal(tenant) => (None, Some(tenant.to_string())),
        };
        let written = Written {
            h: hash,
            t: tenant,
            e: session.expires_at.as_micros(),
            n: nonce,
        };
        // Strings and numbers always serialize.
        let payload =
            BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&written).unwrap_or_default());
        let tag = self.mac(purpose.label(), &payload).finalize().into_bytes();
        format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// Returns the session if it was signed for `purpose` and has not expired.
    #[must_use]
    pub fn verify(&self, purpose: Purpose, credential: &str, now: Timestamp) -> Option<Session> {
        let (payload, tag) = credential.split_once('.')?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
        self.mac(purpose.label(), payload).verify_slice(&tag).ok()?;
        let written: Written =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let subject = match (written.h, written.t) {
            (Some(hash), None) => {
                let bytes = BASE64_STANDARD_NO_PAD.decode(hash).ok()?;
                SessionSubject::Token(TokenHash::from_bytes(bytes.try_into().ok()?))
            }
            (None, Some(tenant)) => SessionSubject::Portal(Tenant::parse(&tenant).ok()?),
            _ => return None,
        };
        let session = Session {
            subject,
            expires_at: Timestamp::from_micros(written.e),
        };
        (now < session.expires_at).then_some(session)
    }

    /// Returns the CSRF value that changing requests of this session send besides the cookie. A
    /// page of another origin can make the browser send the cookie, but does not know the value.
    #[must_use]
    pub fn csrf(&self, credential: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.mac("csrf", credential).finalize().into_bytes())
    }

    /// Returns whether `given` is the session's CSRF value; compared in constant time.
    #[must_use]
    pub fn is_csrf(&self, credential: &str, given: &str) -> bool {
        let given = BASE64_URL_SAFE_NO_PAD.decode(given);
        given.is_ok_and(|given| self.mac("csrf", credential).verify_slice(&given).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    #[test]
    fn what_was_signed_is_told_from_everything_else() {
        let (key, other) = (
            SessionKey::new([1; KEY_BYTES]),
            SessionKey::new([2; KEY_BYTES]),
        );
        for subject in [
            SessionSubject::Token(TokenHash::of("t")),
            SessionSubject::Portal(Tenant::parse("shop").unwrap()),
        ] {
            let session = Session {
                subject,
                expires_at: at(100),
            };
            let credential = key.sign(Purpose::Session, &session, 7);
            let verify = |purpose, text: &str, now| key.verify(purpose, text, at(now));
            assert_eq!(verify(Purpose::Session, &credential, 99), Some(session));
            assert_eq!(
                verify(Purpose::Session, &credential, 100),
                None,
                "it has ended"
            );
            assert_eq!(
                verify(Purpose::PortalLink, &credential, 1),
                None,
                "another purpose"
            );
            assert_eq!(
                other.verify(Purpose::Session, &credential, at(1)),
                None,
                "another key"
            );
            for i in 0..credential.len() {
                let mut changed = credential.clone().into_bytes();
                changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                // The last base64 character may contain unused bits.
                assert!(
                    verify(Purpose::Session, &changed, 1).is_none() || i + 1 == credential.len(),
                    "{i}"
                );
            }
            let csrf = key.csrf(&credential);
            assert!(key.is_csrf(&credential, &csrf) && !other.is_csrf(&credential, &csrf));
            assert!(
                !key.is_csrf(&format!("{credential}x"), &csrf) && !key.is_csrf(&credential, "")
            );
        }
    }
}
