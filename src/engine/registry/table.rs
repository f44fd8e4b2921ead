//! The table of supervisors: which endpoint has which, and whether it may stop. It starts nothing
//! and sends no messages. `H` is the handle of a supervisor.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::delivery::ClaimName;
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::engine::messages::{Exit, StopReply};
use crate::store::EndpointWork;

/// An endpoint's entry.
enum SupervisorEntry<H> {
    Live {
        handle: H,
        generation: u64,
        /// Number of messages sent to it, to check that it has received all of them.
        sent: u64,
    },
    /// Its supervisor died: attempts are ending, claims are being reclaimed.
    Recovering,
}

/// Route of a message to an endpoint's supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<H> {
    Deliver(H),
    /// There is no supervisor, and none may be started yet.
    Recovering,
    /// There is no supervisor.
    Absent,
}

/// Reaction to a supervisor's end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended<H> {
    /// It had already been replaced.
    Ignore,
    Removed,
    /// It panicked: it is replaced once its attempts have ended.
    Recover(H),
}

/// The supervisors, by shard and endpoint.
pub(super) struct Table<H> {
    shards: BTreeMap<Shard, BTreeMap<EndpointId, SupervisorEntry<H>>>,
    generation: u64,
    /// Claims without a supervisor, as of the last poll.
    ownerless: BTreeSet<ClaimName>,
}

impl<H> Default for Table<H> {
    fn default() -> Self {
        Self {
            shards: BTreeMap::new(),
            generation: 0,
            ownerless: BTreeSet::new(),
        }
    }
}

impl<H: Clone> Table<H> {
    fn entry(&mut self, id: &EndpointId) -> Option<&mut SupervisorEntry<H>> {
        self.shards.get_mut(&Shard::of(id))?.get_mut(id)
    }

    pub(super) fn contains(&self, id: &EndpointId) -> bool {
        self.shards
            .get(&Shard::of(id))
            .is_some_and(|entries| entries.contains_key(id))
    }

    /// Returns the route of a message that the supervisor has to receive before it may stop.
    pub(super) fn route(&mut self, id: &EndpointId) -> Route<H> {
        match self.entry(id) {
            Some(SupervisorEntry::Live { handle, sent, .. }) => {
                *sent += 1;
                Route::Deliver(handle.clone())
            }
            Some(SupervisorEntry::Recovering) => Route::Recovering,
            None => Route::Absent,
        }
    }

    /// Returns the supervisor of an endpoint.
    pub(super) fn get(&mut self, id: &EndpointId) -> Option<H> {
        match self.entry(id) {
            Some(SupervisorEntry::Live { handle, .. }) => Some(handle.clone()),
            Some(SupervisorEntry::Recovering) | None => None,
        }
    }

    /// Adds a supervisor, which `start` starts with its generation.
    pub(super) fn start(&mut self, id: &EndpointId, start: impl FnOnce(u64) -> H) {
        self.generation += 1;
        let handle = start(self.generation);
        let entry = SupervisorEntry::Live {
            handle,
            generation: self.generation,
            sent: 0,
        };
        self.shards
            .entry(Shard::of(id))
            .or_default()
            .insert(id.clone(), entry);
    }

    /// Returns true, and removes the entry, if a supervisor may stop: only if it has received
    /// everything sent to it.
    pub(super) fn may_stop(
        &mut self,
        id: &EndpointId,
        generation: u64,
        received: u64,
    ) -> StopReply {
        match self.entry(id) {
            Some(SupervisorEntry::Live {
                generation: of,
                sent,
                ..
            }) if *of == generation && *sent == received => {
                self.remove(id);
                StopReply::Stop
            }
            _ => StopReply::KeepRunning,
        }
    }

    /// Notes that a supervisor has ended.
    pub(super) fn ended(&mut self, id: &EndpointId, generation: u64, exit: Exit) -> Ended<H> {
        let Some(entry) = self.entry(id) else {
            return Ended::Ignore;
        };
        let SupervisorEntry::Live {
            handle,
            generation: of,
            ..
        } = entry
        else {
            return Ended::Ignore;
        };
        if *of != generation {
            return Ended::Ignore;
        }
        match exit {
            Exit::Clean => {
                self.remove(id);
                Ended::Removed
            }
            Exit::Panicked => {
                let handle = handle.clone();
                *entry = SupervisorEntry::Recovering;
                Ended::Recover(handle)
            }
        }
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, id: &EndpointId) {
        let shard = Shard::of(id);
        if let Some(entries) = self.shards.get_mut(&shard) {
            entries.remove(id);
            if entries.is_empty() {
                self.shards.remove(&shard);
            }
        }
    }

