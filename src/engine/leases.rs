//! The leases that this process holds, those that it gave up while attempts were in flight, and the
//! tails of former owners in its shards. `joining` takes the first leases; from then on the lease
//! keeper maintains them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::domain::clock::Clock;
use crate::domain::delivery::ClaimName;
use crate::domain::handover::Tail;
use crate::domain::ids::EndpointId;
use crate::domain::lease::{Lease, Shard};
use crate::store::Takeover;

#[derive(Debug, Clone, Copy)]
struct HeldLease {
    epoch: i64,
    /// End on the monotonic clock: nothing is sent after it.
    until: Duration,
    /// True while it is being released: nothing new is started.
    leaving: bool,
}

/// The leases of this process.
#[derive(Debug, Default)]
struct LeaseTable {
    held: BTreeMap<Shard, HeldLease>,
    /// Leases that were given up while attempts were in flight, and the monotonic time until which
    /// these may run.
    given_up: BTreeMap<Lease, Duration>,
    /// Tails in held shards: attempts that a former owner may still record.
    tails: BTreeMap<Shard, Arc<Tail>>,
}

/// The leases of this process.
pub(crate) struct Leases {
    clock: Arc<dyn Clock>,
    state: RwLock<LeaseTable>,
}

impl Leases {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: RwLock::default(),
        }
    }

    // Each entry is changed as a whole, so a poisoned lock is still usable.
    fn read_all<T>(&self, read: impl FnOnce(&LeaseTable) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_all<T>(&self, write: impl FnOnce(&mut LeaseTable) -> T) -> T {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(&self, read: impl FnOnce(&BTreeMap<Shard, HeldLease>) -> T) -> T {
        self.read_all(|state| read(&state.held))
    }

    fn write<T>(&self, write: impl FnOnce(&mut BTreeMap<Shard, HeldLease>) -> T) -> T {
        self.write_all(|state| write(&mut state.held))
    }

    /// Returns the lease under which new work of an endpoint may start; `None` if another process
    /// holds it.
    pub(crate) fn for_new_work(&self, endpoint: &EndpointId) -> Option<Lease> {
        let (shard, now) = (Shard::of(endpoint), self.clock.monotonic());
        let held = self.read(|held| held.get(&shard).copied());
        let held = held.filter(|held| !held.leaving && now < held.until)?;
        Some(Lease {
            shard,
            epoch: held.epoch,
        })
    }

    /// Returns the lease of a shard, if it is still held.
    pub(crate) fn of(&self, shard: Shard) -> Option<Lease> {
        self.read(|held| {
            held.get(&shard).map(|held| Lease {
                shard,
                epoch: held.epoch,
            })
        })
    }

    /// Returns true if an attempt under that lease may use the network now.
    pub(crate) fn may_send(&self, lease: Lease) -> bool {
        let now = self.clock.monotonic();
        self.read_all(|LeaseTable { held, given_up, .. }| {
            let held = held.get(&lease.shard);
            let held = held.filter(|held| held.epoch == lease.epoch);
            let until = held.map(|held| held.until);
            until
                .or_else(|| given_up.get(&lease).copied())
                .is_some_and(|until| now < until)
        })
    }

    /// Returns the leases under which new work may start.
    pub(crate) fn open(&self) -> Vec<Lease> {
        self.read(|held| {
            held.iter()
                .filter(|(_, held)| !held.leaving)
                .map(lease)
                .collect()
        })
    }

    /// Returns true if none is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.read(BTreeMap::is_empty)
    }

    /// Returns all leases.
    pub(crate) fn all(&self) -> Vec<Lease> {
        self.read(|held| held.iter().map(lease).collect())
    }

    pub(crate) fn leaving(&self) -> BTreeSet<Shard> {
        self.read(|held| {
            held.iter()
                .filter(|(_, held)| held.leaving)
                .map(|(shard, _)| *shard)
                .collect()
        })
    }

    pub(crate) fn leave(&self, shards: &[Shard]) {
        self.write(|held| {
            for shard in shards {
                if let Some(held) = held.get_mut(shard) {
                    held.leaving = true;
                }
            }
        });
    }

    /// Adds leases that were taken over, with the tails in their shards.
    pub(crate) fn take(&self, takeover: &Takeover, until: Duration) {
        let none = takeover.leases.iter().map(|lease| (lease.shard, None));
        let tails = takeover.tails.iter().cloned();
        self.set_tails(none.chain(tails.map(|(shard, tail)| (shard, Some(tail)))));
        self.write(|held| {
            for Lease { shard, epoch } in &takeover.leases {
                held.insert(
                    *shard,
                    HeldLease {
                        epoch: *epoch,
                        until,
                        leaving: false,
                    },
                );
            }
        });
    }

    /// Extends leases, and the time of what was given up: both last as long as this process
    /// reports.
    pub(crate) fn renew(&self, leases: &[Lease], until: Duration) {
        self.write_all(|LeaseTable { held, given_up, .. }| {
            for Lease { shard, epoch } in leases {
                if let Some(held) = held.get_mut(shard).filter(|held| held.epoch == *epoch) {
                    held.until = until;
                }
            }
            for end in given_up.values_mut() {
                *end = until;
            }
        });
    }

    /// Notes that a lease was given up while attempts of it are in flight.
    pub(crate) fn give_up(&self, lease: Lease) {
        self.write_all(|LeaseTable { held, given_up, .. }| {
            if let Some(one) = held
                .get(&lease.shard)
                .filter(|one| one.epoch == lease.epoch)
            {
                given_up.insert(lease, one.until);
                held.remove(&lease.shard);
            }
        });
    }

    /// Returns the leases that were given up while attempts of them were in flight.
    pub(crate) fn given_up(&self) -> Vec<Lease> {
        self.read_all(|state| state.given_up.keys().copied().collect())
    }

    /// Removes leases: nothing more is sent under them.
    pub(crate) fn remove(&self, leases: &[Lease]) {
        self.write_all(|state| {
            for lease in leases {
                let held = state.held.get(&lease.shard);
                if held.is_some_and(|held| held.epoch == lease.epoch) {
                    state.held.remove(&lease.shard);
                }
                state.given_up.remove(lease);
            }
        });
    }

    /// Returns the expired ones of the leases, and of what was given up.
    pub(crate) fn expired(&self) -> Vec<Lease> {
        let now = self.clock.monotonic();
        self.read_all(|LeaseTable { held, given_up, .. }| {
            let held = held.iter().filter(|(_, held)| held.until <= now);
            let given_up = given_up.iter().filter(|(_, until)| **until <= now);
            held.map(lease)
                .chain(given_up.map(|(lease, _)| *lease))
                .collect()
        })
    }

    /// Returns the time at which the first of them expires.
    pub(crate) fn first_end(&self) -> Option<Duration> {
        self.read_all(|LeaseTable { held, given_up, .. }| {
            let held = held.values().map(|held| held.until);
            held.chain(given_up.values().copied()).min()
        })
    }

    /// Sets the tails of shards.
    pub(crate) fn set_tails(&self, tails: impl IntoIterator<Item = (Shard, Option<Tail>)>) {
        self.write_all(|state| {
            for (shard, tail) in tails {
                match tail {
                    Some(tail) => state.tails.insert(shard, Arc::new(tail)),
                    None => state.tails.remove(&shard),
                };
            }
        });
    }

    /// Returns the tail of a shard.
    pub(crate) fn tail_of(&self, shard: Shard) -> Option<Arc<Tail>> {
        self.read_all(|state| state.tails.get(&shard).cloned())
    }

    /// Returns true if a former owner may still record that claim.
    pub(crate) fn is_of_tail(&self, claim: &ClaimName) -> bool {
        let tail = self.tail_of(Shard::of_number(claim.0.endpoint));
        tail.is_some_and(|tail| tail.attempts.iter().any(|one| one.claim() == *claim))
    }
}

fn lease((shard, held): (&Shard, &HeldLease)) -> Lease {
    Lease {
        shard: *shard,
        epoch: held.epoch,
    }
}
