//! Signing keys in the form of Standard Webhooks 1.0.0, a prefix and base64: `whsec_` is a shared
//! secret (HMAC-SHA256); `whsk_` and `whpk_` are the private and public keys of an ed25519 pair.
//! Also `prk_`, the keys that encrypt them at rest.

use std::fmt;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::ZeroizeOnDrop;

use super::random::{Random, bytes};

const PREFIX: &str = "whsec_";

/// A symmetric signing secret of 24 to 75 bytes. Never shown by `Debug`, and wiped when dropped.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Secret {
    key: Vec<u8>,
}

impl Secret {
    /// Parses `whsec_…`.
    ///
    /// # Errors
    /// Describes the problem; never repeats the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_key(decode(text, PREFIX)?)
    }

    /// Creates a secret from its key bytes.
    ///
    /// # Errors
    /// Returns an error unless there are 24 to 75 of them.
    pub fn from_key(key: Vec<u8>) -> Result<Self, String> {
        if (24..=75).contains(&key.len()) {
            Ok(Self { key })
        } else {
            Err(format!("must hold 24 to 75 bytes, not {}", key.len()))
        }
    }

    /// Generates a secret of 32 random bytes with a cryptographic generator.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self {
            key: bytes::<32>(random).to_vec(),
        }
    }

    /// Returns the key bytes for signing.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Returns the secret as receivers use it. The only way to see it.
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

const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// The private key of an ed25519 pair. Never shown by `Debug`, and wiped when dropped.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// Parses `whsk_…`: 64 bytes of seed and public key, or only the 32 bytes of the seed.
    ///
    /// # Errors
    /// Describes the problem; never repeats the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = decode(text, PRIVATE_PREFIX)?;
        if let Ok(seed) = <[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Self(SigningKey::from_bytes(&seed)));
        }
        let pair = <[u8; 64]>::try_from(bytes)
            .map_err(|bytes| format!("must hold 32 or 64 bytes, not {}", bytes.len()))?;
        SigningKey::from_keypair_bytes(&pair)
            .map(Self)
            .map_err(|_| "its private and public key do not belong together".into())
    }

    /// Generates a pair with a cryptographic generator.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self(SigningKey::from_bytes(&bytes(random)))
    }

    /// Returns the public key, with which receivers verify.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs these bytes (RFC 8032).
    #[must_use]
    pub fn sign(&self, content: &[u8]) -> [u8; 64] {
        self.0.sign(content).to_bytes()
    }

    /// Returns the key as it is stored. The only way to see it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!(
            "{PRIVATE_PREFIX}{}",
            BASE64_STANDARD.encode(self.0.to_keypair_bytes())
        )
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsk_***")
    }
}

/// A signing key chosen by a caller.
#[derive(Debug, Clone)]
pub enum SigningSecret {
    /// `whsec_…`, for `v1`.
    Symmetric(Secret),
    /// `whsk_…`, for `v1a`.
    Private(PrivateKey),
}

impl SigningSecret {
    /// Parses `whsec_…` or `whsk_…`. Surrounding white space, missing padding and the URL-safe
    /// alphabet are accepted, because other systems write keys that way.
    ///
    /// # Errors
    /// Describes the problem; never repeats the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with(PRIVATE_PREFIX) {
            PrivateKey::parse(text).map(Self::Private)
        } else if text.starts_with(PREFIX) {
            Secret::parse(text).map(Self::Symmetric)
        } else {
            Err(format!("must begin with `{PREFIX}` or `{PRIVATE_PREFIX}`"))
        }
    }

    /// Returns the key as its owner sees it. The only way to see it.
    #[must_use]
    pub fn reveal(&self) -> String {
        match self {
            Self::Symmetric(secret) => secret.reveal(),
            Self::Private(key) => key.reveal(),
        }
    }
}

/// The public key of an ed25519 pair, `whpk_…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Parses `whpk_…`.
    ///
    /// # Errors
    /// Describes the problem.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = decode(text, PUBLIC_PREFIX)?;
        let key = <[u8; 32]>::try_from(bytes)
            .map_err(|bytes| format!("must hold 32 bytes, not {}", bytes.len()))?;
        VerifyingKey::from_bytes(&key)
            .map(Self)
            .map_err(|_| "is not a valid ed25519 key".into())
    }

    /// Returns whether this key's private half signed these bytes.
    #[must_use]
    pub fn verifies(&self, content: &[u8], signature: &[u8; 64]) -> bool {
        self.0
            .verify_strict(content, &Signature::from_bytes(signature))
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PUBLIC_PREFIX}{}",
            BASE64_STANDARD.encode(self.0.as_bytes())
        )
    }
}

const ENCRYPTION_PREFIX: &str = "prk_";

