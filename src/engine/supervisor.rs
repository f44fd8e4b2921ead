//! EndpointSupervisor: the one actor that sends to an endpoint.
//!
//! It owns the endpoint's window of due deliveries, its rate limiter, its concurrency count and
//! one timer. It claims only what can start now, and looks again right before each start. What it
//! holds in memory is a copy: whatever it loses, the database still has.
//!
//! It never writes (the committer does) and never reads on its own thread (the store does).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::attempt::{AttemptEnded, DeliveryAttempt, Ended, Job};
use super::registry::{MayLeave, Registry, SupervisorGone};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Finished, Outcome, Queued};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::DeliveryId;
use crate::domain::lifecycle::{State, Wait};
use crate::domain::rate_limit::{RateLimit, SlidingWindow};
use crate::domain::retry::Jitter;
use crate::store::query::{self, Due};
use crate::store::{Claim, Member, Recorded, StoreError};

/// How long to keep off a database or an operating system that had nothing to give.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The most due deliveries that are read ahead, and their bytes.
const MAX_WINDOW: usize = 256;
const MAX_WINDOW_BYTES: usize = 1024 * 1024;

/// More rows than the limit of starts, because attempts end in another order than they start: at
/// most this many can be in flight.
const MOST_IN_FLIGHT: i64 = 1000;

/// A hint: deliveries that were just committed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Wake(pub(super) Vec<Queued>);

/// The endpoint's settings or pause have changed. Answered once they hold.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Changed {
    pub(super) endpoint: Arc<Endpoint>,
    /// A person resumed it: its failures are forgotten.
    pub(super) resumed: bool,
}

/// What the registry's poll found of this endpoint.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Polled {
    pub(super) next: Option<Timestamp>,
    pub(super) sending: Vec<DeliveryId>,
}

/// The registry's answer to [`MayLeave`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) enum Leave {
    Go,
    Stay,
}

/// Claim nothing more; leave when what is in flight has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Drain;

/// What it is doing right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) in_flight: usize,
    /// Whether an attempt could start as far as the rate limit goes.
    pub(crate) rate_open: bool,
    /// When the rate limit opens, if it is closed.
    pub(crate) next_slot_at: Option<Timestamp>,
}

/// Asks for [`Live`].
#[derive(Debug, Message)]
#[rtype(result = "Live")]
pub(super) struct Inspect;

/// Panics in the handler, as a defect would.
#[cfg(feature = "testing")]
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct InjectPanic;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The rate limiter does not know yet what was sent before.
    Seeding,
    Running,
    /// Has asked to leave.
    Leaving,
    /// The engine stops.
    Draining,
}

/// Attempts that belong to one life of a supervisor.
#[derive(Debug, Clone, Default)]
pub(super) struct Roster {
    pub(super) tracker: TaskTracker,
    pub(super) abort: CancellationToken,
}

/// What a supervisor starts from.
struct Seed {
    starts: Vec<Timestamp>,
    consecutive_failures: u32,
}

pub(super) struct EndpointSupervisor {
    shared: Arc<Shared>,
    registry: Addr<Registry>,
    endpoint: Arc<Endpoint>,
    /// Which life of this endpoint's supervisor this is.
    generation: u64,
    roster: Roster,
    phase: Phase,
    limiter: SlidingWindow,
    consecutive_failures: u32,
    /// Due deliveries in the order they are to be sent, read ahead of demand.
    window: VecDeque<Queued>,
    /// Claims that are being committed.
    claiming: HashMap<DeliveryId, Queued>,
    /// Attempts on the wire, with the monotonic time of each start.
    in_flight: HashMap<DeliveryId, Duration>,
    /// Outcomes that are being committed.
    recording: HashSet<DeliveryId>,
    /// While the log is being read: the starts that it cannot hold yet.
    unlogged: Option<Vec<Duration>>,
    /// When the first delivery that is not in the window is due. `None`: none waits.
    next_due: Option<Timestamp>,
    /// Hints that came while the window was being read, and may be missing from it.
    hinted: Option<Timestamp>,
    loading: bool,
    /// Rows that the poll found `sending` and nothing here knew of.
    strays: HashSet<DeliveryId>,
    not_before: Duration,
    timer: Option<SpawnHandle>,
    /// Messages from the registry, to tell whether it has sent more since.
    heard: u64,
    left_cleanly: bool,
}

