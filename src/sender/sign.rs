//! Standard Webhooks 1.0.0: what is signed is `id.timestamp.payload`, with the payload's own bytes.
//!
//! Receivers in Rust can use [`Content::verify`] as it is.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::clock::Timestamp;
use crate::domain::endpoint::LiveKeys;
use crate::domain::secret::{PublicKey, Secret};
use crate::domain::settings::Signing;

/// How far a receiver lets the signed time be off: five minutes, as the reference libraries do.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// What a signature is over.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The header `webhook-id`.
    pub id: &'a str,
    /// The header `webhook-timestamp`, in seconds since 1970.
    pub timestamp: i64,
    /// The body's bytes as they are sent.
    pub body: &'a [u8],
}

/// What a receiver verifies by.
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
    /// None of the signatures is made with this key over these bytes.
    #[error("webhook-signature does not match: another key, or the body was changed on its way")]
    Mismatch,
}

impl<'a> Content<'a> {
    /// What a request's headers and body say was signed.
    ///
    /// # Errors
    /// [`Untrusted::NoTimestamp`].
    pub fn received(id: &'a str, timestamp: &str, body: &'a [u8]) -> Result<Self, Untrusted> {
        let timestamp = timestamp.parse().map_err(|_| Untrusted::NoTimestamp)?;
        Ok(Self {
            id,
            timestamp,
            body,
        })
    }

    /// The value of `webhook-signature`: one signature for each scheme and live key, newest first,
    /// with spaces between.
    #[must_use]
    pub fn signature_header<'k>(
        &self,
        keys: impl Iterator<Item = &'k LiveKeys>,
        schemes: &[Signing],
    ) -> String {
        let sign = |keys: &LiveKeys, scheme: Signing| match scheme {
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

    /// Checks the header `webhook-signature` of a received webhook. Secrets are compared in
    /// constant time.
    ///
    /// # Errors
    /// Says why it is not to be trusted.
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

    /// All of it in one piece, as ed25519 needs it.
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
