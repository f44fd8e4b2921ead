//! Inputs of a lane: what has happened, and the actions that follow.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{BACK_OFF, CLAIM_RETRY_DELAY, InFlight, Lane, Phase};
use crate::domain::breaker::StoredHealth;
use crate::domain::delivery::{ClaimName, Claimed, Queued};
use crate::domain::handover::OnWire;
use crate::domain::ids::DeliveryKey;
use crate::domain::lease::{Lease, Shard};
use crate::engine::messages::StopReply;
use crate::engine::supervisor::actions::{Action, Moment, Start, Work};
use crate::engine::supervisor::messages::{Changed, Polled};
use crate::engine::supervisor::report::Report;
use crate::store::{ClaimResult, DuePage, RateLimitHistory, StoreError};

impl Lane {
    pub(crate) fn on_history_loaded(
        &mut self,
        history: Result<RateLimitHistory, StoreError>,
        moment: &Moment,
    ) -> Vec<Action> {
        let starts = self.starts_in_flight.take().unwrap_or_default();
        match history {
            Ok(history) => {
                self.limiter = history.limiter(moment.wall, moment.monotonic, starts);
                self.adopt_health(history.health);
                if self.phase == Phase::LoadingHistory {
                    self.phase = Phase::Running;
                }
                Vec::new()
            }
            Err(error) => {
                self.not_before = moment.monotonic + BACK_OFF;
                vec![Action::Report(Report::HistoryNotRead(error))]
            }
        }
    }

    pub(crate) fn on_health_loaded(&mut self, stored: StoredHealth) {
        self.adopt_health(stored);
    }

    /// Handles deliveries that were just committed.
    pub(crate) fn on_newly_due(&mut self, new: Vec<Queued>, moment: &Moment) {
        self.received += 1;
        let room = if self.is_sending() {
            self.window_limit(moment)
        } else {
            0
        };
        for queued in new {
            self.window.offer(queued, moment.schedule, room);
        }
    }

    pub(crate) fn on_due_loaded(
        &mut self,
        page: Result<DuePage, StoreError>,
        moment: &Moment,
    ) -> Vec<Action> {
        match page {
            Ok(page) => {
                let known: HashSet<DeliveryKey> = page
                    .queued
                    .iter()
                    .filter(|queued| self.is_known(queued.key))
                    .map(|queued| queued.key)
                    .collect();
                let being_claimed = self.claiming.values().map(|queued| queued.due).min();
                self.window.loaded(
                    page,
                    moment.schedule,
                    (being_claimed, moment.horizon),
                    |key| known.contains(&key),
                );
                Vec::new()
            }
            Err(error) => {
                self.window.loading_failed();
                self.not_before = moment.monotonic + BACK_OFF;
                vec![Action::Report(Report::DueNotRead(error))]
            }
        }
    }

    pub(crate) fn on_permit_granted(&mut self) {
        self.awaiting_permit = false;
    }

    /// Handles the result of a claim.
    pub(crate) fn on_claimed(
        &mut self,
        keys: &[DeliveryKey],
        result: Result<ClaimResult, StoreError>,
        moment: &Moment,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut queued: BTreeMap<DeliveryKey, Queued> = keys
            .iter()
            .filter_map(|key| self.claiming.remove_entry(key))
            .collect();
        let ClaimResult { claimed, deferred } = result.unwrap_or_else(|error| {
            actions.push(Action::Report(Report::ClaimFailed(error)));
            self.not_before = moment.monotonic + BACK_OFF;
            self.window.note_due(moment.schedule);
            ClaimResult::default()
        });
        self.window.forget(&deferred);
        if claimed.is_empty() && deferred.is_empty() {
            // Cancelled, paused or already sent: a new claim at once would get nothing either.
            self.not_before = self.not_before.max(moment.monotonic + CLAIM_RETRY_DELAY);
        }
        self.window.read_again();
        for _ in claimed.len()..keys.len() {
            self.limiter.release();
        }
        // The last check before sending: everything may have changed during the commit.
        let allowed = self.allowance(moment);
        let may_start = self.is_sending() && moment.lease.is_some();
        let mut released = Vec::new();
        for claim in claimed {
            match queued.remove(&claim.key) {
                Some(queued) if may_start && self.in_flight.len() + self.tail.len() < allowed => {
                    actions.push(self.start(claim, queued, moment));
                }
                _ => {
                    self.limiter.release();
                    self.window.note_due(claim.claimed_at);
                    released.push(claim);
                }
            }
        }
        // A skipped delivery may still be pending, as early as it was.
        let skipped = queued.values().filter(|one| !deferred.contains(&one.key));
        for one in skipped {
            self.window.note_due(one.due);
        }
        if !released.is_empty() {
            actions.push(self.release(released, moment));
        }
        actions
    }

