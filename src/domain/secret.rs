//! Signing secrets, as Standard Webhooks 1.0.0 writes them: `whsec_` and base64.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

const PREFIX: &str = "whsec_";

/// A symmetric signing secret of 24 to 64 bytes, decoded once. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    key: Vec<u8>,
}

impl Secret {
    /// Reads `whsec_…`.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| format!("must begin with `{PREFIX}`"))?;
        let key = BASE64_STANDARD
            .decode(encoded)
            .map_err(|_| format!("must be standard base64 after `{PREFIX}`"))?;
        Self::from_key(key)
    }

    /// A secret of these key bytes.
    ///
    /// # Errors
    /// When there are fewer than 24 or more than 64 of them.
    pub fn from_key(key: Vec<u8>) -> Result<Self, String> {
        if (24..=64).contains(&key.len()) {
            Ok(Self { key })
        } else {
            Err(format!("must hold 24 to 64 bytes, not {}", key.len()))
        }
    }

    /// A fresh secret of 32 random bytes from a cryptographic generator.
    #[must_use]
    pub fn generate() -> Self {
        Self { key: rand::random::<[u8; 32]>().to_vec() }
    }

    /// The key that signs.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The secret as a consumer gets it. The one way to see it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.key))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_reads_back_and_never_shows_in_debug() {
        let secret = Secret::generate();
        assert_eq!(Secret::parse(&secret.reveal()).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "whsec_***");
    }

    #[test]
    fn short_long_and_garbled_secrets_are_refused_without_being_repeated() {
        for bad in ["", "sec", "whsec_!!!!", "whsec_c2hvcnQ=", &format!("whsec_{}", "A".repeat(88))] {
            let error = Secret::parse(bad).unwrap_err();
            assert!(bad.len() < 4 || !error.contains(bad), "{error}");
        }
    }
}