impl EndpointSupervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        registry: Addr<Registry>,
        endpoint: Arc<Endpoint>,
        generation: u64,
        roster: Roster,
    ) -> Self {
        let limiter = SlidingWindow::seeded(endpoint.rate_limit, []);
        Self {
            shared,
            registry,
            endpoint,
            generation,
            roster,
            phase: Phase::Seeding,
            limiter,
            consecutive_failures: 0,
            window: VecDeque::new(),
            claiming: HashMap::new(),
            in_flight: HashMap::new(),
            recording: HashSet::new(),
            unlogged: None,
            next_due: Some(Timestamp::from_micros(0)),
            hinted: None,
            loading: false,
            strays: HashSet::new(),
            not_before: Duration::ZERO,
            timer: None,
            heard: 0,
            left_cleanly: false,
        }
    }

    fn busy(&self) -> usize {
        self.in_flight.len() + self.claiming.len()
    }

    fn knows(&self, id: &DeliveryId) -> bool {
        self.claiming.contains_key(id) || self.in_flight.contains_key(id) || self.recording.contains(id)
    }

    /// How far the window reads ahead.
    fn look_ahead(&self) -> usize {
        (2 * self.endpoint.concurrency as usize).min(MAX_WINDOW)
    }

    /// How many attempts could start right now.
    fn free_slots(&mut self) -> usize {
        let now = self.shared.clock.monotonic();
        if now < self.not_before {
            return 0;
        }
        let free = (self.endpoint.concurrency as usize).saturating_sub(self.busy());
        free.min(usize::try_from(self.limiter.available(now)).unwrap_or(usize::MAX))
    }

    /// Starts whatever can start now, reads ahead, and sets the timer for the rest.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        match self.phase {
            Phase::Running if self.endpoint.is_active() => {
                self.claim(ctx);
                self.load(ctx);
                self.set_timer(ctx);
            }
            Phase::Running => {
                self.window.clear();
                self.set_timer(ctx);
            }
            Phase::Draining => self.leave_if_drained(ctx),
            Phase::Seeding => self.seed(ctx),
            Phase::Leaving => {}
        }
    }

    fn claim(&mut self, ctx: &mut Context<Self>) {
        let slots = self.free_slots().min(self.window.len());
        if slots == 0 {
            return;
        }
        let batch: Vec<Queued> = self.window.drain(..slots).collect();
        let ids: Vec<DeliveryId> = batch.iter().map(|queued| queued.id.clone()).collect();
        self.limiter.reserve(u32::try_from(slots).unwrap_or(u32::MAX));
        for queued in batch {
            self.claiming.insert(queued.id.clone(), queued);
        }
        let claim = Claim {
            endpoint_id: self.endpoint.id.clone(),
            epoch: self.shared.epoch,
            at: self.shared.clock.now(),
            ids: ids.clone(),
        };
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            let result = shared.committer.write(Member::claim(claim)).await;
            addr.do_send(ClaimAnswered { ids, result });
        });
    }

    fn load(&mut self, ctx: &mut Context<Self>) {
        let now = self.shared.clock.now();
        let wanted = self.look_ahead().saturating_sub(self.window.len());
        let due = self.next_due.is_some_and(|due| due <= now);
        // Half-empty is early enough to read while the rest goes out.
        let low = self.window.len() * 2 <= self.look_ahead();
        if self.loading || !due || !low || (self.window.is_empty() && self.free_slots() == 0) {
            return;
        }
        self.loading = true;
        self.hinted = None;
        let limit = self.window.len() + self.claiming.len() + wanted;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (shared, addr, id) = (Arc::clone(&self.shared), ctx.address(), self.endpoint.id.clone());
        actix::spawn(async move {
            let read = shared
                .store
                .read("due deliveries", move |conn, _| query::due(conn, &id, now, limit, MAX_WINDOW_BYTES));
            addr.do_send(Loaded(read.await));
        });
    }

    /// One timer: for the next due time, the next rate slot, or leaving.
    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let (mono, now) = (self.shared.clock.monotonic(), self.shared.clock.now());
        let work = if self.window.is_empty() { self.next_due } else { Some(now) };
        let idle = self.busy() == 0 && self.recording.is_empty() && !self.loading;
        let wait = match work.filter(|_| self.endpoint.is_active()) {
            Some(due) => {
                let until_due = due.since(now);
                let until_slot = self.limiter.wait(mono).unwrap_or_default();
                let until_allowed = self.not_before.saturating_sub(mono);
                let wait = until_due.max(until_slot).max(until_allowed);
                // With everything free a read or a claim is under way, and its answer pumps.
                if wait.is_zero() { return } else { wait }
            }
            None if idle => self.shared.config.idle_timeout,
            None => return,
        };
        let patience = self.shared.config.idle_timeout;
        let due_later = work.is_none_or(|due| due.since(now) > patience);
        let leave = idle && (due_later || !self.endpoint.is_active());
        let wait = if leave { patience } else { wait };
        // The timer wheel rounds to milliseconds; a little late is never early.
        let wait = wait + Duration::from_millis(1);
        self.timer = Some(ctx.run_later(wait, move |supervisor, ctx| {
            supervisor.timer = None;
            if leave {
                supervisor.ask_to_leave(ctx);
            } else {
                supervisor.pump(ctx);
            }
        }));
    }

    /// The registry starts another one when the next delivery is due.
    fn ask_to_leave(&mut self, ctx: &mut Context<Self>) {
        self.phase = Phase::Leaving;
        self.registry.do_send(MayLeave {
            endpoint_id: self.endpoint.id.clone(),
            generation: self.generation,
            heard: self.heard,
            supervisor: ctx.address(),
        });
    }

    fn leave_if_drained(&mut self, ctx: &mut Context<Self>) {
        if self.busy() == 0 && self.recording.is_empty() {
            self.left_cleanly = true;
            ctx.stop();
        }
    }

    fn note_due(&mut self, due: Timestamp) {
        let earlier = |present: Option<Timestamp>| Some(present.map_or(due, |present| present.min(due)));
        self.next_due = earlier(self.next_due);
        if self.loading {
            self.hinted = earlier(self.hinted);
        }
    }

    fn start_attempt(&mut self, claimed: Claimed, queued: Queued, ctx: &mut Context<Self>) {
        let (mono, now) = (self.shared.clock.monotonic(), self.shared.clock.now());
        self.limiter.start(mono);
        self.in_flight.insert(claimed.id.clone(), mono);
        tracing::debug!(delivery = %claimed.id, event = %queued.event.id, endpoint = %self.endpoint.id, "attempt of {} starts", claimed.id);
        let job = Job {
            shared: Arc::clone(&self.shared),
            supervisor: ctx.address(),
            endpoint: Arc::clone(&self.endpoint),
            event: queued.event,
            claimed,
            started_at: now,
            abort: self.roster.abort.clone(),
            _alive: self.roster.tracker.token(),
        };
        DeliveryAttempt::new(job).start();
    }

    /// Lets claims go that are not started after all.
    fn release(&self, claims: Vec<Claimed>, ctx: &mut Context<Self>) {
        if claims.is_empty() {
            return;
        }
        let (shared, addr, now) = (Arc::clone(&self.shared), ctx.address(), self.shared.clock.now());
        actix::spawn(async move {
            let released = shared.committer.run(move |tx| tx.release(&claims, now)).await;
            if let Err(error) = released {
                tracing::warn!(%error, "claims could not be released yet; the poll takes them back");
            }
            addr.do_send(Wake(Vec::new()));
        });
    }

    /// Writes an outcome down.
    fn record(
        &mut self,
        ended: AttemptEnded,
        exchange: crate::domain::delivery::Exchange,
        ctx: &mut Context<Self>,
    ) {
        let before = self.consecutive_failures;
        self.consecutive_failures =
            if exchange.outcome == Outcome::Delivered { 0 } else { before.saturating_add(1) };
        let duration = ended.ended_at.since(ended.started_at).as_secs_f64();
        self.shared.metrics.attempt(exchange.outcome, duration);
        let id = ended.claimed.id.clone();
        let outcome = exchange.outcome;
        let finished = Finished {
            claimed: ended.claimed,
            endpoint_id: self.endpoint.id.clone(),
            started_at: ended.started_at,
            ended_at: ended.ended_at,
            exchange,
            jitter: Jitter::new(rand::random()),
            consecutive_failures: self.consecutive_failures,
            health_changed: before != self.consecutive_failures,
        };
        self.recording.insert(id.clone());
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            let result = shared.committer.write(Member::record(finished)).await;
            addr.do_send(RecordAnswered { id, outcome, result });
        });
    }

    /// Successes are the rule and are counted; failures are what somebody looks for.
    fn log_outcome(&self, answer: &RecordAnswered, state: State) {
        let (id, endpoint, outcome, status) = (&answer.id, &self.endpoint.id, answer.outcome, state.status());
        if outcome == Outcome::Delivered {
            tracing::debug!(delivery = %id, %endpoint, "{id} is delivered");
        } else {
            tracing::info!(delivery = %id, %endpoint, %outcome, %status, "an attempt of {id} ended {outcome}; it is {status}");
        }
    }

    /// Logs an attempt that broke off as interrupted.
    fn record_interruption(
        &mut self,
        ended: AttemptEnded,
        counts: bool,
        why: &'static str,
        ctx: &mut Context<Self>,
    ) {
        let id = ended.claimed.id.clone();
        self.recording.insert(id.clone());
        let (shared, addr, endpoint_id) = (Arc::clone(&self.shared), ctx.address(), self.endpoint.id.clone());
        let (claimed, at) = (ended.claimed, ended.ended_at);
        actix::spawn(async move {
            let write = move |tx: &mut crate::store::Tx<'_>| {
                tx.interrupt_claim(&endpoint_id, &claimed, at, counts, why)
            };
            let result = shared.committer.run(write).await.map(|_| Recorded::Stale);
            addr.do_send(RecordAnswered { id, outcome: Outcome::Interrupted, result });
        });
    }

    /// Reads from the log what the rate limit has to remember, once everything that has ended is in
    /// it; nothing starts meanwhile.
    fn seed(&mut self, ctx: &mut Context<Self>) {
        if self.unlogged.is_some() || !self.recording.is_empty() || !self.claiming.is_empty() {
            return;
        }
        self.unlogged = Some(self.in_flight.values().copied().collect());
        let (id, limit) = (self.endpoint.id.clone(), self.endpoint.rate_limit);
        let now = self.shared.clock.now();
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            let read = shared.store.read("rate limit seed", move |conn, _| {
                let starts = match limit {
                    RateLimit::Unlimited => Vec::new(),
                    RateLimit::Sliding { starts, period } => {
                        // Twice the period: what the window's margin still remembers is in it.
                        let since = now - 2 * period.duration();
                        query::recent_starts(conn, &id, since, i64::from(starts) + MOST_IN_FLIGHT)?
                    }
                };
                Ok(Seed { starts, consecutive_failures: query::consecutive_failures(conn, &id)? })
            });
            addr.do_send(Seeded(read.await));
        });
    }

    /// Builds the limiter from the log, and from what was in flight when it was read.
    fn seeded_limiter(&self, starts: &[Timestamp], unlogged: Vec<Duration>) -> SlidingWindow {
        let (mono, now) = (self.shared.clock.monotonic(), self.shared.clock.now());
        // A start in the future, by a stepped clock, counts as now; one before this clock's
        // origin is as far back as it can tell, which only ever waits longer.
        let logged = starts.iter().map(|at| mono.saturating_sub(now.since(*at)));
        SlidingWindow::seeded(self.endpoint.rate_limit, logged.chain(unlogged))
    }
}

