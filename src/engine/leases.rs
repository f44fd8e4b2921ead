//! The leases that this process holds. `joining` takes the first ones; from then on the lease keeper
//! maintains them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::domain::clock::Clock;
use crate::domain::ids::EndpointId;
use crate::domain::lease::{Lease, Shard};

#[derive(Debug, Clone, Copy)]
struct HeldLease {
    epoch: i64,
    /// End on the monotonic clock: nothing is sent after it.
    until: Duration,
    /// True while it is being released: nothing new is started.
    leaving: bool,
}

/// The leases that this process holds.
pub(crate) struct Leases {
    clock: Arc<dyn Clock>,
    held: RwLock<BTreeMap<Shard, HeldLease>>,
}

impl Leases {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            held: RwLock::default(),
        }
    }

    // Each entry is changed as a whole, so a poisoned lock is still usable.
    fn read<T>(&self, read: impl FnOnce(&BTreeMap<Shard, HeldLease>) -> T) -> T {
        read(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut BTreeMap<Shard, HeldLease>) -> T) -> T {
        write(&mut self.held.write().unwrap_or_else(PoisonError::into_inner))
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
        self.read(|held| {
            held.get(&lease.shard)
                .is_some_and(|held| held.epoch == lease.epoch && now < held.until)
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

    pub(crate) fn add(&self, leases: &[Lease], until: Duration) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
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

    pub(crate) fn renew(&self, leases: &[Lease], until: Duration) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                if let Some(held) = held.get_mut(shard).filter(|held| held.epoch == *epoch) {
                    held.until = until;
                }
            }
        });
    }

    pub(crate) fn remove(&self, leases: &[Lease]) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                if held.get(shard).is_some_and(|held| held.epoch == *epoch) {
                    held.remove(shard);
                }
            }
        });
    }

    /// Returns the expired leases.
    pub(crate) fn expired(&self) -> Vec<Lease> {
        let now = self.clock.monotonic();
        self.read(|held| {
            held.iter()
                .filter(|(_, held)| held.until <= now)
                .map(lease)
                .collect()
        })
    }

    /// Returns the time at which the first lease expires.
    pub(crate) fn first_end(&self) -> Option<Duration> {
        self.read(|held| held.values().map(|held| held.until).min())
    }
}

fn lease((shard, held): (&Shard, &HeldLease)) -> Lease {
    Lease {
        shard: *shard,
        epoch: held.epoch,
    }
}
