//! The queue of the endpoints whose supervisors are to start. Their initial state is read for many
//! endpoints at once: a restart after an outage, or a takeover, may find thousands that are due.
//!
//! It reads nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::breaker::StoredHealth;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::store::LoadedEndpoint;

/// Maximum number of endpoints in a batch.
const BATCH: usize = 500;

/// Maximum number of batches that are read at the same time.
const MAX_READS: usize = 2;

/// A change of an endpoint that a read may have missed.
#[derive(Debug, Clone)]
pub(super) struct MissedChange {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) health: Option<StoredHealth>,
}

impl MissedChange {
    /// Returns the newer endpoint and the newer health of two changes.
    fn merged_with(self, other: Self) -> Self {
        let is_newer = other.endpoint.version >= self.endpoint.version;
        Self {
            endpoint: if is_newer {
                other.endpoint
            } else {
                self.endpoint
            },
            health: self
                .health
                .into_iter()
                .chain(other.health)
                .max_by_key(|stored| stored.epoch),
        }
    }
}

/// Changes of an endpoint while it was read.
#[derive(Debug, Default)]
pub(super) struct News {
    /// True if more became due.
    pub(super) is_due: bool,
    /// Its latest change.
    change: Option<MissedChange>,
}

impl News {
    /// Adds a change to what was read before it.
    pub(super) fn apply_to(&self, mut loaded: LoadedEndpoint) -> LoadedEndpoint {
        if let Some(MissedChange { endpoint, health }) = &self.change {
            if endpoint.version >= loaded.endpoint.version {
                loaded.endpoint = Arc::clone(endpoint);
            }
            let read = &mut loaded.history.health;
            *read = health
                .filter(|stored| stored.epoch > read.epoch)
                .unwrap_or(*read);
        }
        loaded
    }

    /// Returns true if a paused endpoint became active.
    pub(super) fn is_resumed(&self) -> bool {
        let change = self.change.as_ref();
        change.is_some_and(|change| change.endpoint.is_active())
    }
}

#[derive(Debug)]
enum LoadState {
    Waiting,
    Reading(News),
}

/// The endpoints to load.
#[derive(Debug, Default)]
pub(super) struct LoadQueue {
    loads: BTreeMap<EndpointId, LoadState>,
    /// The waiting ones, most overdue first.
    waiting: BTreeSet<(Timestamp, EndpointId)>,
    reads: usize,
}

impl LoadQueue {
    /// Adds an endpoint that a poll has found, unless it is known.
    pub(super) fn add(&mut self, id: &EndpointId, due: Timestamp) {
        if !self.loads.contains_key(id) {
            self.loads.insert(id.clone(), LoadState::Waiting);
            self.waiting.insert((due, id.clone()));
        }
    }

    /// Adds an endpoint of which something has just become due. If it is being read, the read may
    /// have missed that.
    pub(super) fn add_due(&mut self, id: &EndpointId, now: Timestamp) {
        match self.loads.get_mut(id) {
            Some(LoadState::Reading(news)) => news.is_due = true,
            _ => self.add(id, now),
        }
    }

    /// Notes a change of an endpoint that is being read.
    pub(super) fn note_change(&mut self, change: MissedChange) {
        if let Some(LoadState::Reading(news)) = self.loads.get_mut(&change.endpoint.id) {
            news.is_due = true;
            news.change = Some(match news.change.take() {
                Some(known) => known.merged_with(change),
                None => change,
            });
        }
    }