    fn start(&mut self, claimed: Claimed, queued: Queued, moment: &Moment) -> Action {
        self.limiter.start(moment.monotonic);
        let attempt = OnWire {
            key: claimed.key,
            claim_no: claimed.claim_no,
            started_at: moment.wall,
        };
        let in_flight = InFlight {
            attempt,
            started: moment.monotonic,
            ends_by: moment.monotonic + self.endpoint.limits.timeout,
        };
        self.in_flight.insert(claimed.key, in_flight);
        let fresh_connection = self.lost.remove(&claimed.key);
        let lease = Lease {
            shard: Shard::of(&self.endpoint.id),
            epoch: claimed.epoch,
        };
        Action::Start(Start {
            claimed,
            event: queued.event,
            lease,
            fresh_connection,
        })
    }

    /// Handles a change of the endpoint's settings, pause or health.
    pub(crate) fn on_changed(&mut self, changed: Changed, moment: &Moment) {
        self.received += 1;
        let Changed { endpoint, health } = changed;
        // Changes may arrive in another order than they were committed: each has a version.
        let mut is_news = false;
        if endpoint.version >= self.endpoint.version {
            is_news =
                endpoint.version > self.endpoint.version || endpoint.paused != self.endpoint.paused;
            self.endpoint = endpoint;
        }
        is_news |= health.is_some_and(|stored| self.adopt_health(stored));
        if is_news {
            self.window.note_due(moment.schedule);
        }
    }

    /// Handles the findings of the registry's poll.
    pub(crate) fn on_polled(&mut self, polled: Polled) -> Vec<Action> {
        self.received += 1;
        if let Some(next) = polled.next {
            self.window.note_due(next);
        }
        let Some(sending) = polled.sending else {
            return Vec::new();
        };
        // Its shard may have another owner, whose claims these are.
        if matches!(self.phase, Phase::Draining { .. } | Phase::Stopped) {
            self.unknown_claims.clear();
            return Vec::new();
        }
        // Claims that are unknown in two consecutive polls have no owner; a single poll may be
        // older than the latest changes here.
        let unknown: BTreeSet<ClaimName> = sending
            .into_iter()
            .filter(|(key, _)| !self.is_known(*key))
            .collect();
        let stuck: Vec<ClaimName> = unknown
            .intersection(&self.unknown_claims)
            .cloned()
            .collect();
        self.unknown_claims = unknown;
        if stuck.is_empty() {
            Vec::new()
        } else {
            vec![Action::Run(Work::Reclaim(stuck))]
        }
    }

    pub(crate) fn on_stop_reply(&mut self, reply: StopReply) -> Vec<Action> {
        match reply {
            StopReply::Stop => {
                self.phase = Phase::Stopped;
                vec![Action::Stop]
            }
            StopReply::KeepRunning => {
                if self.phase == Phase::Stopping {
                    self.phase = Phase::Running;
                }
                Vec::new()
            }
        }
    }

    /// Handles the expiry of the idle timer.
    pub(crate) fn on_idle(&mut self) -> Vec<Action> {
        self.phase = Phase::Stopping;
        vec![Action::RequestStop]
    }
}
