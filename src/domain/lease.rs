//! Leases: which process sends to which endpoints when several share a database.
//!
//! Endpoints are spread over a fixed number of shards, and a process leases whole shards. This file
//! decides the next step from the state in the database; it uses no clock and no database itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::SettingError;
use super::handover::Tail;
use super::ids::{EndpointId, InstanceId};

/// Number of shards. Stored rows contain their shard, so it never changes.
pub const SHARDS: i32 = 64;

/// Bits of an endpoint's number below its shard: a counter. Stored rows contain such numbers.
pub const ENDPOINT_BITS: u32 = 25;

/// A fixed part of all endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(i32);

impl Shard {
    /// Returns the shard of an endpoint: the same in every process, permanently.
    #[must_use]
    pub fn of(endpoint: &EndpointId) -> Self {
        // FNV-1a, 64 bits, which is cheap: each message to a supervisor asks for the shard of its endpoint.
        let hash = endpoint
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let number = (hash ^ (hash >> 32)) % u64::from(SHARDS.unsigned_abs());
        Self(i32::try_from(number).unwrap_or_default())
    }

    /// Returns the shard of an endpoint's number.
    #[must_use]
    pub const fn of_number(endpoint: i32) -> Self {
        Self(endpoint >> ENDPOINT_BITS)
    }

    /// Creates a shard from its stored number.
    #[must_use]
    pub const fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// Returns its stored number, from 0 to below [`SHARDS`].
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Returns the numbers of its endpoints, which are a range.
    #[must_use]
    pub const fn endpoint_numbers(self) -> std::ops::RangeInclusive<i32> {
        let first = self.0 << ENDPOINT_BITS;
        first..=first + ((1 << ENDPOINT_BITS) - 1)
    }

    /// Returns all shards.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }
}

/// The right to send to a shard's endpoints. Taking a shard over raises its epoch, which makes
/// claims under earlier epochs stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The leased shard.
    pub shard: Shard,
    /// Number of the ownership, higher for each owner.
    pub epoch: i64,
}

/// Durations of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Time a lease lasts after its last renewal; other nodes take over after it.
    pub ttl: Duration,
    /// Interval between renewals.
    pub renewal: Duration,
    /// Time before expiry at which the holder stops sending without being asked: a reserve for
    /// differing clocks and pauses of the process.
    pub margin: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(12),
            renewal: Duration::from_secs(3),
            margin: Duration::from_secs(2),
        }
    }
}

impl Terms {
    /// Permitted range of `ttl`.
    const TTL: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(2)..=Duration::from_secs(600);
    const SHORTEST: Duration = Duration::from_millis(100);

    /// Checks the ranges, and that one failed renewal does not lose the lease.
    ///
    /// # Errors
    /// Names the setting and its valid range.
    pub fn check(&self) -> Result<(), SettingError> {
        if !Self::TTL.contains(&self.ttl) {
            return Err(SettingError::new(
                "lease_ttl",
                "must be 2 seconds to 10 minutes",
            ));
        }
        if self.renewal < Self::SHORTEST {
            return Err(SettingError::new(
                "lease_renewal",
                "must be at least 100 milliseconds",
            ));
        }
        if self.margin < Self::SHORTEST {
            return Err(SettingError::new(
                "lease_margin",
                "must be at least 100 milliseconds",
            ));
        }
        let needed = self.renewal * 2 + self.margin;
        if needed > self.ttl {
            let detail = format!(
                "must be at least {needed:?}: a lease has to outlast two renewals (lease_renewal {:?}) and the margin (lease_margin {:?})",
                self.renewal, self.margin
            );
            return Err(SettingError::new("lease_ttl", detail));
        }
        Ok(())
    }

    /// Returns the time for which the holder may send, from the start of its last renewal request.
    #[must_use]
    pub fn usable(&self) -> Duration {
        self.ttl.saturating_sub(self.margin)
    }
}

/// State of a shard in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState {
    /// The shard, and the epoch of its last owner.
    pub lease: Lease,
    /// Current holder; `None`: any process may take the shard.
    pub holder: Option<InstanceId>,
    /// Attempts of its former owner that may still be in flight.
    pub tail: Option<Tail>,
}