    /// Returns the endpoints that are not loaded yet.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &EndpointId> {
        self.loads.keys()
    }

    /// Returns the number of endpoints that are not loaded yet.
    pub(super) fn len(&self) -> usize {
        self.loads.len()
    }

    /// Returns the next endpoints to read; `None` if there are none, or enough are being read.
    ///
    /// Half are the most overdue ones, and half those that became due last: what was just published
    /// does not wait behind a long backlog.
    pub(super) fn start_read(&mut self) -> Option<Vec<EndpointId>> {
        if self.reads == MAX_READS {
            return None;
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let next = match batch.len() % 2 {
                0 => self.waiting.pop_first(),
                _ => self.waiting.pop_last(),
            };
            let Some((_, id)) = next else { break };
            self.loads
                .insert(id.clone(), LoadState::Reading(News::default()));
            batch.push(id);
        }
        if batch.is_empty() {
            return None;
        }
        self.reads += 1;
        Some(batch)
    }

    /// Ends a read. Returns the news about its endpoints.
    pub(super) fn end_read(&mut self, batch: &[EndpointId]) -> BTreeMap<EndpointId, News> {
        self.reads = self.reads.saturating_sub(1);
        let mut news = BTreeMap::new();
        for id in batch {
            if let Some(LoadState::Reading(of)) = self.loads.remove(id) {
                news.insert(id.clone(), of);
            }
        }
        news
    }

    /// Forgets the waiting ones; the poll finds them again.
    pub(super) fn clear(&mut self) {
        for (_, id) in std::mem::take(&mut self.waiting) {
            self.loads.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::EngineConfig;
    use crate::domain::ids::Tenant;
    use crate::domain::settings::{EndpointChange, Settings};

    fn endpoint(number: usize) -> EndpointId {
        EndpointId::from_text(format!("ep_{number:05}"))
    }

    fn at(second: usize) -> Timestamp {
        Timestamp::from_micros(i64::try_from(second).unwrap() * 1_000_000)
    }

    #[test]
    fn a_batch_has_the_most_overdue_ones_and_the_latest() {
        let mut queue = LoadQueue::default();
        for number in 0..2000 {
            queue.add(&endpoint(number), at(number));
        }
        let batch: BTreeSet<EndpointId> = queue.start_read().unwrap().into_iter().collect();
        let expected = (0..BATCH / 2).chain(2000 - BATCH / 2..2000).map(endpoint);
        assert_eq!(batch, expected.collect());
        assert!(queue.start_read().is_some());
        assert!(queue.start_read().is_none(), "enough are being read");
        assert_eq!(queue.len(), 2000);
    }

    #[test]
    fn what_happens_during_a_read_is_not_forgotten() {
        let mut queue = LoadQueue::default();
        queue.add(&endpoint(1), at(1));
        queue.add(&endpoint(2), at(2));
        let batch = queue.start_read().unwrap();
        queue.add(&endpoint(1), at(1));
        queue.add_due(&endpoint(2), at(3));
        assert!(queue.start_read().is_none(), "both are being read");
        let news = queue.end_read(&batch);
        assert!(!news[&endpoint(1)].is_due && news[&endpoint(2)].is_due);
        assert_eq!(queue.len(), 0);
    }

    fn change(version: i64, epoch: Option<i64>) -> MissedChange {
        let url = "https://a.example".parse().unwrap();
        let settings = Settings::create(EndpointChange::to(url)).unwrap();
        let limits = EngineConfig::default().endpoint_defaults;
        let endpoint = Endpoint::resolve(endpoint(1), Tenant::default(), settings, &limits, at(0));
        MissedChange {
            endpoint: Arc::new(Endpoint {
                version,
                ..endpoint
            }),
            health: epoch.map(|epoch| StoredHealth {
                epoch,
                ..StoredHealth::default()
            }),
        }
    }

    /// Changes arrive in any order, and not each of them has a health.
    #[test]
    fn of_several_changes_the_newest_endpoint_and_the_newest_health_count() {
        let mut queue = LoadQueue::default();
        queue.note_change(change(9, None));
        queue.add(&endpoint(1), at(1));
        let batch = queue.start_read().unwrap();
        assert!(
            queue.endpoints().eq([&endpoint(1)]),
            "it is still to be told of changes"
        );
        for missed in [change(4, Some(2)), change(5, None), change(3, Some(1))] {
            queue.note_change(missed);
        }
        let news = queue.end_read(&batch).remove(&endpoint(1)).unwrap();
        let change = news.change.as_ref().unwrap();
        let health = change.health.unwrap();
        assert_eq!((change.endpoint.version, health.epoch), (5, 2));
        assert!(news.is_due && news.is_resumed());
    }

    proptest! {
        #[test]
        fn each_is_read_once_at_a_time_and_none_is_left(
            steps in prop::collection::vec((0_usize..3, 0_usize..1500), 1..3000)
        ) {
            let mut queue = LoadQueue::default();
            let mut reading: Vec<Vec<EndpointId>> = Vec::new();
            let mut wanted = BTreeSet::new();
            for (step, number) in steps {
                match step {
                    0 => {
                        wanted.insert(endpoint(number));
                        queue.add(&endpoint(number), at(number % 7));
                    }
                    1 => if let Some(batch) = queue.start_read() {
                        let all: BTreeSet<_> = reading.iter().flatten().chain(&batch).collect();
                        prop_assert_eq!(all.len(), reading.iter().map(Vec::len).sum::<usize>() + batch.len());
                        reading.push(batch);
                    },
                    _ => if let Some(batch) = reading.pop() {
                        queue.end_read(&batch);
                        wanted.retain(|id| !batch.contains(id));
                    },
                }
            }
            for batch in reading {
                queue.end_read(&batch);
                wanted.retain(|id| !batch.contains(id));
            }
            while let Some(batch) = queue.start_read() {
                queue.end_read(&batch);
                wanted.retain(|id| !batch.contains(id));
            }
            prop_assert!(wanted.is_empty() && queue.len() == 0, "{wanted:?}");
        }
    }
}
