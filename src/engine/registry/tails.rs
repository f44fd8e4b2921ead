//! Attempts of former owners that the supervisors count as in flight, until each is recorded.
//!
//! Pure bookkeeping: the registry reads which claims stand, and tells the supervisors.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::domain::delivery::ClaimName;
use crate::domain::ids::{DeliveryKey, EndpointId};

/// The claims of former owners, by endpoint.
#[derive(Debug, Default)]
pub(super) struct WatchedTails {
    claims: BTreeMap<EndpointId, BTreeSet<ClaimName>>,
}

impl WatchedTails {
    /// Notes the claims that a supervisor has begun to count.
    pub(super) fn watch(&mut self, id: &EndpointId, claims: BTreeSet<ClaimName>) {
        match claims.is_empty() {
            true => self.claims.remove(id),
            false => self.claims.insert(id.clone(), claims),
        };
    }

    /// Returns all claims.
    pub(super) fn all(&self) -> Vec<ClaimName> {
        self.claims.values().flatten().copied().collect()
    }

    /// Returns true if claims of that endpoint are watched.
    pub(super) fn contains(&self, id: &EndpointId) -> bool {
        self.claims.contains_key(id)
    }

    /// Removes those of `asked` that do not stand any more. Returns their deliveries by endpoint.
    pub(super) fn end(
        &mut self,
        asked: &[ClaimName],
        standing: &HashSet<ClaimName>,
    ) -> Vec<(EndpointId, Vec<DeliveryKey>)> {
        let asked: HashSet<ClaimName> = asked.iter().copied().collect();
        let has_ended = |claim: &ClaimName| asked.contains(claim) && !standing.contains(claim);
        let mut ended = Vec::new();
        self.claims.retain(|id, claims| {
            let over: Vec<DeliveryKey> = claims
                .extract_if(.., |claim| has_ended(claim))
                .map(|(key, _)| key)
                .collect();
            if !over.is_empty() {
                ended.push((id.clone(), over));
            }
            !claims.is_empty()
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_watched_until_a_read_does_not_find_it() {
        let key = |event_seq| DeliveryKey {
            event_seq,
            endpoint: 1,
        };
        let id = EndpointId::from_text("ep_1");
        let mut watched = WatchedTails::default();
        watched.watch(&id, BTreeSet::from([(key(256), 1), (key(512), 1)]));
        let asked = watched.all();
        let standing = HashSet::from([(key(512), 1)]);
        let ended = watched.end(&asked, &standing);
        assert_eq!(ended, [(id.clone(), vec![key(256)])]);
        // A claim that was not asked for is not judged.
        assert!(watched.end(&[], &HashSet::new()).is_empty());
        assert_eq!(watched.end(&asked, &HashSet::new()).len(), 1);
        assert!(!watched.contains(&id));
    }
}
