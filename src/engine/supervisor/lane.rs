//! An endpoint's lane: all decisions of its supervisor, as a state machine.
//!
//! It has no address, no database and no clock, and spawns nothing: each input includes a
//! [`Moment`] and returns [`Action`]s. After each input the actor calls [`advance`](Lane::advance)
//! with its available permits, which starts what it can, reads ahead, and sets the timer.

mod handover;
mod inputs;
mod outcomes;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::actions::{Action, Moment, Work};
use super::wakeup::{Situation, Wakeup};
use super::window::Window;
use crate::domain::breaker::{Health, StoredHealth};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{ClaimName, Queued};
use crate::domain::endpoint::Endpoint;
use crate::domain::handover::OnWire;
use crate::domain::ids::DeliveryKey;
use crate::domain::rate_limit::SlidingWindow;
use crate::domain::settings::Ordering;
use crate::engine::supervisor::messages::SupervisorStatus;
use crate::store::{Claim, DueScan};

/// Pause after an error of the database or the operating system.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Delay after a claim without a result.
const CLAIM_RETRY_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The rate limiter does not know the earlier attempts yet.
    LoadingHistory,
    Running,
    /// It has asked to stop.
    Stopping,
    /// The shard is being handed over, or is lost. `quiet` once that was reported.
    Draining {
        quiet: bool,
    },
    Stopped,
}

/// An attempt in flight.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    attempt: OnWire,
    /// Monotonic time of its start.
    started: Duration,
    /// Monotonic time by which it has ended.
    ends_by: Duration,
}

/// The state of one endpoint's supervisor.
pub(super) struct Lane {
    endpoint: Arc<Endpoint>,
    idle_timeout: Duration,
    phase: Phase,
    limiter: SlidingWindow,
    /// Breaker and rests; `None` until they are read.
    health: Option<StoredHealth>,
    /// Due deliveries in the order of sending, read ahead.
    window: Window,
    /// Claims being committed.
    claiming: BTreeMap<DeliveryKey, Queued>,
    awaiting_permit: bool,
    in_flight: BTreeMap<DeliveryKey, InFlight>,
    /// Attempts of the shard's former owner that are still in flight, with the monotonic times of
    /// their starts.
    tail: BTreeMap<DeliveryKey, Duration>,
    /// Outcomes being committed.
    recording: BTreeSet<DeliveryKey>,
    /// Number of releases of claims being committed.
    releasing: usize,
    /// Deliveries whose last request was lost with its connection: the next one needs a new
    /// connection.
    lost: BTreeSet<DeliveryKey>,
    /// Starts that the log cannot contain yet; `Some` while the history is read.
    starts_in_flight: Option<Vec<Duration>>,
    /// `sending` rows found by the poll that are unknown here.
    unknown_claims: BTreeSet<ClaimName>,
    /// Monotonic time before which nothing is claimed.
    not_before: Duration,
    /// Number of the registry's messages received, so that it can check for more.
    received: u64,
}

