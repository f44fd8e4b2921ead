//! An event id as it is stored: 16 bytes for a UUID in lower case, otherwise its text.

use uuid::Uuid;

use super::error::{StoreError, corrupt};
use crate::domain::ids::EventId;

/// Returns the stored form of an event id. Byte 8 of a UUID is 0x80 or more (RFC 9562, section
/// 4.1), which no byte of a text is: a text of 16 characters cannot be taken for a UUID.
pub(super) fn stored(id: &EventId) -> Vec<u8> {
    let text = id.as_str();
    match Uuid::try_parse(text) {
        Ok(uuid) if is_unambiguous(&uuid) && uuid.hyphenated().to_string() == text => {
            uuid.as_bytes().to_vec()
        }
        _ => text.as_bytes().to_vec(),
    }
}

/// Reads an event id from its stored form.
pub(super) fn parse(bytes: Vec<u8>) -> Result<EventId, StoreError> {
    let uuid = <[u8; 16]>::try_from(bytes.as_slice()).map(Uuid::from_bytes);
    if let Some(uuid) = uuid.ok().filter(is_unambiguous) {
        return Ok(EventId::from_text(uuid.hyphenated().to_string()));
    }
    String::from_utf8(bytes)
        .map(EventId::from_text)
        .map_err(|error| corrupt("webhook_events", "id", error))
}

fn is_unambiguous(uuid: &Uuid) -> bool {
    uuid.as_bytes()[8] >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uuid_takes_16_bytes() {
        let id = EventId::from_text("3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a");
        assert_eq!(stored(&id).len(), 16);
        for text in [
            "3F1E9A52-6B1C-4C35-9A70-0D1F6D1E2B7A",
            "3f1e9a526b1c4c359a700d1f6d1e2b7a",
            "3f1e9a52-6b1c-4c35-1a70-0d1f6d1e2b7a",
            "0123456789abcdef",
        ] {
            assert_eq!(stored(&EventId::from_text(text)), text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn every_id_is_read_as_it_was(text in "[A-Za-z0-9_-]{1,64}|[a-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}|[A-Za-z0-9_-]{16}") {
            let id = EventId::parse(&text).unwrap();
            prop_assert_eq!(parse(stored(&id)).unwrap(), id);
        }

        #[test]
        fn two_ids_are_never_stored_alike(a in "[a-f0-9-]{16,36}", b in "[a-f0-9-]{16,36}", uuid in any::<[u8; 16]>()) {
            let uuid = Uuid::from_bytes(uuid).hyphenated().to_string();
            let all = [a, b, uuid].map(EventId::from_text);
            for (i, one) in all.iter().enumerate() {
                for other in &all[..i] {
                    prop_assert_eq!(one == other, stored(one) == stored(other));
                }
            }
        }
    }
}