    /// Returns the endpoints of a shard that have an entry, also one being replaced.
    pub(super) fn endpoints_of(&self, shard: Shard) -> BTreeSet<EndpointId> {
        let entries = self.shards.get(&shard).into_iter();
        entries.flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Returns the supervisors of a shard.
    pub(super) fn of_shard(&self, shard: Shard) -> Vec<H> {
        self.shards
            .get(&shard)
            .into_iter()
            .flatten()
            .filter_map(live)
            .collect()
    }

    /// Returns all supervisors.
    pub(super) fn all(&self) -> Vec<H> {
        self.shards.values().flatten().filter_map(live).collect()
    }

    /// Returns the endpoints that have an entry.
    pub(super) fn endpoints(&self) -> BTreeSet<EndpointId> {
        self.shards
            .values()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect()
    }

    /// Returns claims without an owner: two consecutive polls found them at an endpoint without a
    /// supervisor, and no former owner of the shard has them in flight (`is_own`).
    pub(super) fn ownerless_claims(
        &mut self,
        found: &[EndpointWork],
        is_own: impl Fn(&ClaimName) -> bool,
    ) -> Vec<ClaimName> {
        let without = found
            .iter()
            .filter(|work| !self.contains(&work.endpoint_id));
        let now: BTreeSet<ClaimName> = without
            .flat_map(|work| work.sending.iter().copied())
            .filter(|claim| is_own(claim))
            .collect();
        let before = std::mem::replace(&mut self.ownerless, now);
        self.ownerless.intersection(&before).cloned().collect()
    }
}

fn live<H: Clone>((_, entry): (&EndpointId, &SupervisorEntry<H>)) -> Option<H> {
    match entry {
        SupervisorEntry::Live { handle, .. } => Some(handle.clone()),
        SupervisorEntry::Recovering => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::DeliveryKey;

    fn endpoint(number: usize) -> EndpointId {
        EndpointId::from_text(format!("ep_{number}"))
    }

    #[test]
    fn a_supervisor_that_has_not_received_everything_keeps_running() {
        let mut table = Table::default();
        let id = endpoint(1);
        table.start(&id, |generation| generation);
        assert_eq!(table.route(&id), Route::Deliver(1));
        assert_eq!(table.may_stop(&id, 1, 0), StopReply::KeepRunning);
        assert_eq!(
            table.may_stop(&id, 2, 1),
            StopReply::KeepRunning,
            "of another generation"
        );
        assert_eq!(table.may_stop(&id, 1, 1), StopReply::Stop);
        assert_eq!(table.route(&id), Route::Absent);
    }

    #[test]
    fn one_that_panicked_is_recovered_once_and_blocks_its_shard_meanwhile() {
        let mut table = Table::default();
        let id = endpoint(1);
        table.start(&id, |generation| generation);
        assert_eq!(table.ended(&id, 1, Exit::Panicked), Ended::Recover(1));
        assert_eq!(table.ended(&id, 1, Exit::Panicked), Ended::Ignore);
        assert_eq!(table.route(&id), Route::Recovering);
        assert_eq!(table.endpoints_of(Shard::of(&id)).len(), 1);
        table.remove(&id);
        assert!(table.endpoints_of(Shard::of(&id)).is_empty());
    }

    #[test]
    fn a_claim_is_ownerless_when_two_polls_in_a_row_found_it_without_a_supervisor() {
        let mut table = Table::<u64>::default();
        let key = DeliveryKey {
            event_seq: 256,
            endpoint: 1,
        };
        let claim = (key, 3);
        let found = vec![EndpointWork {
            endpoint_id: endpoint(1),
            next: None,
            sending: vec![claim],
        }];
        let every = |_: &ClaimName| true;
        assert!(table.ownerless_claims(&found, every).is_empty());
        assert_eq!(table.ownerless_claims(&found, every), [claim]);
        let none = |_: &ClaimName| false;
        assert!(table.ownerless_claims(&found, none).is_empty());
        table.start(&endpoint(1), |generation| generation);
        assert!(table.ownerless_claims(&found, every).is_empty());
    }

    proptest! {
        #[test]
        fn only_the_last_generation_of_an_endpoint_is_ever_stopped(
            steps in prop::collection::vec((0_usize..3, 0_u8..5, 0_u64..6, 0_u64..4), 1..200)
        ) {
            let mut table = Table::default();
            let mut live: BTreeMap<EndpointId, (u64, u64)> = BTreeMap::new();
            for (number, step, generation, received) in steps {
                let id = endpoint(number);
                match step {
                    0 if !table.contains(&id) => {
                        table.start(&id, |generation| {
                            live.insert(id.clone(), (generation, 0));
                            generation
                        });
                    }
                    1 => if let Route::Deliver(handle) = table.route(&id) {
                        let (of, sent) = live.get_mut(&id).expect("a live one");
                        prop_assert_eq!(handle, *of);
                        *sent += 1;
                    },
                    2 => {
                        let expected = live.get(&id) == Some(&(generation, received));
                        let reply = table.may_stop(&id, generation, received);
                        prop_assert_eq!(reply == StopReply::Stop, expected);
                        if expected {
                            live.remove(&id);
                        }
                    }
                    3 => {
                        let is_live = live.get(&id).is_some_and(|(of, _)| *of == generation);
                        let ended = table.ended(&id, generation, Exit::Panicked);
                        prop_assert_eq!(ended == Ended::Recover(generation), is_live);
                        if is_live {
                            live.remove(&id);
                        }
                    }
                    _ => if !live.contains_key(&id) {
                        table.remove(&id);
                    },
                }
                let handles: BTreeSet<u64> = table.all().into_iter().collect();
                let expected: BTreeSet<u64> = live.values().map(|(of, _)| *of).collect();
                prop_assert_eq!(handles, expected);
            }
        }
    }
}