impl Actor for EndpointSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.shared.metrics.supervisors.inc();
        self.pump(ctx);
    }
}

impl Drop for EndpointSupervisor {
    fn drop(&mut self) {
        self.shared.metrics.supervisors.dec();
        self.registry.do_send(SupervisorGone {
            endpoint_id: self.endpoint.id.clone(),
            generation: self.generation,
            cleanly: self.left_cleanly,
        });
    }
}

/// The log of attempts has been read.
#[derive(Message)]
#[rtype(result = "()")]
struct Seeded(Result<Seed, StoreError>);

impl Handler<Seeded> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, Seeded(seed): Seeded, ctx: &mut Self::Context) {
        let unlogged = self.unlogged.take().unwrap_or_default();
        match seed {
            Ok(seed) => {
                self.limiter = self.seeded_limiter(&seed.starts, unlogged);
                self.consecutive_failures = self.consecutive_failures.max(seed.consecutive_failures);
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
        let now = self.shared.clock.now();
        for queued in hints {
            // Nothing that waits in the database may be overtaken.
            let first = self.next_due.is_none_or(|due| due > now) && !self.loading;
            let room = self.window.len() < self.look_ahead();
            if first && room && self.phase == Phase::Running && self.endpoint.is_active() {
                self.window.push_back(queued);
            } else {
                self.note_due(queued.due);
            }
        }
        self.pump(ctx);
    }
}

/// The window has been read.
#[derive(Message)]
#[rtype(result = "()")]
struct Loaded(Result<Due, StoreError>);

impl Handler<Loaded> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, Loaded(due): Loaded, ctx: &mut Self::Context) {
        self.loading = false;
        let hinted = self.hinted.take();
        match due {
            Ok(due) => {
                let present: HashSet<DeliveryId> =
                    self.window.iter().map(|queued| queued.id.clone()).collect();
                let new = due.queued.into_iter().filter(|queued| !present.contains(&queued.id));
                let new: Vec<_> = new.filter(|queued| !self.knows(&queued.id)).collect();
                self.window.extend(new);
                self.next_due = due.next;
                if let Some(hinted) = hinted {
                    self.note_due(hinted);
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = %self.endpoint.id, %error, "cannot read what is due at {}", self.endpoint.id);
                self.not_before = self.shared.clock.monotonic() + BACK_OFF;
            }
        }
        self.pump(ctx);
    }
}

