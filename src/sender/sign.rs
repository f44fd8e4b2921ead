//! Standard Webhooks 1.0.0: what is signed is `id.timestamp.payload`, with the payload's own bytes.
//!
//! Receivers in Rust can use [`verify`] as it is.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::clock::Timestamp;
use crate::domain::ids::EventId;
use crate::domain::secret::Secret;

/// How far a receiver lets the signed time be off: five minutes, as the reference libraries do.
pub const TOLERANCE: Duration = Duration::from_secs(300);

const SCHEME: &str = "v1,";

fn mac(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.key()).ok()?;
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    Some(mac)
}

/// The value of `webhook-signature`: one `v1,…` for each key, newest first, with spaces between.
#[must_use]
pub fn signature_header<'a>(
    keys: impl Iterator<Item = &'a Secret>,
    id: &EventId,
    timestamp: i64,
    body: &[u8],
) -> String {
    let sign = |key| {
        let tag = mac(key, id.as_str(), timestamp, body)?.finalize().into_bytes();
        Some(format!("{SCHEME}{}", BASE64_STANDARD.encode(tag)))
    };
    keys.filter_map(sign).collect::<Vec<_>>().join(" ")
}

/// Why a webhook is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// `webhook-timestamp` is no number of seconds.
    #[error("webhook-timestamp is no number of seconds since 1970")]
    NoTimestamp,
    /// It was signed too long ago, or ahead of time.
    #[error("webhook-timestamp is more than five minutes away from this clock")]
    Stale,
    /// None of the signatures is made with this secret over these bytes.
    #[error("webhook-signature does not match: another secret, or the body was changed on its way")]
    Mismatch,
}

/// Checks a received webhook: its headers `webhook-id`, `webhook-timestamp`, `webhook-signature`,
/// and the body's bytes as they came. Compares in constant time.
///
/// # Errors
/// Says why it is not to be trusted.
pub fn verify(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Untrusted> {
    let timestamp: i64 = timestamp.parse().map_err(|_| Untrusted::NoTimestamp)?;
    let age = now.as_seconds().saturating_sub(timestamp).unsigned_abs();
    if age > TOLERANCE.as_secs() {
        return Err(Untrusted::Stale);
    }
    let matches = |signature: &str| {
        let tag = signature.strip_prefix(SCHEME).and_then(|tag| BASE64_STANDARD.decode(tag).ok());
        match (tag, mac(secret, id, timestamp, body)) {
            (Some(tag), Some(mac)) => mac.verify_slice(&tag).is_ok(),
            _ => false,
        }
    };
    if signatures.split(' ').any(matches) { Ok(()) } else { Err(Untrusted::Mismatch) }
}
