//! What a supervisor is told, by the registry, its attempts and the committer, and what it does
//! then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;

use super::{BACK_OFF, BREATH, EndpointSupervisor, Phase};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{Outcome, Queued, Seen};
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::event::SealedEvent;
use crate::domain::ids::DeliveryId;
use crate::domain::lifecycle::{Life, State, Wait};
use crate::domain::rate_limit::SlidingWindow;
use crate::domain::settings::Ordering;
use crate::engine::attempt::{AttemptEnded, Ended};
use crate::engine::seed::Seed;
use crate::store::query::{ClaimName, Due, StoredHealth};
use crate::store::{ClaimResult, Recorded, StoreError};

/// A hint: deliveries that were just committed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Wake(pub(in crate::engine) Vec<Queued>);

/// The endpoint's settings or pause have changed. Answered once they hold.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Changed {
    pub(in crate::engine) endpoint: Arc<Endpoint>,
    /// How it is doing, as the database has it now; `None` where that was not looked at.
    pub(in crate::engine) health: Option<StoredHealth>,
}

/// The endpoint's health was read anew.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct HealthChanged(pub(super) StoredHealth);

impl Handler<HealthChanged> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, HealthChanged(stored): HealthChanged, ctx: &mut Self::Context) {
        self.adopt_health(stored);
        self.pump(ctx);
    }
}

/// What the registry's poll found of this endpoint.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Polled {
    pub(in crate::engine) next: Option<Timestamp>,
    /// `None` where it did not look.
    pub(in crate::engine) sending: Option<Vec<ClaimName>>,
}

/// The registry's answer to [`MayLeave`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) enum Leave {
    Go,
    Stay,
}

/// Claim nothing more; leave when what is in flight has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Drain;

/// What it is doing right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) in_flight: usize,
    /// Whether it waits for another endpoint's attempt to end: all places of the engine are taken.
    pub(crate) in_line: bool,
    /// Whether an attempt could start as far as the rate limit goes.
    pub(crate) rate_open: bool,
    /// When the rate limit opens, if it is closed.
    pub(crate) next_slot_at: Option<Timestamp>,
}

impl Live {
    pub(in crate::engine) fn new(
        in_flight: usize,
        in_line: bool,
        limiter: &mut SlidingWindow,
        clock: &dyn Clock,
    ) -> Self {
        let (mono, now) = (clock.monotonic(), clock.now());
        let next_slot_at = limiter.wait(mono).map(|wait| now + wait);
        Self {
            in_flight,
            in_line,
            rate_open: limiter.available(mono) > 0,
            next_slot_at,
        }
    }
}

/// Asks for [`Live`].
#[derive(Debug, Message)]
#[rtype(result = "Live")]
pub(in crate::engine) struct Inspect;

/// Panics in the handler, as a defect would.
#[cfg(feature = "testing")]
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct InjectPanic;

/// The log of attempts has been read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Seeded(pub(super) Result<Seed, StoreError>);

impl Handler<Seeded> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, Seeded(seed): Seeded, ctx: &mut Self::Context) {
        let unlogged = self.unlogged.take().unwrap_or_default();
        match seed {
            Ok(seed) => {
                self.limiter = seed.limiter(&*self.shared.clock, unlogged);
                self.health.get_or_insert(seed.health);
                if self.phase == Phase::Seeding {
                    self.phase = Phase::Running;
                }
                self.pump(ctx);
            }
            Err(error) => {
                tracing::warn!(endpoint = %self.endpoint.id, %error, "cannot read the attempt log of {} yet", self.endpoint.id);
                ctx.run_later(BACK_OFF, |supervisor, ctx| supervisor.pump(ctx));
            }
        }
    }
}

impl Handler<Wake> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, Wake(hints): Wake, ctx: &mut Self::Context) {
        if !hints.is_empty() {
            self.heard += 1;
        }
        let now = self.schedule_now();
        for queued in hints {
            let room = if self.phase == Phase::Running && self.endpoint.is_active() {
                self.look_ahead()
            } else {
                0
            };
            self.window.offer(queued, now, room);
        }
        self.pump(ctx);
    }
}

/// The window has been read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Loaded(pub(super) Result<Due, StoreError>);

