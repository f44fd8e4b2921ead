//! Inputs of a lane: what has happened, and the actions that follow.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::{BACK_OFF, CLAIM_RETRY_DELAY, InFlight, Lane, Phase};
use crate::domain::breaker::{Health, StoredHealth};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{ClaimName, Claimed, Outcome, Queued, Seen};
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::handover::OnWire;
use crate::domain::ids::DeliveryKey;
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{Life, State, Wait};
use crate::domain::retry::Jitter;
use crate::domain::settings::Ordering;
use crate::engine::messages::{AttemptEnd, AttemptEnded, StopReply};
use crate::engine::supervisor::actions::{Action, Moment, Start, Work};
use crate::engine::supervisor::messages::{Changed, Polled, RecordedOutcome};
use crate::engine::supervisor::outcome::{self, Attempted};
use crate::engine::supervisor::report::Report;
use crate::store::{ClaimResult, DuePage, Interruption, RateLimitHistory, Recorded, StoreError};

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
                self.window
                    .loaded(page, moment.schedule, |key| known.contains(&key));
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
        if claimed.len() + deferred.len() < keys.len() {
            // A skipped delivery may still be pending.
            self.window.note_due(moment.schedule);
        }
        for _ in claimed.len()..keys.len() {
            self.limiter.release();
        }
        // The last check before sending: everything may have changed during the commit.
        let allowed = self.allowance(moment);
        let may_start = self.is_sending() && moment.lease.is_some();
        let mut released = Vec::new();
        for claim in claimed {
            match queued.remove(&claim.key) {
                Some(queued) if may_start && self.in_flight.len() < allowed => {
                    actions.push(self.start(claim, queued, moment));
                }
                _ => {
                    self.limiter.release();
                    self.window.note_due(claim.claimed_at);
                    released.push(claim);
                }
            }
        }
        if !released.is_empty() {
            actions.push(self.release(released, moment));
        }
        actions
    }

    fn release(&mut self, claims: Vec<Claimed>, moment: &Moment) -> Action {
        self.releasing += 1;
        Action::Run(Work::Release(claims, moment.wall))
    }

    /// Handles the end of a release.
    pub(crate) fn on_released(&mut self) {
        self.releasing = self.releasing.saturating_sub(1);
    }

    /// Handles the end of attempts of the shard's former owner. It has judged the endpoint's health
    /// after them, and what waits behind them may be due.
    pub(crate) fn on_tail_ended(&mut self, keys: &[DeliveryKey], moment: &Moment) -> Vec<Action> {
        for key in keys {
            self.tail.remove(key);
        }
        self.window.note_due(moment.schedule);
        vec![Action::Run(Work::LoadHealth)]
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

    /// Handles the end of an attempt.
    pub(crate) fn on_attempt_ended(
        &mut self,
        ended: AttemptEnded,
        jitter: Jitter,
        moment: &Moment,
    ) -> Vec<Action> {
        let started = self.in_flight.remove(&ended.claimed.key);
        let AttemptEnded {
            event,
            claimed,
            started_at,
            ended_at,
            scheduled,
            end,
        } = ended;
        match end {
            AttemptEnd::Finished(record, verdict) => {
                let attempted = Attempted {
                    claimed,
                    event,
                    started_at,
                    ended_at,
                    scheduled,
                    record,
                    verdict,
                };
                self.record(attempted, jitter)
            }
            AttemptEnd::NotSent(why) => {
                if let Some(started) = started {
                    self.limiter.forget_start(started.started);
                }
                self.not_before = moment.monotonic + BACK_OFF;
                self.window.note_due(scheduled.1);
                vec![
                    Action::Report(Report::NotSent(why)),
                    self.release(vec![claimed], moment),
                ]
            }
            AttemptEnd::Aborted => {
                let reason = "stopped before it had an outcome";
                vec![self.interrupt(claimed, ended_at, false, reason)]
            }
            AttemptEnd::Panicked => {
                let report = Action::Report(Report::AttemptPanicked(claimed.key));
                vec![
                    report,
                    self.interrupt(claimed, ended_at, true, "the attempt panicked"),
                ]
            }
        }
    }

    fn interrupt(
        &mut self,
        claimed: Claimed,
        at: Timestamp,
        counts: bool,
        reason: &'static str,
    ) -> Action {
        self.recording.insert(claimed.key);
        Action::Run(Work::Interrupt(
            claimed,
            Interruption { at, counts, reason },
        ))
    }

    /// Judges an outcome and applies it before it is committed, so that nothing more starts
    /// meanwhile.
    fn record(&mut self, attempted: Attempted, jitter: Jitter) -> Vec<Action> {
        let before = self.health.unwrap_or_default();
        let event = Arc::clone(&attempted.event);
        let mut finished = outcome::judge(attempted, &self.endpoint, before, jitter);
        finished.is_after_handover = matches!(self.phase, Phase::Draining { .. });
        if !finished.is_after_handover {
            self.recording_as_owner.insert(finished.claimed.key);
        }
        let mut actions = vec![Action::Report(Report::AttemptFinished {
            outcome: finished.record.outcome,
            started_at: finished.started_at,
            ended_at: finished.ended_at,
        })];
        actions.extend(self.apply_health(finished.health, finished.pause));
        self.recording.insert(finished.claimed.key);
        if finished.record.outcome == Outcome::ConnectionLost {
            self.lost.insert(finished.claimed.key);
        }
        let recorded = RecordedOutcome {
            key: finished.claimed.key,
            event,
            claim_no: finished.claimed.claim_no,
            outcome: finished.record.outcome,
            paused: finished.pause,
        };
        actions.push(Action::Run(Work::Record(Box::new(finished), recorded)));
        actions
    }

    fn apply_health(&mut self, health: Health, pause: Option<PauseReason>) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.health();
        if health.breaker.state() != before.breaker.state() {
            actions.push(Action::Report(Report::BreakerChanged {
                state: health.breaker.state(),
                failures: health.consecutive_failures,
            }));
        }
        self.health = Some(StoredHealth {
            health,
            ..self.health.unwrap_or_default()
        });
        if let Some(reason) = pause {
            actions.push(Action::Report(Report::EndpointPaused(reason)));
            let paused = Endpoint {
                paused: Some(reason),
                ..Endpoint::clone(&self.endpoint)
            };
            self.endpoint = Arc::new(paused);
        }
        actions
    }

    /// Handles the result of recording an outcome.
    pub(crate) fn on_recorded(
        &mut self,
        recorded: RecordedOutcome,
        result: Result<Recorded, StoreError>,
        moment: &Moment,
    ) -> Vec<Action> {
        self.recording.remove(&recorded.key);
        self.recording_as_owner.remove(&recorded.key);
        match result {
            Ok(Recorded::Written {
                life,
                health_is_current,
            }) => {
                if !matches!(life.state, State::Pending(Wait::Until(_))) {
                    self.lost.remove(&recorded.key);
                }
                self.requeue(&recorded, life, moment);
                let mut actions = vec![Action::Report(Report::OutcomeRecorded(
                    recorded, life.state,
                ))];
                if !health_is_current {
                    actions.push(Action::Run(Work::LoadHealth));
                }
                actions
            }
            Ok(Recorded::Stale) => {
                self.lost.remove(&recorded.key);
                vec![Action::Report(Report::OutcomeStale(recorded.key))]
            }
            Err(error) => {
                self.lost.remove(&recorded.key);
                vec![Action::Report(Report::OutcomeNotWritten(
                    recorded.key,
                    error,
                ))]
            }
        }
    }

    /// Notes what is due after a recorded outcome.
    fn requeue(&mut self, recorded: &RecordedOutcome, life: Life, moment: &Moment) {
        match life.state {
            State::Pending(Wait::Until(due)) if self.lost.contains(&recorded.key) => {
                if !self.is_sending() {
                    self.window.note_due(due);
                    return;
                }
                // Its request was lost with its connection: it is sent next, on a new one.
                self.window.put_first(Queued {
                    key: recorded.key,
                    due,
                    event: Arc::clone(&recorded.event),
                    seen: Seen {
                        claim_no: recorded.claim_no,
                        life,
                    },
                });
            }
            State::Pending(Wait::Until(due)) => self.window.note_due(due),
            // The next one in its ordering key may have become due.
            _ if self.endpoint.settings.ordering == Ordering::Key => {
                self.window.note_due(moment.schedule);
            }
            _ => {}
        }
    }

    /// Handles the result of recording an interruption.
    pub(crate) fn on_interruption_recorded(
        &mut self,
        key: DeliveryKey,
        result: Result<bool, StoreError>,
        moment: &Moment,
    ) -> Vec<Action> {
        self.recording.remove(&key);
        match result {
            Ok(_) => {
                self.window.note_due(moment.schedule);
                Vec::new()
            }
            Err(error) => vec![Action::Report(Report::OutcomeNotWritten(key, error))],
        }
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

    /// Handles the release of the shard, or the stop of the engine.
    pub(crate) fn on_drain(&mut self) {
        if self.phase != Phase::Stopped {
            self.phase = Phase::Draining { quiet: false };
        }
        self.window.clear();
    }

    /// Handles the expiry of the idle timer.
    pub(crate) fn on_idle(&mut self) -> Vec<Action> {
        self.phase = Phase::Stopping;
        vec![Action::RequestStop]
    }
}
