//! EndpointSupervisor: the one actor that sends to an endpoint.
//!
//! It owns the endpoint's window of due deliveries, its rate limiter, its concurrency count and
//! one timer. It claims only what can start now, and looks again right before each start. What it
//! holds in memory is a copy: whatever it loses, the database still has.
//!
//! It never writes (the committer does) and never reads on its own thread (the store does).

mod inbox;
mod outcome;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[cfg(feature = "testing")]
pub(super) use self::inbox::InjectPanic;
pub(crate) use self::inbox::Live;
pub(super) use self::inbox::{Changed, Drain, Inspect, Leave, Polled, Wake};
use self::inbox::{ClaimAnswered, HealthChanged, Loaded, Seeded, SlotGranted};
use super::Shared;
use super::attempt::{DeliveryAttempt, Job};
use super::registry::{MayLeave, Registry, SupervisorGone};
use super::seed::Seed;
use super::window::Window;
use crate::domain::breaker::Health;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Queued};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::DeliveryId;
use crate::domain::lease::{Lease, Shard};
use crate::domain::rate_limit::SlidingWindow;
use crate::store::query::{self, ClaimName, StoredHealth};
use crate::store::{Claim, Member};

/// How long to keep off a database or an operating system that had nothing to give.
const BACK_OFF: Duration = Duration::from_secs(1);

/// How long to keep off claiming after a claim that got nothing.
const BREATH: Duration = Duration::from_millis(100);

/// The most due deliveries that an endpoint reads ahead, and their bytes.
const MAX_WINDOW: usize = 256;
const MAX_WINDOW_BYTES: usize = 1024 * 1024;

/// The same of all endpoints together: each has its share, and each at least so many deliveries.
const MAX_WINDOWS: usize = 16 * 1024;
const LEAST_WINDOW: usize = 3;
const MAX_WINDOWS_BYTES: usize = 64 * 1024 * 1024;

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