impl Handler<Loaded> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, Loaded(due): Loaded, ctx: &mut Self::Context) {
        match due {
            Ok(due) => {
                let (claiming, in_flight, recording) =
                    (&self.claiming, &self.in_flight, &self.recording);
                self.window.loaded(due, |id| {
                    claiming.contains_key(id)
                        || in_flight.contains_key(id)
                        || recording.contains(id)
                });
            }
            Err(error) => {
                tracing::warn!(endpoint = %self.endpoint.id, %error, "cannot read what is due at {}", self.endpoint.id);
                self.window.loading_failed();
                self.not_before = self.shared.clock.monotonic() + BACK_OFF;
            }
        }
        self.pump(ctx);
    }
}

/// There is a place for one more attempt in the engine.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SlotGranted(pub(super) OwnedSemaphorePermit);

impl Handler<SlotGranted> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, SlotGranted(place): SlotGranted, ctx: &mut Self::Context) {
        self.in_line = false;
        self.pump_with(Some(place), ctx);
    }
}

/// A claim has been committed, or not.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ClaimAnswered {
    pub(super) ids: Vec<DeliveryId>,
    pub(super) result: Result<ClaimResult, StoreError>,
}

impl Handler<ClaimAnswered> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, answer: ClaimAnswered, ctx: &mut Self::Context) {
        let mut queued: HashMap<DeliveryId, (Queued, OwnedSemaphorePermit)> = answer
            .ids
            .iter()
            .filter_map(|id| self.claiming.remove_entry(id))
            .collect();
        let ClaimResult { claimed: claims, aside } = answer.result.unwrap_or_else(|error| {
            tracing::warn!(endpoint = %self.endpoint.id, %error, "a claim of {} was not committed", self.endpoint.id);
            self.not_before = self.shared.clock.monotonic() + BACK_OFF;
            self.window.note_due(self.schedule_now());
            ClaimResult::default()
        });
        self.window.forget(&aside);
        if claims.is_empty() && aside.is_empty() {
            // Cancelled, paused by somebody else, sent already: no reason to ask again at once.
            self.not_before = self.not_before.max(self.shared.clock.monotonic() + BREATH);
        }
        self.window.read_again();
        if claims.len() + aside.len() < answer.ids.len() {
            // What was not as it had been read may still wait.
            self.window.note_due(self.schedule_now());
        }
        for _ in claims.len()..answer.ids.len() {
            self.limiter.release();
        }
        // The last look before anything goes out: all may have changed while the claim committed.
        let allowed =
            self.health()
                .allowance(self.schedule_now(), self.endpoint.concurrency) as usize;
        let lease = self.shared.leases.for_new_work(&self.endpoint.id);
        let may_start =
            self.endpoint.is_active() && self.phase == Phase::Running && lease.is_some();
        let mut released = Vec::new();
        for claimed in claims {
            match queued.remove(&claimed.id) {
                Some(queued) if may_start && self.in_flight.len() < allowed => {
                    self.start_attempt(claimed, queued, ctx);
                }
                _ => {
                    self.limiter.release();
                    self.window.note_due(claimed.claimed_at);
                    released.push(claimed);
                }
            }
        }
        self.release(released, ctx);
        self.pump(ctx);
    }
}

impl Handler<AttemptEnded> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, mut report: AttemptEnded, ctx: &mut Self::Context) {
        let started = self.in_flight.remove(&report.claimed.id);
        match std::mem::replace(&mut report.ended, Ended::Broken) {
            Ended::Finished(exchange, verdict) => self.record(report, exchange, verdict, ctx),
            Ended::NotSent(why) => {
                tracing::warn!(endpoint = %self.endpoint.id, %why, "nothing to send with; trying again shortly");
                if let Some(started) = started {
                    self.limiter.take_back(started);
                }
                self.not_before = self.shared.clock.monotonic() + BACK_OFF;
                self.window.note_due(report.scheduled.1);
                self.release(vec![report.claimed], ctx);
            }
            Ended::Aborted => {
                self.record_interruption(report, false, "stopped before it had an outcome", ctx)
            }
            Ended::Broken => {
                tracing::error!(delivery = %report.claimed.id, "attempt of {} panicked: this is a defect, please report it", report.claimed.id);
                self.record_interruption(report, true, "the attempt broke off", ctx);
            }
        }
        self.pump(ctx);
    }
}

/// An outcome has been committed, or not.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RecordAnswered {
    pub(super) event: Arc<SealedEvent>,
    pub(super) id: DeliveryId,
    pub(super) claim_no: i64,
    pub(super) outcome: Outcome,
    /// That the endpoint was paused by it.
    pub(super) paused: Option<PauseReason>,
    pub(super) result: Result<Recorded, StoreError>,
}