impl Lane {
    pub(super) fn new(endpoint: Arc<Endpoint>, idle_timeout: Duration) -> Self {
        Self {
            limiter: SlidingWindow::seeded(endpoint.limits.rate_limit, []),
            endpoint,
            idle_timeout,
            phase: Phase::LoadingHistory,
            health: None,
            window: Window::unread(),
            claiming: BTreeMap::new(),
            awaiting_permit: false,
            in_flight: BTreeMap::new(),
            tail: BTreeMap::new(),
            recording: BTreeSet::new(),
            releasing: 0,
            lost: BTreeSet::new(),
            starts_in_flight: None,
            unknown_claims: BTreeSet::new(),
            not_before: Duration::ZERO,
            received: 0,
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Returns the time before which none of the endpoint's deliveries is due.
    pub(super) fn low_water_mark(&self) -> Timestamp {
        self.window.mark()
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub(super) fn status(&mut self, moment: &Moment) -> SupervisorStatus {
        let now = (moment.wall, moment.monotonic);
        let in_flight = self.in_flight.len() + self.tail.len();
        SupervisorStatus::new(in_flight, self.awaiting_permit, &mut self.limiter, now)
    }

    fn health(&self) -> Health {
        self.health.unwrap_or_default().health
    }

    /// Returns the deliveries that count towards the concurrency.
    fn busy(&self) -> usize {
        self.own_busy() + self.tail.len()
    }

    /// Returns those of them that are this supervisor's. A lost one counts while its row is written,
    /// because it is sent next.
    fn own_busy(&self) -> usize {
        let lost = self
            .lost
            .iter()
            .filter(|key| self.recording.contains(*key))
            .count();
        self.in_flight.len() + self.claiming.len() + lost
    }

    /// Returns true if nothing of this supervisor's is on the wire or being committed.
    fn has_ended(&self) -> bool {
        self.own_busy() == 0 && self.recording.is_empty() && self.releasing == 0
    }

    fn is_known(&self, key: DeliveryKey) -> bool {
        self.claiming.contains_key(&key)
            || self.in_flight.contains_key(&key)
            || self.tail.contains_key(&key)
            || self.recording.contains(&key)
    }

    fn is_sending(&self) -> bool {
        self.phase == Phase::Running && self.endpoint.is_active()
    }

    fn window_limit(&self, moment: &Moment) -> usize {
        moment.share.window(self.endpoint.limits.concurrency)
    }

    /// Returns the number of attempts in flight that the breaker, a rest and the concurrency allow.
    fn allowance(&self, moment: &Moment) -> usize {
        self.health()
            .allowance(moment.schedule, self.endpoint.limits.concurrency) as usize
    }

    /// Returns the number of attempts that could start now.
    fn free_slots(&mut self, moment: &Moment) -> usize {
        if moment.monotonic < self.not_before {
            return 0;
        }
        let free = self.allowance(moment).saturating_sub(self.busy());
        let slots = self.limiter.available(moment.monotonic);
        free.min(usize::try_from(slots).unwrap_or(usize::MAX))
    }

    /// Adopts a health that another writer has stored. Returns true if it is newer.
    fn adopt_health(&mut self, stored: StoredHealth) -> bool {
        let is_newer = self.health.is_none_or(|known| known.epoch < stored.epoch);
        if is_newer {
            self.health = Some(stored);
        }
        is_newer
    }

    /// Returns the number of permits that could be used now.
    pub(super) fn permits_wanted(&mut self, moment: &Moment) -> usize {
        if !self.is_sending() || self.must_load_history() || moment.lease.is_none() {
            return 0;
        }
        self.free_slots(moment).min(self.window.len())
    }

    /// Starts what it can with these permits, reads ahead, and sets the timer.
    pub(super) fn advance(&mut self, moment: &Moment, permits: usize) -> Vec<Action> {
        if self.phase == Phase::Running && self.must_load_history() {
            self.phase = Phase::LoadingHistory;
        }
        match self.phase {
            Phase::Running if self.endpoint.is_active() => {
                let mut actions = self.claim(moment, permits);
                actions.extend(self.read_ahead(moment));
                actions.push(Action::SetTimer(self.situation(moment).next_wakeup()));
                actions
            }
            Phase::Running => {
                self.window.clear();
                vec![Action::SetTimer(self.situation(moment).next_wakeup())]
            }
            Phase::Draining { .. } if self.has_ended() => {
                self.phase = Phase::Stopped;
                vec![Action::Stop]
            }
            Phase::Draining { quiet: false } => self.report_quiet(),
            Phase::LoadingHistory => self.load_history(moment),
            Phase::Draining { quiet: true } | Phase::Stopping | Phase::Stopped => Vec::new(),
        }
    }

    /// Returns true if a changed rate limit counts another period than the one that was read.
    fn must_load_history(&self) -> bool {
        self.limiter.limit() != self.endpoint.limits.rate_limit
    }

    /// Reads the history once all ended attempts are in the log; nothing starts meanwhile.
    fn load_history(&mut self, moment: &Moment) -> Vec<Action> {
        let is_loading = self.starts_in_flight.is_some();
        if is_loading || !self.recording.is_empty() || !self.claiming.is_empty() {
            return Vec::new();
        }
        if moment.monotonic < self.not_before {
            let wait = self.not_before.saturating_sub(moment.monotonic);
            return vec![Action::SetTimer(Wakeup::Advance(wait))];
        }
        let own = self.in_flight.values().map(|one| one.started);
        self.starts_in_flight = Some(own.chain(self.tail.values().copied()).collect());
        vec![Action::Run(Work::LoadHistory)]
    }

    /// Returns the deliveries that others of their ordering key wait for, even if those come first.
    fn under_way(&self) -> Vec<DeliveryKey> {
        if self.endpoint.settings.ordering == Ordering::None {
            return Vec::new();
        }
        let claiming = self.claiming.keys().chain(self.in_flight.keys());
        let known = claiming.chain(self.tail.keys()).chain(&self.recording);
        known.copied().collect()
    }

    fn claim(&mut self, moment: &Moment, permits: usize) -> Vec<Action> {
        // Without a lease the shard is lost or being released; the registry's message follows.
        let Some(lease) = moment.lease else {
            return Vec::new();
        };
        let slots = self.free_slots(moment).min(self.window.len());
        let mut actions = Vec::new();
        if permits < slots && !self.awaiting_permit {
            self.awaiting_permit = true;
            actions.push(Action::Run(Work::AwaitPermit));
        }
        let batch = self.window.take(slots.min(permits));
        if batch.is_empty() {
            return actions;
        }
        self.limiter
            .reserve(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        let wanted = batch
            .iter()
            .map(|queued| (queued.key, queued.seen))
            .collect();
        let under_way = self.under_way();
        for queued in batch {
            self.claiming.insert(queued.key, queued);
        }
        actions.push(Action::Claim(Claim {
            under_way,
            endpoint_id: self.endpoint.id.clone(),
            lease,
            at: moment.wall,
            due_by: moment.schedule,
            wanted,
        }));
        actions
    }

    fn read_ahead(&mut self, moment: &Moment) -> Option<Action> {
        if self.window.len() == 0 && self.free_slots(moment) == 0 {
            return None;
        }
        let more = self
            .window
            .start_loading(moment.schedule, self.window_limit(moment))?;
        // The read includes the rows at hand: only this shows what comes after them.
        let at_hand: HashSet<DeliveryKey> = self
            .window
            .keys()
            .chain(self.claiming.keys().copied())
            .collect();
        Some(Action::Run(Work::ReadDue(DueScan {
            endpoint_id: self.endpoint.id.clone(),
            tenant: self.endpoint.tenant.clone(),
            now: moment.schedule,
            limit: at_hand.len() + more,
            from: self.window.read_from(moment.monotonic),
            max_bytes: moment.share.room(self.window.bytes()),
            at_hand,
        })))
    }

    fn situation(&mut self, moment: &Moment) -> Situation {
        let work = self.window.next_work(moment.schedule);
        let until = |at: Timestamp| at.since(moment.schedule);
        Situation {
            until_due: work.filter(|_| self.endpoint.is_active()).map(until),
            until_slot: self.limiter.wait(moment.monotonic).unwrap_or_default(),
            until_retry: self.not_before.saturating_sub(moment.monotonic),
            until_open: self.health().opens_at().map(until).unwrap_or_default(),
            is_idle: self.busy() == 0 && self.recording.is_empty() && !self.window.is_loading(),
            awaiting_permit: self.awaiting_permit,
            idle_timeout: self.idle_timeout,
        }
    }
}

#[cfg(test)]
mod tests;
