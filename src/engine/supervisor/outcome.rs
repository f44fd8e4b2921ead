//! What a supervisor makes of an attempt's end: what it says of the endpoint's health, and the row
//! that is written.

use std::sync::Arc;

use actix::prelude::*;

use super::EndpointSupervisor;
use super::inbox::RecordAnswered;
use crate::domain::breaker::{self, Health, Limits, Verdict};
use crate::domain::delivery::{Exchange, Finished, Outcome, Stored};
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::lifecycle::State;
use crate::domain::retry::Jitter;
use crate::engine::attempt::AttemptEnded;
use crate::engine::happenings::Happening;
use crate::store::query::StoredHealth;
use crate::store::{Member, Recorded};

impl EndpointSupervisor {
    /// Writes an outcome down.
    pub(super) fn record(
        &mut self,
        ended: AttemptEnded,
        exchange: Exchange,
        verdict: Verdict,
        ctx: &mut Context<Self>,
    ) {
        let endpoint = &self.endpoint;
        let (wall, jitter) = (ended.ended_at, Jitter::new(rand::random()));
        let (scheduled_start, scheduled_end) = ended.scheduled;
        let next_delay = endpoint
            .retry_schedule
            .delay(ended.claimed.life.retries_used, jitter);
        let limits = Limits {
            breaker_after: endpoint.breaker_after,
            concurrency: endpoint.concurrency,
        };
        let told = breaker::Ended {
            verdict,
            started_at: scheduled_start,
            at: scheduled_end,
            wall,
            next_delay,
        };
        let stored = self.health.unwrap_or_default();
        let before = stored.health;
        let health = before.after(&told, &limits);
        let own_delay = next_delay.map(|delay| scheduled_end + delay);
        let deferred_until = before
            .rest_until(&told)
            .map(|until| until.max(own_delay.unwrap_or(until)));
        let pause = match verdict {
            Verdict::Gone => Some(PauseReason::Gone),
            _ => health.should_pause(&told).then_some(PauseReason::Failing),
        };
        let pause = pause.filter(|_| endpoint.is_active());
        if exchange.outcome.is_conclusive() {
            self.shared.activity.note(wall, exchange.outcome);
        }
        self.shared
            .metrics
            .attempt(exchange.outcome, wall.since(ended.started_at).as_secs_f64());
        let (id, claim_no, event) = (
            ended.claimed.id.clone(),
            ended.claimed.claim_no,
            ended.event,
        );
        let outcome = exchange.outcome;
        let finished = Finished {
            claimed: ended.claimed,
            endpoint_id: endpoint.id.clone(),
            started_at: ended.started_at,
            ended_at: wall,
            due_from: scheduled_end,
            exchange,
            jitter,
            verdict,
            deferred_until,
            health_before: before,
            health,
            health_epoch: stored.epoch,
            pause,
            stored: Stored::Whole,
        };
        self.heed(before, health, pause);
        self.recording.insert(id.clone());
        if outcome == Outcome::ConnectionLost {
            self.lost.insert(id.clone());
        }
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            let result = shared.committer.write(Member::record(finished)).await;
            addr.do_send(RecordAnswered {
                event,
                id,
                claim_no,
                outcome,
                paused: pause,
                result,
            });
        });
    }

    /// Acts on what was just judged, before it is committed: nothing more starts meanwhile.
    fn heed(&mut self, before: Health, health: Health, pause: Option<PauseReason>) {
        let id = &self.endpoint.id;
        if health.breaker.state() != before.breaker.state() {
            let (state, failures) = (health.breaker.state(), health.consecutive_failures);
            tracing::info!(endpoint = %id, %state, failures, "the breaker of {id} is {state}");
        }
        self.health = Some(StoredHealth {
            health,
            ..self.health.unwrap_or_default()
        });
        if let Some(reason) = pause {
            tracing::warn!(endpoint = %id, %reason, "endpoint {id} is paused ({reason}); it waits for a person to resume it");
            let mut paused = Endpoint::clone(&self.endpoint);
            paused.paused = Some(reason);
            self.endpoint = Arc::new(paused);
        }
    }

    /// Successes are the rule and are counted; failures are what somebody looks for.
    pub(super) fn log_outcome(&self, answer: &RecordAnswered, state: State) {
        let (id, endpoint, outcome, status) = (
            &answer.id,
            &self.endpoint.id,
            answer.outcome,
            state.status(),
        );
        if outcome == Outcome::Delivered {
            tracing::debug!(delivery = %id, %endpoint, "{id} is delivered");
        } else {
            tracing::info!(delivery = %id, %endpoint, %outcome, %status, "an attempt of {id} ended {outcome}; it is {status}");
        }
    }

    /// Tells whoever embeds the engine and listens.
    pub(super) fn tell(&self, answer: &RecordAnswered, state: State) {
        let (event, delivery) = (answer.event.id.clone(), answer.id.clone());
        let endpoint = self.endpoint.id.clone();
        let happening = match state {
            State::Delivered => Some(Happening::Delivered {
                event,
                delivery,
                endpoint,
            }),
            State::Failed(reason) => Some(Happening::Failed {
                event,
                delivery,
                endpoint,
                reason,
            }),
            State::Pending(_) | State::Sending => None,
        };
        let endpoint = || self.endpoint.id.clone();
        let paused = answer.paused.map(|reason| Happening::Paused {
            endpoint: endpoint(),
            reason,
        });
        for happening in happening.into_iter().chain(paused) {
            // Nobody may listen.
            let _ = self.shared.happenings.send(happening);
        }
    }

    /// Logs an attempt that broke off as interrupted.
    pub(super) fn record_interruption(
        &mut self,
        ended: AttemptEnded,
        counts: bool,
        why: &'static str,
        ctx: &mut Context<Self>,
    ) {
        let (id, claim_no, event) = (
            ended.claimed.id.clone(),
            ended.claimed.claim_no,
            ended.event,
        );
        self.recording.insert(id.clone());
        let (shared, addr, endpoint_id) = (
            Arc::clone(&self.shared),
            ctx.address(),
            self.endpoint.id.clone(),
        );
        let (claimed, at) = (ended.claimed, ended.ended_at);
        actix::spawn(async move {
            let write = move |tx: &mut crate::store::Tx<'_>| {
                tx.interrupt_claim(&endpoint_id, &claimed, at, counts, why)
            };
            let result = shared.committer.run(write).await.map(|_| Recorded::Stale);
            addr.do_send(RecordAnswered {
                event,
                id,
                claim_no,
                outcome: Outcome::Interrupted,
                paused: None,
                result,
            });
        });
    }
}