/// A key that encrypts secrets in the database, `prk_…`: 32 bytes in base64. Never shown by
/// `Debug`, and wiped when dropped.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// Length of its id in characters.
    pub const ID_CHARS: usize = 8;

    /// Parses `prk_…`.
    ///
    /// # Errors
    /// Describes the problem; never repeats the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = decode(text, ENCRYPTION_PREFIX)?;
        let key = <[u8; 32]>::try_from(bytes);
        key.map(Self)
            .map_err(|bytes| format!("must hold 32 bytes, not {}", bytes.len()))
    }

    /// Generates a key with a cryptographic generator.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self(bytes(random))
    }

    /// Returns an id that may be shown: the beginning of its SHA-256 in hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        Sha256::digest(self.0)
            .iter()
            .take(Self::ID_CHARS / 2)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Returns the key as it is configured. The only way to see it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{ENCRYPTION_PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }

    /// Returns the key bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prk_***({})", self.id())
    }
}

/// Decodes base64 of either alphabet (RFC 4648, sections 4 and 5), padded or not.
fn decode(text: &str, prefix: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let encoded = text
        .strip_prefix(prefix)
        .ok_or_else(|| format!("must begin with `{prefix}`"))?;
    let standard = encoded
        .trim_end_matches('=')
        .replace('-', "+")
        .replace('_', "/");
    let padding = encoded.len() - encoded.trim_end_matches('=').len();
    let wrong = || format!("must be base64 after `{prefix}`");
    // If there is padding, it must be complete: a truncated key must not decode to another one.
    if padding > 0 && encoded.len() % 4 != 0 {
        return Err(wrong());
    }
    BASE64_STANDARD_NO_PAD.decode(standard).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_reads_back_and_never_shows_in_debug() {
        let secret = Secret::generate(&crate::ports::OsRandom);
        assert_eq!(Secret::parse(&secret.reveal()).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "whsec_***");
    }

    #[test]
    fn short_long_and_garbled_secrets_are_refused_without_being_repeated() {
        for bad in [
            "",
            "sec",
            "whsec_!!!!",
            "whsec_c2hvcnQ=",
            &format!("whsec_{}", "A".repeat(104)),
            "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            let error = Secret::parse(bad).unwrap_err();
            assert!(bad.len() < 4 || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn keys_are_read_as_other_systems_write_them() {
        let key = vec![0xfb; 25];
        let secret = Secret::from_key(key.clone()).unwrap();
        let padded = secret.reveal();
        assert!(padded.contains('+') && padded.ends_with("=="), "{padded}");
        let bare = padded.trim_end_matches('=');
        let url_safe = bare.replace('+', "-").replace('/', "_");
        for text in [
            bare,
            &url_safe,
            &format!("{url_safe}=="),
            &format!(" {padded}\n"),
        ] {
            let SigningSecret::Symmetric(read) = SigningSecret::parse(text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!(read, secret, "{text}");
        }
        for length in [24, 75] {
            let text = Secret::from_key(vec![1; length]).unwrap().reveal();
            assert!(SigningSecret::parse(&text).is_ok(), "{length}");
        }
        assert!(Secret::from_key(vec![1; 23]).is_err() && Secret::from_key(vec![1; 76]).is_err());
        let private = PrivateKey::generate(&crate::ports::OsRandom);
        let SigningSecret::Private(read) = SigningSecret::parse(&private.reveal()).unwrap() else {
            panic!()
        };
        assert_eq!(read.public(), private.public());
        let seed = format!("whsk_{}", BASE64_STANDARD.encode([7; 32]));
        assert!(matches!(
            SigningSecret::parse(&seed),
            Ok(SigningSecret::Private(_))
        ));
    }

    #[test]
    fn a_pair_reads_back_and_only_its_public_half_is_shown() {
        let private = PrivateKey::generate(&crate::ports::OsRandom);
        let read = PrivateKey::parse(&private.reveal()).unwrap();
        assert_eq!(read.public(), private.public());
        assert_eq!(
            PublicKey::parse(&private.public().to_string()).unwrap(),
            private.public()
        );
        assert_eq!(format!("{private:?}"), "whsk_***");
        let signature = private.sign(b"content");
        assert!(private.public().verifies(b"content", &signature));
        assert!(!private.public().verifies(b"another", &signature));
        let other = PrivateKey::generate(&crate::ports::OsRandom);
        assert!(!other.public().verifies(b"content", &signature));
        for bad in [
            "",
            "whsk_",
            "whsk_!!",
            &format!("whsk_{}", "A".repeat(88)),
            &private.public().to_string(),
        ] {
            assert!(PrivateKey::parse(bad).is_err(), "{bad}");
        }
    }
}
