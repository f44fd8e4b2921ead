//! Encryption of stored values: signing keys, and the headers of endpoints.
//!
//! XChaCha20-Poly1305 with a random nonce of 24 bytes, which needs no counter that a restored
//! backup could set back. The value's row and column are authenticated with it, so a value cannot
//! be moved to another row. Format: `enc:v1:KEY ID:BASE64`; a value without this prefix is
//! unencrypted.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::error::{StoreError, corrupt};
use crate::domain::random::{Random, bytes};
use crate::domain::secret::EncryptionKey;
use crate::ports::OsRandom;

const MARK: &str = "enc:v1:";
const NONCE_BYTES: usize = 24;

/// Length of the prefix that names the key of a stored value.
pub(super) const MARK_AND_ID: usize = MARK.len() + EncryptionKey::ID_CHARS;

/// The first key encrypts, all of them decrypt.
pub(crate) struct KeyRing {
    keys: Vec<(String, XChaCha20Poly1305)>,
    random: Arc<dyn Random>,
}

/// The place where an encrypted value is stored.
pub(super) struct SealedColumn<'a> {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    /// Key of its row.
    pub(super) row: &'a str,
}

impl SealedColumn<'_> {
    fn name(&self) -> String {
        format!("{}.{}:{}", self.table, self.column, self.row)
    }
}

impl KeyRing {
    pub(super) fn new(keys: &[EncryptionKey], random: Arc<dyn Random>) -> Self {
        let cipher = |key: &EncryptionKey| (key.id(), XChaCha20Poly1305::new(key.bytes().into()));
        Self {
            keys: keys.iter().map(cipher).collect(),
            random,
        }
    }

    /// A ring that encrypts nothing.
    pub(super) fn without_keys() -> Self {
        Self::new(&[], Arc::new(OsRandom))
    }

    pub(super) fn random(&self) -> &dyn Random {
        &*self.random
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Encrypts `text` for its place with the first key; unencrypted without one.
    pub(super) fn seal(&self, column: &SealedColumn<'_>, text: &str) -> Result<String, StoreError> {
        let Some((id, cipher)) = self.keys.first() else {
            return Ok(text.to_owned());
        };
        let nonce: [u8; NONCE_BYTES] = bytes(self.random());
        let name = column.name();
        let payload = Payload {
            msg: text.as_bytes(),
            aad: name.as_bytes(),
        };
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed =
            sealed.map_err(|_| corrupt(column.table, column.column, "cannot be encrypted"))?;
        Ok(format!(
            "{MARK}{id}:{}",
            BASE64_STANDARD_NO_PAD.encode([&nonce[..], &sealed].concat())
        ))
    }

    /// Decrypts a stored value.
    pub(super) fn open<'t>(
        &self,
        column: &SealedColumn<'_>,
        stored: &'t str,
    ) -> Result<Cow<'t, str>, StoreError> {
        let Some(sealed) = stored.strip_prefix(MARK) else {
            return Ok(stored.into());
        };
        let unreadable = |detail: &str| corrupt(column.table, column.column, detail);
        let (id, encoded) = sealed
            .split_once(':')
            .ok_or_else(|| unreadable("is not an encrypted value"))?;
        let key = self.keys.iter().find(|(known, _)| known == id);
        let (_, cipher) = key.ok_or_else(|| StoreError::MissingKey(id.to_owned()))?;
        let bytes = BASE64_STANDARD_NO_PAD
            .decode(encoded)
            .map_err(|_| unreadable("is not base64"))?;
        let (nonce, sealed) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(|| unreadable("is too short"))?;
        let name = column.name();
        let payload = Payload {
            msg: sealed,
            aad: name.as_bytes(),
        };
        let opened = cipher.decrypt(&XNonce::from(*nonce), payload);
        let opened = opened.map_err(|_| unreadable("cannot be decrypted with its key"))?;
        String::from_utf8(opened)
            .map(Cow::Owned)
            .map_err(|_| unreadable("is not text"))
    }

    /// Returns a stored value encrypted with the first key; `None` if it already is.
    pub(super) fn reseal(
        &self,
        column: &SealedColumn<'_>,
        stored: &str,
    ) -> Result<Option<String>, StoreError> {
        if self.is_current(stored) {
            return Ok(None);
        }
        self.seal(column, &self.open(column, stored)?).map(Some)
    }

    /// Returns true if a stored value, or its beginning, has the form that [`seal`](Self::seal)
    /// would write.
    pub(super) fn is_current(&self, stored: &str) -> bool {
        match (self.keys.first(), sealed_by(stored)) {
            (Some((first, _)), Some(id)) => first == id,
            (None, None) => true,
            _ => false,
        }
    }

    /// Returns the id of a missing key that a stored value, or its beginning, requires.
    pub(super) fn missing<'t>(&self, stored: &'t str) -> Option<&'t str> {
        sealed_by(stored).filter(|id| !self.keys.iter().any(|(known, _)| known == id))
    }
}

