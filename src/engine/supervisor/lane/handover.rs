//! Handover of the endpoint's shard: what the former owner has in flight, and what this one leaves.

use std::time::Duration;

use super::{Lane, Phase};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::handover::OnWire;
use crate::domain::ids::DeliveryKey;
use crate::engine::messages::Quiet;
use crate::engine::supervisor::actions::{Action, Moment, Work};

impl Lane {
    /// Counts attempts of the shard's former owner as in flight.
    pub(in crate::engine::supervisor) fn count_tail(
        &mut self,
        tail: &[OnWire],
        now: Timestamp,
        monotonic: Duration,
    ) {
        for attempt in tail {
            let started = monotonic.saturating_sub(now.since(attempt.started_at));
            self.tail.insert(attempt.key, started);
        }
    }

    /// Handles the handover or the loss of the shard, or the stop of the engine.
    pub(crate) fn on_drain(&mut self) {
        if self.phase != Phase::Stopped {
            self.phase = Phase::Draining { quiet: false };
        }
        self.window.clear();
    }

    /// Reports what is on the wire, once nothing more starts and all outcomes are written: the next
    /// owner counts the rest, and reads the log and the endpoint's health.
    pub(super) fn report_quiet(&mut self) -> Vec<Action> {
        let is_settling =
            !self.claiming.is_empty() || self.releasing > 0 || !self.recording.is_empty();
        if is_settling {
            return Vec::new();
        }
        self.phase = Phase::Draining { quiet: true };
        let in_flight = self.in_flight.values();
        vec![Action::ReportQuiet(Quiet {
            attempts: in_flight.clone().map(|one| one.attempt).collect(),
            ends_by: in_flight.map(|one| one.ends_by).max().unwrap_or_default(),
        })]
    }

    pub(super) fn release(&mut self, claims: Vec<Claimed>, moment: &Moment) -> Action {
        self.releasing += 1;
        Action::Run(Work::Release(claims, moment.wall))
    }

    /// Handles the end of a release.
    pub(crate) fn on_released(&mut self) {
        self.releasing = self.releasing.saturating_sub(1);
    }

    /// Handles the end of attempts of the shard's former owner. It has judged the endpoint's health
    /// after them, and deliveries behind them may be due.
    pub(crate) fn on_tail_ended(&mut self, keys: &[DeliveryKey], moment: &Moment) -> Vec<Action> {
        for key in keys {
            self.tail.remove(key);
        }
        self.window.note_due(moment.schedule);
        vec![Action::Run(Work::LoadHealth)]
    }
}