impl Handler<RecordAnswered> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, answer: RecordAnswered, ctx: &mut Self::Context) {
        self.recording.remove(&answer.id);
        match answer.result {
            Ok(Recorded::Written {
                life,
                health_is_current,
            }) => {
                self.shared.metrics.reached(life.state);
                self.log_outcome(&answer, life.state);
                self.tell(&answer, life.state);
                if !health_is_current {
                    self.read_health(ctx);
                }
                match life.state {
                    State::Pending(Wait::Until(due)) if self.lost.contains(&answer.id) => {
                        self.send_next(&answer, due, life);
                    }
                    State::Pending(Wait::Until(due)) => self.window.note_due(due),
                    // It may be the turn of the next one in its ordering key.
                    _ if self.endpoint.settings.ordering == Ordering::Key => {
                        self.window.note_due(self.schedule_now());
                    }
                    _ => {}
                }
            }
            Ok(Recorded::Stale) if answer.outcome == Outcome::Interrupted => {
                self.window.note_due(self.schedule_now());
            }
            Ok(Recorded::Stale) => {
                self.shared.metrics.stale_outcomes.inc();
                tracing::warn!(delivery = %answer.id, "the outcome of {} came after its claim was taken away", answer.id);
            }
            Err(error) => {
                tracing::error!(delivery = %answer.id, %error, "the outcome of {} could not be written; the poll takes it back", answer.id);
            }
        }
        self.pump(ctx);
    }
}

impl Handler<Changed> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, Changed { endpoint, health }: Changed, ctx: &mut Self::Context) {
        self.heard += 1;
        // Two changes may be told in another order than they were committed: each has a version.
        let mut is_news = false;
        if endpoint.version >= self.endpoint.version {
            is_news =
                endpoint.version > self.endpoint.version || endpoint.paused != self.endpoint.paused;
            self.endpoint = endpoint;
        }
        is_news |= health.is_some_and(|stored| self.adopt_health(stored));
        if is_news {
            self.window.note_due(self.schedule_now());
        }
        self.pump(ctx);
    }
}

impl Handler<Polled> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, polled: Polled, ctx: &mut Self::Context) {
        self.heard += 1;
        if let Some(sending) = polled.sending {
            self.look_for_strays(sending, ctx);
        }
        if let Some(next) = polled.next {
            self.window.note_due(next);
        }
        self.pump(ctx);
    }
}

impl EndpointSupervisor {
    /// Puts a delivery whose request was lost first, for a new connection.
    fn send_next(&mut self, answer: &RecordAnswered, due: Timestamp, life: Life) {
        if self.phase != Phase::Running || !self.endpoint.is_active() {
            self.window.note_due(due);
            return;
        }
        let seen = Seen {
            claim_no: answer.claim_no,
            life,
        };
        let event = Arc::clone(&answer.event);
        self.window.put_first(Queued {
            id: answer.id.clone(),
            due,
            event,
            seen,
        });
    }

    /// Claims that the database holds and nothing here knows of, twice in a row: one snapshot may
    /// be older than what has happened here since.
    fn look_for_strays(&mut self, sending: Vec<ClaimName>, ctx: &mut Context<Self>) {
        let unknown: HashSet<ClaimName> = sending
            .into_iter()
            .filter(|(id, _)| !self.knows(id))
            .collect();
        let stuck: Vec<ClaimName> = unknown.intersection(&self.strays).cloned().collect();
        self.strays = unknown;
        if stuck.is_empty() {
            return;
        }
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            shared.take_back(stuck).await;
            addr.do_send(Wake(Vec::new()));
        });
    }
}

impl Handler<Leave> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, leave: Leave, ctx: &mut Self::Context) {
        match leave {
            Leave::Go => {
                self.left_cleanly = true;
                ctx.stop();
            }
            Leave::Stay => {
                if self.phase == Phase::Leaving {
                    self.phase = Phase::Running;
                }
                self.pump(ctx);
            }
        }
    }
}

impl Handler<Drain> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.phase = Phase::Draining;
        self.window.clear();
        self.pump(ctx);
    }
}

impl Handler<Inspect> for EndpointSupervisor {
    type Result = MessageResult<Inspect>;
    fn handle(&mut self, _: Inspect, _: &mut Self::Context) -> Self::Result {
        MessageResult(Live::new(
            self.in_flight.len(),
            self.in_line,
            &mut self.limiter,
            &*self.shared.clock,
        ))
    }
}

#[cfg(feature = "testing")]
impl Handler<InjectPanic> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, _: InjectPanic, _: &mut Self::Context) {
        panic!("injected into a supervisor");
    }
}