/// The next step of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Free shards to take, with their current epochs.
    pub take: Vec<Lease>,
    /// Held shards to hand over.
    pub release: Vec<Shard>,
}

/// Maximum number of shards that a process hands over at the same time, unless it leaves.
const RELEASED_AT_ONCE: usize = 8;

/// Plans the next step of `me`. All members get the same number of shards, give or take one. A new
/// process waits until others hand some over; nobody takes a shard that another one holds.
///
/// `members` lists the processes that share the shards. One that leaves is not among them: it hands
/// over everything. `leaving` lists the shards that `me` is already handing over. A shard with a
/// tail is handed over once the tail has ended, so that it never has two.
#[must_use]
pub fn plan(
    shards: &[ShardState],
    members: &[InstanceId],
    me: &InstanceId,
    leaving: &BTreeSet<Shard>,
) -> Plan {
    let (place, share) = fair_share(members, me);
    let is_mine = |state: &&ShardState| state.holder.as_ref() == Some(me);
    let mine: Vec<&ShardState> = shards
        .iter()
        .filter(is_mine)
        .filter(|state| !leaving.contains(&state.lease.shard))
        .collect();
    let mut free: Vec<Lease> = shards
        .iter()
        .filter(|state| state.holder.is_none())
        .map(|state| state.lease)
        .collect();
    // Each process begins elsewhere: all of them learn of the same free shards at the same time.
    if !free.is_empty() {
        let first = place * free.len() / members.len().max(1) % free.len();
        free.rotate_left(first);
    }
    free.truncate(share.saturating_sub(mine.len()));
    let at_once = match members.contains(me) {
        true => RELEASED_AT_ONCE.saturating_sub(leaving.len()),
        false => mine.len(),
    };
    let ready = mine.iter().filter(|state| state.tail.is_none());
    Plan {
        take: free,
        // Always from the end, so that a process keeps the first ones through all steps.
        release: ready
            .rev()
            .map(|state| state.lease.shard)
            .take(mine.len().saturating_sub(share).min(at_once))
            .collect(),
    }
}

