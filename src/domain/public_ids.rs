//! Ids and cursors that callers see, made from the keys of rows.
//!
//! A sequence in a public id would tell every tenant how much all tenants send. So an id is the
//! row's key as one encrypted block (AES-128), and a cursor is sealed (AES-256-GCM-SIV, RFC 8452)
//! with the list and the filters that it belongs to.

use std::fmt;

use aes::Aes128;
use aes::cipher::{Block, BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use aes_gcm_siv::aead::{Aead as _, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::ids::{DeliveryId, DeliveryKey};
use super::query::{Cursor, ListQuery, PageKey};

/// Bytes of the key that a database makes its public ids with.
pub const ID_KEY_BYTES: usize = 16;

/// Input of the key derivation of cursors.
const CURSORS: &[u8] = b"postrider cursors v1";

/// The kind of an object, in the first byte of its block.
#[derive(Clone, Copy)]
enum IdKind {
    Delivery = 1,
    Attempt = 2,
}

/// Makes public ids and cursors with the key of one database.
pub struct PublicIds {
    block: Aes128,
    cursors: Aes256GcmSiv,
}

impl fmt::Debug for PublicIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicIds").finish_non_exhaustive()
    }
}

impl PublicIds {
    /// Creates them from a database's id key.
    #[must_use]
    pub fn new(key: [u8; ID_KEY_BYTES]) -> Self {
        Self {
            block: Aes128::new(&key.into()),
            cursors: Aes256GcmSiv::new(&derived(&key).into()),
        }
    }

    /// Returns the id of a delivery.
    #[must_use]
    pub fn delivery(&self, key: DeliveryKey) -> DeliveryId {
        DeliveryId::from_text(format!("dlv_{}", self.seal(IdKind::Delivery, key, 0)))
    }

    /// Returns the key of a delivery; `None` for a text that is not the id of one.
    #[must_use]
    pub fn delivery_key(&self, id: &DeliveryId) -> Option<DeliveryKey> {
        let text = id.as_str().strip_prefix("dlv_")?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .ok()?;
        let mut block = Block::<Aes128>::try_from(bytes.as_slice()).ok()?;
        self.block.decrypt_block(&mut block);
        let value = u128::from_be_bytes(block.into());
        let key = DeliveryKey {
            event_seq: i64::try_from((value >> 64) & ((1 << 56) - 1)).ok()?,
            endpoint: i32::try_from((value >> 32) & u128::from(u32::MAX)).ok()?,
        };
        (value == plain(IdKind::Delivery, key, 0)).then_some(key)
    }

    /// Returns the id of the attempt that a claim of a delivery made, `att_…`.
    #[must_use]
    pub fn attempt(&self, key: DeliveryKey, claim_no: i64) -> String {
        format!("att_{}", self.seal(IdKind::Attempt, key, claim_no))
    }

    fn seal(&self, kind: IdKind, key: DeliveryKey, claim_no: i64) -> String {
        let mut block = Block::<Aes128>::from(plain(kind, key, claim_no).to_be_bytes());
        self.block.encrypt_block(&mut block);
        BASE32_NOPAD.encode(&block).to_ascii_lowercase()
    }

    /// Returns the cursor of the page after `key`, for this list and these filters only.
    #[must_use]
    pub fn cursor<Q: ListQuery>(&self, query: &Q, key: &Q::Key) -> Cursor {
        let place = key.encode();
        let payload = Payload {
            msg: &place,
            aad: &query.binding(),
        };
        // A fixed nonce is safe: equal cursors are equal texts, and nothing else shows.
        let sealed = self.cursors.encrypt(&Nonce::default(), payload);
        Cursor::from_text(BASE64URL_NOPAD.encode(&sealed.unwrap_or_default()))
    }

    /// Returns the key that a cursor of this list with these filters holds; `None` for any other
    /// text.
    #[must_use]
    pub fn open_cursor<Q: ListQuery>(&self, query: &Q, cursor: &Cursor) -> Option<Q::Key> {
        let sealed = BASE64URL_NOPAD.decode(cursor.as_str().as_bytes()).ok()?;
        let payload = Payload {
            msg: &sealed,
            aad: &query.binding(),
        };
        let place = self.cursors.decrypt(&Nonce::default(), payload).ok()?;
        PageKey::decode(&place)
    }
}