pub(super) struct EndpointSupervisor {
    shared: Arc<Shared>,
    registry: Addr<Registry>,
    endpoint: Arc<Endpoint>,
    /// Which life of this endpoint's supervisor this is.
    generation: u64,
    roster: Roster,
    phase: Phase,
    limiter: SlidingWindow,
    /// Breaker and rests. `None` until it has been read.
    health: Option<StoredHealth>,
    /// Due deliveries in the order they are to be sent, read ahead of demand.
    window: Window,
    /// Claims that are being committed, each with its place among all attempts of the engine.
    claiming: HashMap<DeliveryId, (Queued, OwnedSemaphorePermit)>,
    /// All places are taken, and it stands in line for one.
    in_line: bool,
    /// Attempts on the wire, with the monotonic time of each start.
    in_flight: HashMap<DeliveryId, Duration>,
    /// Outcomes that are being committed.
    recording: HashSet<DeliveryId>,
    /// Deliveries whose last request was lost with its connection: the next one gets a new
    /// connection.
    lost: HashSet<DeliveryId>,
    /// While the log is being read: the starts that it cannot hold yet.
    unlogged: Option<Vec<Duration>>,
    /// Rows that the poll found `sending` and nothing here knew of.
    strays: HashSet<ClaimName>,
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
            health: None,
            window: Window::unread(),
            claiming: HashMap::new(),
            in_line: false,
            in_flight: HashMap::new(),
            recording: HashSet::new(),
            lost: HashSet::new(),
            unlogged: None,
            strays: HashSet::new(),
            not_before: Duration::ZERO,
            timer: None,
            heard: 0,
            left_cleanly: false,
        }
    }

    /// What is due is judged by this time.
    fn schedule_now(&self) -> Timestamp {
        self.shared.clock.schedule_now()
    }

    fn health(&self) -> Health {
        self.health.unwrap_or_default().health
    }

    /// Takes over what somebody else made of the endpoint's health, where it is newer than what is
    /// known.
    fn adopt_health(&mut self, stored: StoredHealth) -> bool {
        let is_newer = self.health.is_some_and(|known| known.epoch < stored.epoch);
        if is_newer {
            self.health = Some(stored);
        }
        is_newer
    }

    /// Deliveries that take a place. A lost one keeps its place while its row is written: it goes
    /// next.
    fn busy(&self) -> usize {
        let lost = self
            .lost
            .iter()
            .filter(|id| self.recording.contains(*id))
            .count();
        self.in_flight.len() + self.claiming.len() + lost
    }

    fn knows(&self, id: &DeliveryId) -> bool {
        self.claiming.contains_key(id)
            || self.in_flight.contains_key(id)
            || self.recording.contains(id)
    }

    /// How far the window reads ahead.
    fn look_ahead(&self) -> usize {
        let share = (MAX_WINDOWS / self.sharers()).max(LEAST_WINDOW);
        (4 * self.endpoint.concurrency as usize)
            .min(MAX_WINDOW)
            .min(share)
    }

    /// How many bytes of bodies it may have at hand.
    fn room(&self) -> usize {
        MAX_WINDOW_BYTES
            .min(MAX_WINDOWS_BYTES / self.sharers())
            .saturating_sub(self.window.bytes())
            .max(1)
    }

    /// The supervisors that share what may be read ahead, this one included.
    fn sharers(&self) -> usize {
        usize::try_from(self.shared.metrics.supervisors.get())
            .unwrap_or_default()
            .max(1)
    }

    /// How many attempts could start right now.
    fn free_slots(&mut self) -> usize {
        let now = self.shared.clock.monotonic();
        if now < self.not_before {
            return 0;
        }
        let allowed =
            self.health()
                .allowance(self.schedule_now(), self.endpoint.concurrency) as usize;
        let free = allowed.saturating_sub(self.busy());
        free.min(usize::try_from(self.limiter.available(now)).unwrap_or(usize::MAX))
    }

    /// Starts whatever can start now, reads ahead, and sets the timer for the rest.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        self.pump_with(None, ctx);
    }

    /// As [`pump`](Self::pump), with a place that was stood in line for; what it does not need of
    /// it goes to the next one.
    fn pump_with(&mut self, granted: Option<OwnedSemaphorePermit>, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if self.phase == Phase::Running && self.limiter.limit() != self.endpoint.rate_limit {
            self.phase = Phase::Seeding;
        }
        match self.phase {
            Phase::Running if self.endpoint.is_active() => {
                self.claim(granted, ctx);
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

    fn claim(&mut self, granted: Option<OwnedSemaphorePermit>, ctx: &mut Context<Self>) {
        let slots = self.free_slots().min(self.window.len());
        if slots == 0 {
            return;
        }
        // Not ours any more, or being left: the registry tells in a moment.
        let Some(lease) = self.shared.leases.for_new_work(&self.endpoint.id) else {
            return;
        };
        let permits = self.take_places(slots, granted, ctx);
        let batch = self.window.take(permits.len());
        if batch.is_empty() {
            return;
        }
        let ids: Vec<DeliveryId> = batch.iter().map(|queued| queued.id.clone()).collect();
        let wanted = batch
            .iter()
            .map(|queued| (queued.id.clone(), queued.seen))
            .collect();
        self.limiter
            .reserve(u32::try_from(ids.len()).unwrap_or(u32::MAX));
        for (queued, permit) in batch.into_iter().zip(permits) {
            self.claiming.insert(queued.id.clone(), (queued, permit));
        }
        let (at, due_by) = (self.shared.clock.now(), self.schedule_now());
        let claim = Claim {
            endpoint_id: self.endpoint.id.clone(),
            lease,
            at,
            due_by,
            wanted,
        };
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            let result = shared.committer.write(Member::claim(claim)).await;
            addr.do_send(ClaimAnswered { ids, result });
        });
    }

    /// At most `wanted` places among all attempts of the engine. Where there are fewer, it stands
    /// in line for one more: one at a time, so that an endpoint with a backlog is not before the
    /// others.
    fn take_places(
        &mut self,
        wanted: usize,
        granted: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) -> Vec<OwnedSemaphorePermit> {
        let free = || Arc::clone(&self.shared.slots).try_acquire_owned().ok();
        let places: Vec<_> = granted
            .into_iter()
            .chain(std::iter::from_fn(free))
            .take(wanted)
            .collect();
        if places.len() < wanted && !self.in_line {
            self.in_line = true;
            let (slots, addr) = (Arc::clone(&self.shared.slots), ctx.address());
            actix::spawn(async move {
                if let Ok(place) = slots.acquire_owned().await {
                    addr.do_send(SlotGranted(place));
                }
            });
        }
        places
    }

    fn load(&mut self, ctx: &mut Context<Self>) {
        if self.window.len() == 0 && self.free_slots() == 0 {
            return;
        }
        let now = self.schedule_now();
        let Some(more) = self.window.start_loading(now, self.look_ahead()) else {
            return;
        };
        // The rows at hand are counted again: only then is it known what comes after them.
        let at_hand: HashSet<DeliveryId> = self
            .window
            .ids()
            .chain(self.claiming.keys())
            .cloned()
            .collect();
        let limit = i64::try_from(at_hand.len() + more).unwrap_or(i64::MAX);
        let room = self.room();
        let (shared, addr, id) = (
            Arc::clone(&self.shared),
            ctx.address(),
            self.endpoint.id.clone(),
        );
        actix::spawn(async move {
            let read = shared.store.read("due deliveries", move |conn, _| {
                query::due(conn, &id, now, limit, room, &at_hand)
            });
            addr.do_send(Loaded(read.await));
        });
    }

    /// One timer: for the next due time, the next rate slot, or leaving.
    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let (mono, now) = (self.shared.clock.monotonic(), self.schedule_now());
        let work = self.window.next_work(now);
        let idle = self.busy() == 0 && self.recording.is_empty() && !self.window.is_loading();
        let wait = match work.filter(|_| self.endpoint.is_active()) {
            Some(due) => {
                let until_due = due.since(now);
                let until_slot = self.limiter.wait(mono).unwrap_or_default();
                let until_allowed = self.not_before.saturating_sub(mono);
                let until_well = self.health().opens_at();
                let until_well = until_well.map(|at| at.since(now)).unwrap_or_default();
                let wait = until_due.max(until_slot).max(until_allowed).max(until_well);
                // Something under way has an answer, which pumps. Else the clock went on since.
                if wait.is_zero() && (!idle || self.in_line) {
                    return;
                }
                wait
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

    fn start_attempt(
        &mut self,
        claimed: Claimed,
        (queued, place): (Queued, OwnedSemaphorePermit),
        ctx: &mut Context<Self>,
    ) {
        let (mono, now) = (self.shared.clock.monotonic(), self.shared.clock.now());
        self.limiter.start(mono);
        let id = claimed.id.clone();
        self.in_flight.insert(id.clone(), mono);
        tracing::debug!(delivery = %claimed.id, event = %queued.event.id, endpoint = %self.endpoint.id, "attempt of {} starts", claimed.id);
        let job = Job {
            shared: Arc::clone(&self.shared),
            supervisor: ctx.address(),
            endpoint: Arc::clone(&self.endpoint),
            event: queued.event,
            lease: Lease {
                shard: Shard::of(&self.endpoint.id),
                epoch: claimed.epoch,
            },
            claimed,
            started_at: now,
            scheduled_at: self.schedule_now(),
            fresh_connection: self.lost.remove(&id),
            abort: self.roster.abort.clone(),
            _slot: place,
            _alive: self.roster.tracker.token(),
        };
        DeliveryAttempt::new(job).start();
    }

    /// Reads the endpoint's health anew, which somebody else has changed.
    fn read_health(&self, ctx: &mut Context<Self>) {
        let (shared, addr, id) = (
            Arc::clone(&self.shared),
            ctx.address(),
            self.endpoint.id.clone(),
        );
        actix::spawn(async move {
            let read = shared
                .store
                .read("health", move |conn, _| query::health(conn, &id))
                .await;
            match read {
                Ok(stored) => addr.do_send(HealthChanged(stored)),
                Err(error) => {
                    tracing::warn!(%error, "cannot read an endpoint's health yet; the poll does")
                }
            }
        });
    }

    /// Lets claims go that are not started after all.
    fn release(&self, claims: Vec<Claimed>, ctx: &mut Context<Self>) {
        if claims.is_empty() {
            return;
        }
        let (shared, addr, now) = (
            Arc::clone(&self.shared),
            ctx.address(),
            self.shared.clock.now(),
        );
        actix::spawn(async move {
            let released = shared
                .committer
                .run(move |tx| tx.release(&claims, now))
                .await;
            if let Err(error) = released {
                tracing::warn!(%error, "claims could not be released yet; the poll takes them back");
            }
            addr.do_send(Wake(Vec::new()));
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
        let (shared, addr) = (Arc::clone(&self.shared), ctx.address());
        actix::spawn(async move {
            let clock = Arc::clone(&shared.clock);
            let read = move |conn: &mut _, _: &_| Seed::read(conn, &id, limit, &*clock);
            let read = shared.store.read("rate limit seed", read);
            addr.do_send(Seeded(read.await));
        });
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
