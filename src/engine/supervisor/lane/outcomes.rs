//! Ends of attempts: their outcomes are judged, recorded, and followed by what is due next.

use std::sync::Arc;

use super::{BACK_OFF, Lane, Phase};
use crate::domain::breaker::{Health, StoredHealth};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Outcome, Queued, Seen};
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::ids::DeliveryKey;
use crate::domain::lifecycle::{Life, State, Wait};
use crate::domain::retry::Jitter;
use crate::domain::settings::Ordering;
use crate::engine::messages::{AttemptEnd, AttemptEnded};
use crate::engine::supervisor::actions::{Action, Moment, Work};
use crate::engine::supervisor::messages::RecordedOutcome;
use crate::engine::supervisor::outcome::{self, Attempted};
use crate::engine::supervisor::report::Report;
use crate::store::{Interruption, Recorded, StoreError};

impl Lane {
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
}
