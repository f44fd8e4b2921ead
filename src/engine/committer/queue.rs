//! The queue of writes, and the choice of the next group. It has no connection, no channel and no
//! clock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::domain::fair_queue::{Cost, FairQueue};
use crate::domain::ids::Tenant;

/// Maximum number of queued writes. Publishers beyond it wait before they are queued.
pub(super) const MAX_QUEUED: usize = 8192;

/// Maximum number of writes per commit: beyond it, waiting for the others costs more than it saves.
const MAX_GROUP: usize = 512;

/// Maximum that publishers put into one commit, except for a single larger batch. It bounds the
/// wait of the next commit.
const MAX_PUBLISHED: Cost = Cost {
    rows: 4096,
    bytes: 4 * 1024 * 1024,
};

/// Assumed deliveries per event of a tenant that has not published recently.
const ASSUMED_FAN_OUT: usize = 8;

/// Maximum number of tenants whose fan-outs are remembered.
const MAX_FAN_OUTS: usize = 10_000;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The part of a publish that determines its place in the queue: tenant, events and bytes.
pub(super) type Publishing = (Tenant, Cost);

/// The queued writes. Publishes of different tenants take turns; other writes go first, in their
/// order.
pub(super) struct CommitQueue<W> {
    others: VecDeque<W>,
    publishing: FairQueue<Tenant, W>,
    /// Deliveries per event in a tenant's last commit.
    fan_outs: HashMap<Tenant, usize>,
    failures: u32,
}

impl<W> Default for CommitQueue<W> {
    fn default() -> Self {
        Self {
            others: VecDeque::new(),
            publishing: FairQueue::default(),
            fan_outs: HashMap::new(),
            failures: 0,
        }
    }
}

impl<W> CommitQueue<W> {
    pub(super) fn is_empty(&self) -> bool {
        self.others.is_empty() && self.publishing.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.others.len() + self.publishing.len() >= MAX_QUEUED
    }

    pub(super) fn push(&mut self, write: W, publishing: Option<Publishing>) {
        let Some((
            tenant,
            Cost {
                rows: events,
                bytes,
            },
        )) = publishing
        else {
            self.others.push_back(write);
            return;
        };
        let fan_out = self
            .fan_outs
            .get(&tenant)
            .copied()
            .unwrap_or(ASSUMED_FAN_OUT);
        let cost = Cost {
            rows: events.saturating_mul(1 + fan_out),
            bytes,
        };
        self.publishing.push(tenant, cost, write);
    }

    /// Takes the writes of the next commit.
    pub(super) fn next_group(&mut self) -> Vec<W> {
        let others = self.others.len().min(MAX_GROUP);
        let mut group: Vec<W> = self.others.drain(..others).collect();
        let room = MAX_GROUP.saturating_sub(others).max(1);
        group.extend(self.publishing.take(MAX_PUBLISHED, room));
        group
    }

    /// Notes the number of deliveries that a committed publish has created.
    pub(super) fn note_fan_out(&mut self, (tenant, cost): Publishing, created: usize) {
        if self.fan_outs.len() >= MAX_FAN_OUTS {
            self.fan_outs.clear();
        }
        self.fan_outs
            .insert(tenant, created.div_ceil(cost.rows.max(1)));
    }

    /// Notes that the database is available.
    pub(super) fn note_success(&mut self) {
        self.failures = 0;
    }

    /// Notes that the database is unavailable. Returns the pause, which doubles each time.
    pub(super) fn note_unavailable(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        (FIRST_PAUSE * 2_u32.pow(self.failures.min(6))).min(LONGEST_PAUSE)
    }

    /// Takes all writes.
    pub(super) fn drain(&mut self) -> Vec<W> {
        self.others
            .drain(..)
            .chain(self.publishing.drain())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publishing(tenant: usize, events: usize) -> Publishing {
        let tenant = Tenant::parse(&format!("t{tenant}")).unwrap();
        (
            tenant,
            Cost {
                rows: events,
                bytes: events * 100,
            },
        )
    }

    #[test]
    fn the_pause_doubles_up_to_a_second_and_begins_anew() {
        let mut queue = CommitQueue::<u32>::default();
        let pauses: Vec<_> = (0..8)
            .map(|_| queue.note_unavailable().as_millis())
            .collect();
        assert_eq!(pauses, [40, 80, 160, 320, 640, 1000, 1000, 1000]);
        queue.note_success();
        assert_eq!(queue.note_unavailable().as_millis(), 40);
    }

    #[test]
    fn a_tenant_with_a_long_backlog_does_not_hold_up_another() {
        let mut queue = CommitQueue::default();
        for number in 0..2000 {
            queue.push((0, number), Some(publishing(0, 1)));
        }
        queue.push((1, 0), Some(publishing(1, 1)));
        assert!(queue.next_group().contains(&(1, 0)));
    }

    proptest! {
        #[test]
        fn every_write_is_taken_once_and_those_of_one_tenant_in_order(
            writes in prop::collection::vec((0_usize..4, 1_usize..50), 1..300)
        ) {
            let mut queue = CommitQueue::default();
            for (number, (tenant, events)) in writes.iter().enumerate() {
                // Tenant 0 stands for everything that is not a publish.
                let of = (*tenant > 0).then(|| publishing(*tenant, *events));
                queue.push((*tenant, number), of);
            }
            let mut taken = Vec::new();
            while !queue.is_empty() {
                let group = queue.next_group();
                prop_assert!((1..=MAX_GROUP).contains(&group.len()));
                taken.extend(group);
            }
            prop_assert_eq!(taken.len(), writes.len());
            for tenant in 0..4 {
                let own = taken.iter().filter(|(of, _)| *of == tenant);
                prop_assert!(own.map(|(_, number)| number).is_sorted());
            }
        }
    }
}
