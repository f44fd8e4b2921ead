//! New ids. Ids that sort by creation are UUIDs of version 7 (RFC 9562, section 5.7): new rows go
//! to the end of an index.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::{Builder, Variant, Version};

use crate::domain::clock::Timestamp;
use crate::domain::ids::{EndpointId, EventId, InstanceId, RecoveryId, TokenId};
use crate::domain::random::{Random, bytes};

/// Bits of the counter that orders ids of the same millisecond (RFC 9562, section 6.2, method 1).
const COUNTER_BITS: u32 = 42;

/// Generates the ids of one engine.
#[derive(Debug)]
pub(crate) struct IdSource {
    random: Arc<dyn Random>,
    /// The millisecond of the last id, and its counter.
    last: Mutex<(u64, u64)>,
}

impl IdSource {
    pub(crate) fn new(random: Arc<dyn Random>) -> Self {
        Self {
            random,
            last: Mutex::default(),
        }
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.random
    }

    /// Returns a UUID of version 4.
    pub(crate) fn event(&self) -> EventId {
        EventId::from_text(self.random_uuid().to_string())
    }

    pub(crate) fn instance(&self) -> InstanceId {
        InstanceId::from_text(format!("in_{}", self.random_uuid().simple()))
    }

    pub(crate) fn endpoint(&self, now: Timestamp) -> EndpointId {
        EndpointId::from_text(format!("ep_{}", self.time_ordered(now)))
    }

    pub(crate) fn recovery(&self, now: Timestamp) -> RecoveryId {
        RecoveryId::from_text(format!("rec_{}", self.time_ordered(now)))
    }

    pub(crate) fn token(&self, now: Timestamp) -> TokenId {
        TokenId::from_text(format!("tok_{}", self.time_ordered(now)))
    }

    fn random_uuid(&self) -> uuid::Uuid {
        Builder::from_random_bytes(bytes(self.random())).into_uuid()
    }

    fn time_ordered(&self, now: Timestamp) -> uuid::fmt::Simple {
        let millis = now.as_micros().max(0).unsigned_abs() / 1000;
        let counter = self.count(millis);
        let tail: [u8; 4] = bytes(self.random());
        // 48 bits of time, 4 of version, 12 of the counter, 2 of variant, 30 of the counter, 32
        // random.
        let high = (u128::from(millis) << 80) | (u128::from(counter >> 30) << 64);
        let low =
            (u128::from(counter & ((1 << 30) - 1)) << 32) | u128::from(u32::from_be_bytes(tail));
        let id = Builder::from_u128(high | low)
            .with_version(Version::SortRand)
            .with_variant(Variant::RFC4122);
        id.into_uuid().simple()
    }

    /// Returns a counter that rises within a millisecond and starts at a random value in the next.
    fn count(&self, millis: u64) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, counter) = *last;
        let next = if of == millis && counter > 0 {
            counter + 1
        } else {
            // The top bit stays free, so that a millisecond has room for 2⁴¹ ids.
            u64::from_be_bytes(bytes(self.random())) >> (64 - COUNTER_BITS + 1)
        };
        *last = (millis, next.max(1));
        last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::OsRandom;

    #[test]
    fn endpoint_ids_sort_by_creation() {
        let ids = IdSource::new(Arc::new(OsRandom));
        let early = ids.endpoint(Timestamp::from_micros(1_700_000_000_000_000));
        let late = ids.endpoint(Timestamp::from_micros(1_700_000_000_001_000));
        assert!(early < late, "{early} {late}");
        let mut same = Vec::new();
        same.resize_with(1000, || {
            ids.endpoint(Timestamp::from_micros(1_800_000_000_000_000))
        });
        assert!(same.is_sorted());
        let text = same[0].as_str().trim_start_matches("ep_");
        assert_eq!(uuid::Uuid::parse_str(text).unwrap().get_version_num(), 7);
    }

    #[test]
    fn a_generated_event_id_is_a_uuid_v4() {
        let id = IdSource::new(Arc::new(OsRandom)).event();
        assert_eq!(
            uuid::Uuid::parse_str(id.as_str())
                .unwrap()
                .get_version_num(),
            4
        );
    }
}
