//! Sessions of browsers, and the links that open a tenant's own page: what they say, and how they
//! are signed.
//!
//! Nothing is kept of them but the key: whoever has it can tell a session that was given out from
//! one that was made up, on every node.

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

/// How long a session lasts.
pub const SESSION_LASTS: Duration = Duration::from_secs(12 * 3600);
/// How long one lasts that a portal link has opened.
pub const PORTAL_SESSION_LASTS: Duration = Duration::from_secs(3600);
/// How long a portal link may be good for, at most.
pub const MAX_LINK_LASTS: Duration = Duration::from_secs(7 * 24 * 3600);

/// A block of SHA-256, which HMAC takes as it is.
const KEY_BYTES: usize = 64;

/// What a credential is for: one is never good for the other.
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

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Who had this token. What it is good for now is good for the session.
    Token(TokenHash),
    /// Who had a portal link of this tenant.
    Portal(Tenant),
}

/// A session, or what a link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub holder: Holder,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// As it is written: short names, and something random, so that no two are the same.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    h: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<String>,
    e: i64,
    n: u64,
}

/// What sessions are signed with.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SessionKey([u8; KEY_BYTES]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(***)")
    }
}

impl SessionKey {
    /// A key of these bytes.
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

    /// The session as its holder shows it.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, session: &Session) -> String {
        let (hash, tenant) = match &session.holder {
            Holder::Token(hash) => (Some(BASE64_STANDARD_NO_PAD.encode(hash.bytes())), None),
            Holder::Portal(tenant) => (None, Some(tenant.to_string())),
        };
        let written = Written {
            h: hash,
            t: tenant,
            e: session.expires_at.as_micros(),
            n: rand::random(),
        };
        // Texts and numbers, which cannot fail to be written.
        let payload =
            BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&written).unwrap_or_default());
        let tag = self.mac(purpose.label(), &payload).finalize().into_bytes();
        format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// What was signed for that purpose, if it was, and as long as it lasts.
    #[must_use]
    pub fn verify(&self, purpose: Purpose, credential: &str, now: Timestamp) -> Option<Session> {
        let (payload, tag) = credential.split_once('.')?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
        self.mac(purpose.label(), payload).verify_slice(&tag).ok()?;
        let written: Written =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let holder = match (written.h, written.t) {
            (Some(hash), None) => {
                let bytes = BASE64_STANDARD_NO_PAD.decode(hash).ok()?;
                Holder::Token(TokenHash::from_bytes(bytes.try_into().ok()?))
            }
            (None, Some(tenant)) => Holder::Portal(Tenant::parse(&tenant).ok()?),
            _ => return None,
        };
        let session = Session {
            holder,
            expires_at: Timestamp::from_micros(written.e),
        };
        (now < session.expires_at).then_some(session)
    }

    /// The value that a changing call of this session sends beside its cookie. Only who was given
    /// it knows it: a page of another origin that makes the browser send the cookie does not.
    #[must_use]
    pub fn csrf(&self, credential: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.mac("csrf", credential).finalize().into_bytes())
    }

    /// Whether that is its value; compared in constant time.
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
        for holder in [
            Holder::Token(TokenHash::of("t")),
            Holder::Portal(Tenant::parse("shop").unwrap()),
        ] {
            let session = Session {
                holder,
                expires_at: at(100),
            };
            let credential = key.sign(Purpose::Session, &session);
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
                // The last character of base64 may hold bits that mean nothing.
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
