//! Standard Webhooks 1.0.0: signatures over `id.timestamp.payload`, with the exact payload bytes.
//!
//! Receivers written in Rust can use [`SignedContent::verify`] directly.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::clock::Timestamp;
use crate::domain::endpoint::SigningKeys;
use crate::domain::secret::{PublicKey, Secret};
use crate::domain::settings::Signing;

/// Maximum difference between signed time and receiver's clock: five minutes, as in the reference
/// libraries.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// The signed content of a webhook.
#[derive(Debug, Clone, Copy)]
pub struct SignedContent<'a> {
    /// Value of the header `webhook-id`.
    pub id: &'a str,
    /// Value of the header `webhook-timestamp`, a Unix timestamp in seconds.
    pub timestamp: i64,
    /// Bytes of the body as sent.
    pub body: &'a [u8],
}

/// A key for verifying signatures.
#[derive(Debug, Clone)]
pub enum ReceiverKey {
    /// `whsec_…`, for `v1`.
    Secret(Secret),
    /// `whpk_…`, for `v1a`.
    Public(PublicKey),
}

impl std::str::FromStr for ReceiverKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("whpk_") {
            PublicKey::parse(text).map(Self::Public)
        } else {
            Secret::parse(text).map(Self::Secret)
        }
    }
}

/// A reason not to trust a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// `webhook-timestamp` is not a Unix timestamp in seconds.
    #[error("webhook-timestamp is not a Unix timestamp in seconds")]
    NoTimestamp,
    /// The signed time is too long ago, or too far in the future.
    #[error("webhook-timestamp is more than five minutes off this machine's clock")]
    Stale,
    /// No signature was made with this key over these bytes.
    #[error("webhook-signature does not match: wrong key, or the body was changed in transit")]
    Mismatch,
}

impl<'a> SignedContent<'a> {
    /// Assembles the signed content from a request's headers and body.
    ///
    /// # Errors
    /// Returns [`Untrusted::NoTimestamp`] if `timestamp` is not a number.
    pub fn received(id: &'a str, timestamp: &str, body: &'a [u8]) -> Result<Self, Untrusted> {
        let timestamp = timestamp.parse().map_err(|_| Untrusted::NoTimestamp)?;
        Ok(Self {
            id,
            timestamp,
            body,
        })
    }

    /// Returns the value of `webhook-signature`: one signature per key and scheme, newest key
    /// first, separated by spaces.
    #[must_use]
    pub fn signature_header<'k>(
        &self,
        keys: impl Iterator<Item = &'k SigningKeys>,
        schemes: &[Signing],
    ) -> String {
        let sign = |keys: &SigningKeys, scheme: Signing| match scheme {
            Signing::V1 => {
                let tag = self.mac(&keys.secret)?.finalize().into_bytes();
                Some(format!("{scheme},{}", BASE64_STANDARD.encode(tag)))
            }
            Signing::V1a => {
                let signature = keys.private_key.sign(&self.bytes());
                Some(format!("{scheme},{}", BASE64_STANDARD.encode(signature)))
            }
        };
        let each =
            keys.flat_map(|keys| schemes.iter().filter_map(move |scheme| sign(keys, *scheme)));
        each.collect::<Vec<_>>().join(" ")
    }

    /// Verifies the header `webhook-signature` of a received webhook. `v1` signatures are compared
    /// in constant time.
    ///
    /// # Errors
    /// Returns the reason not to trust the webhook.
    pub fn verify(
        &self,
        key: &ReceiverKey,
        signatures: &str,
        now: Timestamp,
    ) -> Result<(), Untrusted> {
        let age = now
            .as_seconds()
            .saturating_sub(self.timestamp)
            .unsigned_abs();
        if age > TOLERANCE.as_secs() {
            return Err(Untrusted::Stale);
        }
        let matches = |signature: &str| {
            let (scheme, encoded) = signature.split_once(',')?;
            let signature = BASE64_STANDARD.decode(encoded).ok()?;
            Some(match key {
                ReceiverKey::Secret(secret) => {
                    scheme == Signing::V1.as_str()
                        && self.mac(secret)?.verify_slice(&signature).is_ok()
                }
                ReceiverKey::Public(public) => {
                    let signature = signature.try_into().ok()?;
                    scheme == Signing::V1a.as_str() && public.verifies(&self.bytes(), &signature)
                }
            })
        };
        let any = signatures
            .split(' ')
            .any(|signature| matches(signature) == Some(true));
        if any {
            Ok(())
        } else {
            Err(Untrusted::Mismatch)
        }
    }

    fn prefix(&self) -> String {
        format!("{}.{}.", self.id, self.timestamp)
    }

    /// Returns the signed content in one piece, which ed25519 needs.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.prefix().into_bytes();
        bytes.extend_from_slice(self.body);
        bytes
    }

    fn mac(&self, secret: &Secret) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.key()).ok()?;
        mac.update(self.prefix().as_bytes());
        mac.update(self.body);
        Some(mac)
    }
}