fn sealed_by(stored: &str) -> Option<&str> {
    stored.strip_prefix(MARK)?.get(..EncryptionKey::ID_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: SealedColumn<'static> = SealedColumn {
        table: "t",
        column: "c",
        row: "ep_1",
    };

    #[test]
    fn what_is_sealed_opens_in_its_place_alone_and_with_its_key_alone() {
        let (first, second) = (
            EncryptionKey::generate(&OsRandom),
            EncryptionKey::generate(&OsRandom),
        );
        let ring = KeyRing::new(&[first.clone(), second.clone()], Arc::new(OsRandom));
        let sealed = ring.seal(&PLACE, "whsec_text").unwrap();
        assert!(!sealed.contains("text") && sealed.starts_with(&format!("{MARK}{}:", first.id())));
        assert_ne!(
            sealed,
            ring.seal(&PLACE, "whsec_text").unwrap(),
            "each has its own nonce"
        );
        assert_eq!(ring.open(&PLACE, &sealed).unwrap(), "whsec_text");
        let elsewhere = SealedColumn {
            row: "ep_2",
            ..PLACE
        };
        assert!(matches!(
            ring.open(&elsewhere, &sealed),
            Err(StoreError::Corrupt { .. })
        ));
        let other = KeyRing::new(std::slice::from_ref(&second), Arc::new(OsRandom));
        assert!(
            matches!(other.open(&PLACE, &sealed), Err(StoreError::MissingKey(id)) if id == first.id())
        );
        for broken in [
            &sealed[..sealed.len() - 2],
            "enc:v1:",
            "enc:v1:x",
            &format!("{MARK}{}:AAAA", first.id()),
        ] {
            assert!(ring.open(&PLACE, broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn values_move_from_the_clear_and_from_an_older_key_to_the_first_one() {
        let (old, new) = (
            EncryptionKey::generate(&OsRandom),
            EncryptionKey::generate(&OsRandom),
        );
        let none = KeyRing::new(&[], Arc::new(OsRandom));
        let plain = none.seal(&PLACE, "text").unwrap();
        assert_eq!(
            (plain.as_str(), none.reseal(&PLACE, &plain).unwrap()),
            ("text", None)
        );
        let sealed = KeyRing::new(std::slice::from_ref(&old), Arc::new(OsRandom))
            .reseal(&PLACE, &plain)
            .unwrap()
            .unwrap();
        let both = KeyRing::new(&[new.clone(), old], Arc::new(OsRandom));
        assert!(!both.is_current(&sealed) && both.missing(&sealed).is_none());
        let moved = both.reseal(&PLACE, &sealed).unwrap().unwrap();
        let ring = KeyRing::new(&[new], Arc::new(OsRandom));
        assert!(ring.is_current(&moved) && ring.reseal(&PLACE, &moved).unwrap().is_none());
        assert_eq!(ring.open(&PLACE, &moved).unwrap(), "text");
        assert!(ring.missing(&sealed).is_some());
    }
}