/// A claim has been committed, or not.
#[derive(Message)]
#[rtype(result = "()")]
struct ClaimAnswered {
    ids: Vec<DeliveryId>,
    result: Result<Vec<Claimed>, StoreError>,
}

impl Handler<ClaimAnswered> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, answer: ClaimAnswered, ctx: &mut Self::Context) {
        let mut queued: HashMap<DeliveryId, Queued> =
            answer.ids.iter().filter_map(|id| self.claiming.remove_entry(id)).collect();
        let claims = answer.result.unwrap_or_else(|error| {
            tracing::warn!(endpoint = %self.endpoint.id, %error, "a claim of {} was not committed", self.endpoint.id);
            self.not_before = self.shared.clock.monotonic() + BACK_OFF;
            self.note_due(self.shared.clock.now());
            Vec::new()
        });
        for _ in claims.len()..answer.ids.len() {
            self.limiter.release();
        }
        // The last look before anything goes out: all may have changed while the claim committed.
        let may_start = self.endpoint.is_active() && self.phase == Phase::Running;
        let mut released = Vec::new();
        for claimed in claims {
            match queued.remove(&claimed.id) {
                Some(queued) if may_start => self.start_attempt(claimed, queued, ctx),
                _ => {
                    self.limiter.release();
                    self.note_due(claimed.claimed_at);
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
            Ended::Finished(exchange) => self.record(report, exchange, ctx),
            Ended::NotSent(why) => {
                tracing::warn!(endpoint = %self.endpoint.id, %why, "nothing to send with; trying again shortly");
                if let Some(started) = started {
                    self.limiter.take_back(started);
                }
                self.not_before = self.shared.clock.monotonic() + BACK_OFF;
                self.note_due(report.ended_at);
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
struct RecordAnswered {
    id: DeliveryId,
    outcome: Outcome,
    result: Result<Recorded, StoreError>,
}

impl Handler<RecordAnswered> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, answer: RecordAnswered, ctx: &mut Self::Context) {
        self.recording.remove(&answer.id);
        match answer.result {
            Ok(Recorded::Written(life)) => {
                self.log_outcome(&answer, life.state);
                if let State::Pending(Wait::Until(due)) = life.state {
                    self.note_due(due);
                }
            }
            Ok(Recorded::Stale) if answer.outcome == Outcome::Interrupted => {
                self.note_due(self.shared.clock.now());
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
    fn handle(&mut self, Changed { endpoint, resumed }: Changed, ctx: &mut Self::Context) {
        self.heard += 1;
        // Two changes may be told in another order than they were committed.
        if endpoint.version < self.endpoint.version {
            return;
        }
        let limit_changed = endpoint.rate_limit != self.endpoint.rate_limit;
        self.endpoint = endpoint;
        if resumed {
            self.consecutive_failures = 0;
        }
        self.note_due(self.shared.clock.now());
        if limit_changed && self.phase == Phase::Running {
            self.phase = Phase::Seeding;
        }
        self.pump(ctx);
    }
}

impl Handler<Polled> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, polled: Polled, ctx: &mut Self::Context) {
        self.heard += 1;
        let unknown: HashSet<DeliveryId> = polled.sending.into_iter().filter(|id| !self.knows(id)).collect();
        // Twice in a row: one snapshot may be older than what has happened here since.
        let stuck: Vec<DeliveryId> = unknown.intersection(&self.strays).cloned().collect();
        self.strays = unknown;
        if !stuck.is_empty() {
            tracing::warn!(endpoint = %self.endpoint.id, rows = stuck.len(), "taking back claims that no attempt holds");
            let (shared, addr, now) = (Arc::clone(&self.shared), ctx.address(), self.shared.clock.now());
            actix::spawn(async move {
                let write = move |tx: &mut crate::store::Tx<'_>| {
                    let claims = tx.claims_of(&stuck)?;
                    tx.release(&claims, now)
                };
                if let Err(error) = shared.committer.run(write).await {
                    tracing::warn!(%error, "they could not be taken back yet");
                }
                addr.do_send(Wake(Vec::new()));
            });
        }
        if let Some(next) = polled.next {
            self.note_due(next);
        }
        self.pump(ctx);
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
        let (mono, now) = (self.shared.clock.monotonic(), self.shared.clock.now());
        let wait = self.limiter.wait(mono);
        MessageResult(Live {
            in_flight: self.in_flight.len(),
            rate_open: self.limiter.available(mono) > 0,
            next_slot_at: wait.map(|wait| now + wait),
        })
    }
}

#[cfg(feature = "testing")]
impl Handler<InjectPanic> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, _: InjectPanic, _: &mut Self::Context) {
        panic!("injected into a supervisor");
    }
}