/// kind (8 bits) ‖ event_seq (56) ‖ endpoint (32) ‖ claim_no (32; 0 for a delivery).
fn plain(kind: IdKind, key: DeliveryKey, claim_no: i64) -> u128 {
    let event_seq = u128::from(key.event_seq.unsigned_abs() & ((1 << 56) - 1));
    let claim_no = u32::try_from(claim_no).unwrap_or(u32::MAX);
    ((kind as u128) << 120)
        | (event_seq << 64)
        | (u128::from(key.endpoint.unsigned_abs()) << 32)
        | u128::from(claim_no)
}

fn derived(key: &[u8; ID_KEY_BYTES]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(CURSORS);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::Tenant;
    use crate::domain::query::{DeliveryQuery, EventQuery, EventSeq};

    const KEY: [u8; ID_KEY_BYTES] = [7; ID_KEY_BYTES];

    #[test]
    fn an_id_is_the_same_in_every_release() {
        // The same as openssl enc -aes-128-ecb of 01 00000000001100 0a000003 00000000, and of 02 ….
        let ids = PublicIds::new(*b"0123456789abcdef");
        let key = DeliveryKey {
            event_seq: 17 * 256,
            endpoint: 5 * (1 << 25) + 3,
        };
        assert_eq!(
            (ids.delivery(key).as_str(), ids.attempt(key, 2).as_str()),
            (
                "dlv_3fk7zr4xnpb7ur42ob2mln4k2a",
                "att_bozcdy3txn5hovdcjq6yv5flei"
            )
        );
    }

    #[test]
    fn a_text_that_is_no_delivery_has_no_key() {
        let ids = PublicIds::new(KEY);
        let key = DeliveryKey {
            event_seq: 256,
            endpoint: 1,
        };
        let id = ids.delivery(key);
        let text = id.as_str();
        let other = PublicIds::new([8; ID_KEY_BYTES]).delivery(key).to_string();
        let attempt = ids.attempt(key, 0).replace("att_", "dlv_");
        for wrong in [
            "",
            "dlv_",
            "dlv_nope",
            &text[..text.len() - 1],
            &text.to_ascii_uppercase().replace("DLV_", "dlv_"),
            &text.replace("dlv_", "att_"),
            &other,
            &attempt,
        ] {
            let id = DeliveryId::from_text(wrong);
            assert_eq!(ids.delivery_key(&id), None, "{wrong}");
        }
    }

    #[test]
    fn a_cursor_belongs_to_its_list_and_its_filters() {
        let ids = PublicIds::new(KEY);
        let query = EventQuery::default();
        let cursor = ids.cursor(&query, &EventSeq(512));
        assert_eq!(ids.open_cursor(&query, &cursor), Some(EventSeq(512)));
        let of_acme = EventQuery {
            tenant: Tenant::parse("acme").ok(),
            ..EventQuery::default()
        };
        assert_eq!(ids.open_cursor(&of_acme, &cursor), None);
        assert_eq!(ids.open_cursor(&DeliveryQuery::default(), &cursor), None);
        assert_eq!(
            ids.open_cursor(&query, &Cursor::from_text("events:512")),
            None
        );
    }

    proptest! {
        #[test]
        fn a_delivery_id_opens_to_its_key(
            event_seq in 0..1_i64 << 56,
            endpoint in 0..i32::MAX,
            claim_no in 0..i64::from(u32::MAX),
        ) {
            let ids = PublicIds::new(KEY);
            let key = DeliveryKey { event_seq, endpoint };
            let id = ids.delivery(key);
            prop_assert_eq!(id.as_str().len(), 4 + 26);
            prop_assert_eq!(ids.delivery_key(&id), Some(key));
            let attempt = ids.attempt(key, claim_no);
            prop_assert_ne!(&attempt[4..], &id.as_str()[4..]);
        }
    }
}
