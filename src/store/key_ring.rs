//! What is sealed before it is stored: signing keys and the headers that endpoints add.
//!
//! XChaCha20-Poly1305 with a random nonce of 24 bytes, which needs no counter that a restored
//! backup could set back. What a value belongs to is authenticated with it, so that no row opens as
//! another's. Written as `enc:v1:KEY ID:BASE64`; what does not begin so is in the clear.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::StoreError;
use super::codec::corrupt;
use crate::domain::secret::EncryptionKey;

const MARK: &str = "enc:v1:";
const NONCE_BYTES: usize = 24;

/// How many characters of a stored value tell how it is sealed.
pub(super) const MARK_AND_ID: usize = MARK.len() + EncryptionKey::ID_CHARS;

/// The first key seals, all of them open.
pub(crate) struct KeyRing {
    keys: Vec<(String, XChaCha20Poly1305)>,
}

/// Where a value is stored.
pub(super) struct Place<'a> {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    /// What tells it from others of its column.
    pub(super) row: &'a str,
}

impl Place<'_> {
    fn name(&self) -> String {
        format!("{}.{}:{}", self.table, self.column, self.row)
    }
}

impl KeyRing {
    pub(super) fn new(keys: &[EncryptionKey]) -> Self {
        let cipher = |key: &EncryptionKey| (key.id(), XChaCha20Poly1305::new(key.bytes().into()));
        Self {
            keys: keys.iter().map(cipher).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Seals `text` for its place, with the first key; in the clear where there is none.
    pub(super) fn seal(&self, place: &Place<'_>, text: &str) -> Result<String, StoreError> {
        let Some((id, cipher)) = self.keys.first() else {
            return Ok(text.to_owned());
        };
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let place_name = place.name();
        let payload = Payload {
            msg: text.as_bytes(),
            aad: place_name.as_bytes(),
        };
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed =
            sealed.map_err(|_| corrupt(place.table, place.column, "cannot be encrypted"))?;
        Ok(format!(
            "{MARK}{id}:{}",
            BASE64_STANDARD_NO_PAD.encode([&nonce[..], &sealed].concat())
        ))
    }

    /// The text of a stored value.
    pub(super) fn open<'t>(
        &self,
        place: &Place<'_>,
        stored: &'t str,
    ) -> Result<Cow<'t, str>, StoreError> {
        let Some(sealed) = stored.strip_prefix(MARK) else {
            return Ok(stored.into());
        };
        let unreadable = |detail: &str| corrupt(place.table, place.column, detail);
        let (id, encoded) = sealed
            .split_once(':')
            .ok_or_else(|| unreadable("is no sealed value"))?;
        let key = self.keys.iter().find(|(known, _)| known == id);
        let (_, cipher) = key.ok_or_else(|| StoreError::MissingKey(id.to_owned()))?;
        let bytes = BASE64_STANDARD_NO_PAD
            .decode(encoded)
            .map_err(|_| unreadable("is no base64"))?;
        let (nonce, sealed) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(|| unreadable("is too short"))?;
        let place_name = place.name();
        let payload = Payload {
            msg: sealed,
            aad: place_name.as_bytes(),
        };
        let opened = cipher.decrypt(&XNonce::from(*nonce), payload);
        let opened = opened.map_err(|_| unreadable("does not open with its key"))?;
        String::from_utf8(opened)
            .map(Cow::Owned)
            .map_err(|_| unreadable("is no text"))
    }

    /// A stored value under the first key; `None` if it is already.
    pub(super) fn reseal(
        &self,
        place: &Place<'_>,
        stored: &str,
    ) -> Result<Option<String>, StoreError> {
        if self.is_present(stored) {
            return Ok(None);
        }
        self.seal(place, &self.open(place, stored)?).map(Some)
    }

    /// Whether a stored value, or the beginning of one, is as [`seal`](Self::seal) would write it.
    pub(super) fn is_present(&self, stored: &str) -> bool {
        match (self.keys.first(), sealed_by(stored)) {
            (Some((first, _)), Some(id)) => first == id,
            (None, None) => true,
            _ => false,
        }
    }

    /// The key that a stored value, or the beginning of one, needs and that is not here.
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

    const PLACE: Place<'static> = Place {
        table: "t",
        column: "c",
        row: "ep_1",
    };

    #[test]
    fn what_is_sealed_opens_in_its_place_alone_and_with_its_key_alone() {
        let (first, second) = (EncryptionKey::generate(), EncryptionKey::generate());
        let ring = KeyRing::new(&[first.clone(), second.clone()]);
        let sealed = ring.seal(&PLACE, "whsec_text").unwrap();
        assert!(!sealed.contains("text") && sealed.starts_with(&format!("{MARK}{}:", first.id())));
        assert_ne!(
            sealed,
            ring.seal(&PLACE, "whsec_text").unwrap(),
            "each has its own nonce"
        );
        assert_eq!(ring.open(&PLACE, &sealed).unwrap(), "whsec_text");
        let elsewhere = Place {
            row: "ep_2",
            ..PLACE
        };
        assert!(matches!(
            ring.open(&elsewhere, &sealed),
            Err(StoreError::Corrupt { .. })
        ));
        let other = KeyRing::new(std::slice::from_ref(&second));
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
        let (old, new) = (EncryptionKey::generate(), EncryptionKey::generate());
        let none = KeyRing::new(&[]);
        let plain = none.seal(&PLACE, "text").unwrap();
        assert_eq!(
            (plain.as_str(), none.reseal(&PLACE, &plain).unwrap()),
            ("text", None)
        );
        let sealed = KeyRing::new(std::slice::from_ref(&old))
            .reseal(&PLACE, &plain)
            .unwrap()
            .unwrap();
        let both = KeyRing::new(&[new.clone(), old]);
        assert!(!both.is_present(&sealed) && both.missing(&sealed).is_none());
        let moved = both.reseal(&PLACE, &sealed).unwrap().unwrap();
        let ring = KeyRing::new(&[new]);
        assert!(ring.is_present(&moved) && ring.reseal(&PLACE, &moved).unwrap().is_none());
        assert_eq!(ring.open(&PLACE, &moved).unwrap(), "text");
        assert!(ring.missing(&sealed).is_some());
    }
}