/// Returns the place of `me` among the processes, and its number of shards; the remainder goes to the
/// first ones.
fn fair_share(members: &[InstanceId], me: &InstanceId) -> (usize, usize) {
    let mut order: Vec<&InstanceId> = members.iter().collect();
    order.sort();
    order.dedup();
    let Some(place) = order.iter().position(|one| *one == me) else {
        return (0, 0);
    };
    let all = SHARDS.unsigned_abs() as usize;
    let share = all / order.len() + usize::from(place < all % order.len());
    (place, share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::Timestamp;

    fn instance(n: usize) -> InstanceId {
        InstanceId::from_text(format!("in_{n:03}"))
    }

    #[test]
    fn an_endpoint_keeps_its_shard() {
        let shard = |id: &str| Shard::of(&EndpointId::from_text(id)).number();
        assert_eq!(
            (shard("ep_1"), shard("ep_2"), shard("ep_3")),
            (4, 29, 42),
            "stored rows carry these"
        );
        let all: BTreeSet<_> = (0..2000).map(|n| shard(&format!("ep_{n}"))).collect();
        assert_eq!(
            all.len(),
            SHARDS.unsigned_abs() as usize,
            "all of them are used"
        );
    }

    #[test]
    fn impossible_terms_are_refused_by_name() {
        let terms = |ttl, renewal, margin| Terms {
            ttl: Duration::from_secs(ttl),
            renewal: Duration::from_secs(renewal),
            margin: Duration::from_secs(margin),
        };
        assert_eq!(Terms::default().check(), Ok(()));
        let refused = terms(30, 14, 3).check().unwrap_err();
        assert!(
            refused.setting == "lease_ttl" && refused.detail.contains("31s"),
            "{refused}"
        );
        assert_eq!(terms(1, 1, 1).check().unwrap_err().setting, "lease_ttl");
        assert_eq!(
            terms(30, 0, 3).check().unwrap_err().setting,
            "lease_renewal"
        );
        assert_eq!(
            terms(30, 10, 0).check().unwrap_err().setting,
            "lease_margin"
        );
    }

    /// A cluster of processes that act on their plans one after the other.
    struct Cluster {
        shards: Vec<ShardState>,
        alive: Vec<InstanceId>,
    }

    impl Cluster {
        fn step(&mut self) -> bool {
            let mut changed = false;
            for me in self.alive.clone() {
                let plan = plan(&self.shards, &self.alive, &me, &BTreeSet::new());
                changed |= plan != Plan::default();
                for lease in plan.take {
                    let state = self
                        .shards
                        .iter_mut()
                        .find(|one| one.lease == lease)
                        .unwrap();
                    assert_eq!(state.holder, None, "nobody takes what another one holds");
                    state.holder = Some(me.clone());
                    state.lease.epoch += 1;
                }
                for state in &mut self.shards {
                    if plan.release.contains(&state.lease.shard) {
                        assert_eq!(state.holder.take(), Some(me.clone()));
                    }
                }
            }
            changed
        }

        fn settle(&mut self) {
            for _ in 0..10 {
                if !self.step() {
                    return;
                }
            }
            panic!("it does not settle");
        }
    }

    #[test]
    fn few_shards_are_released_at_the_same_time() {
        let alive = [instance(1), instance(2)];
        let held = |shard| ShardState {
            lease: Lease { shard, epoch: 1 },
            holder: Some(instance(1)),
            tail: None,
        };
        let shards: Vec<ShardState> = Shard::all().map(held).collect();
        let mut leaving = BTreeSet::new();
        let first = plan(&shards, &alive, &instance(1), &leaving).release;
        assert_eq!(first.len(), RELEASED_AT_ONCE);
        leaving.extend(first.into_iter().skip(3));
        let next = plan(&shards, &alive, &instance(1), &leaving).release;
        assert_eq!(next.len(), 3, "as many as have been released");
        assert!(next.iter().all(|shard| !leaving.contains(shard)));
    }

    #[test]
    fn a_process_that_leaves_hands_everything_over_but_what_has_a_tail() {
        let tail = Tail {
            instance: instance(9),
            epoch: 0,
            until: Timestamp::from_micros(1),
            attempts: Vec::new(),
        };
        let held = |shard: Shard| ShardState {
            lease: Lease { shard, epoch: 1 },
            holder: Some(instance(1)),
            tail: (shard.number() == 63).then(|| tail.clone()),
        };
        let mut shards: Vec<ShardState> = Shard::all().map(held).collect();
        let nothing = BTreeSet::new();
        let left = plan(&shards, &[instance(2)], &instance(1), &nothing);
        assert_eq!((left.take.len(), left.release.len()), (0, 63));
        assert!(!left.release.contains(&Shard::from_number(63)));
        let both = [instance(1), instance(2)];
        let shared = plan(&shards, &both, &instance(1), &nothing).release;
        assert!(!shared.contains(&Shard::from_number(63)));
        shards[63].tail = None;
        let left = plan(&shards, &[instance(2)], &instance(1), &nothing);
        assert_eq!(left.release.len(), 64);
    }

    proptest! {
        #[test]
        fn whoever_joins_or_leaves_all_shards_are_held_and_fairly(
            changes in prop::collection::vec((0..8_usize, any::<bool>()), 1..20)
        ) {
            let shards = Shard::all()
                .map(|shard| ShardState { lease: Lease { shard, epoch: 0 }, holder: None, tail: None })
                .collect();
            let mut cluster = Cluster { shards, alive: vec![instance(99)] };
            cluster.settle();
            for (who, joins) in changes {
                let who = instance(who);
                if joins && !cluster.alive.contains(&who) {
                    cluster.alive.push(who);
                } else if !joins {
                    cluster.alive.retain(|one| *one != who);
                    for state in &mut cluster.shards {
                        state.holder.take_if(|holder| *holder == who);
                    }
                }
                cluster.settle();
                let of = |one: &InstanceId| {
                    cluster.shards.iter().filter(|state| state.holder.as_ref() == Some(one)).count()
                };
                let counts: Vec<usize> = cluster.alive.iter().map(of).collect();
                prop_assert_eq!(counts.iter().sum::<usize>(), cluster.shards.len());
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
            }
        }
    }
}
