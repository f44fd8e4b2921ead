//! The supervisor's actor: one handler per message, each of which consults the lane.

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;

use super::actions::{Action, Moment};
use super::attempt::AttemptTasks;
use super::lane::Lane;
#[cfg(feature = "testing")]
use super::messages::InjectPanic;
use super::messages::{
    Changed, ClaimAnswered, Drain, DueLoaded, HealthLoaded, HistoryLoaded, Inspect,
    InterruptionAnswered, NewlyDue, PermitGranted, Polled, Recheck, RecordAnswered, Released,
    SupervisorStatus, TailEnded,
};
use super::read_ahead::Share;
use crate::domain::ids::DeliveryKey;
use crate::domain::random;
use crate::domain::retry::Jitter;
use crate::engine::context::EngineContext;
use crate::engine::messages::{
    AttemptEnded, Exit, StopReply, StopRequest, SupervisorQuiet, SupervisorStopped,
};
use crate::engine::sending::Place;
use crate::store::{DuePage, LoadedEndpoint, RateLimitHistory};

/// The registry, as far as a supervisor knows it.
pub(crate) struct ToRegistry {
    pub(crate) stop: Recipient<StopRequest>,
    pub(crate) quiet: Recipient<SupervisorQuiet>,
    pub(crate) stopped: Recipient<SupervisorStopped>,
    /// Number of this supervisor among those of its endpoint.
    pub(crate) generation: u64,
    /// The lane's low-water mark in microseconds, for the registry's poll.
    pub(crate) mark: Arc<AtomicI64>,
}

pub(crate) struct EndpointSupervisor {
    pub(super) context: Arc<EngineContext>,
    pub(super) place: Arc<Place>,
    pub(super) registry: ToRegistry,
    pub(super) lane: Lane,
    pub(super) tasks: AttemptTasks,
    /// Permits of the claims that are being committed.
    pub(super) permits: BTreeMap<DeliveryKey, OwnedSemaphorePermit>,
    pub(super) timer: Option<SpawnHandle>,
    /// Its initial state; `None` once it runs.
    loaded: Option<(RateLimitHistory, DuePage)>,
}

impl EndpointSupervisor {
    pub(crate) fn new(
        context: Arc<EngineContext>,
        place: Place,
        registry: ToRegistry,
        loaded: LoadedEndpoint,
        tasks: AttemptTasks,
    ) -> Self {
        let LoadedEndpoint {
            endpoint,
            history,
            due,
            tail,
            number: _,
        } = loaded;
        let now = context.clock.read();
        let mut lane = Lane::new(endpoint, context.config.idle_timeout);
        lane.count_tail(&tail, now.wall, now.monotonic);
        Self {
            context,
            place: Arc::new(place),
            registry,
            lane,
            tasks,
            permits: BTreeMap::new(),
            timer: None,
            loaded: Some((history, due)),
        }
    }

    fn moment(&self) -> Moment {
        let now = self.context.clock.read();
        Moment {
            wall: now.wall,
            schedule: now.schedule,
            monotonic: now.monotonic,
            horizon: self.context.horizon.get(),
            lease: self.context.leases.for_new_work(&self.lane.endpoint().id),
            share: Share::among(self.context.threads.supervisors()),
        }
    }

    /// Carries out actions, and then everything that they have made possible.
    fn advance(&mut self, actions: Vec<Action>, moment: &Moment, ctx: &mut Context<Self>) {
        self.advance_with_permit(None, actions, moment, ctx);
    }

    /// Like [`advance`](Self::advance), with a permit that was waited for. If it is not needed, it
    /// is returned.
    fn advance_with_permit(
        &mut self,
        granted: Option<OwnedSemaphorePermit>,
        actions: Vec<Action>,
        moment: &Moment,
        ctx: &mut Context<Self>,
    ) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.carry_out(actions, Vec::new(), ctx);
        let wanted = self.lane.permits_wanted(moment);
        let free = || Arc::clone(&self.context.permits).try_acquire_owned().ok();
        let permits: Vec<_> = granted
            .into_iter()
            .chain(std::iter::from_fn(free))
            .take(wanted)
            .collect();
        let actions = self.lane.advance(moment, permits.len());
        let mark = self.lane.low_water_mark().as_micros();
        self.registry.mark.store(mark, Ordering::Relaxed);
        self.carry_out(actions, permits, ctx);
    }
}

impl Actor for EndpointSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.context.metrics.supervisors.inc();
        let moment = self.moment();
        let mut actions = Vec::new();
        if let Some((history, due)) = self.loaded.take() {
            actions.extend(self.lane.on_history_loaded(Ok(history), &moment));
            actions.extend(self.lane.on_due_loaded(Ok(due), &moment));
        }
        self.advance(actions, &moment, ctx);
    }
}

impl Drop for EndpointSupervisor {
    fn drop(&mut self) {
        // Runs during a panic as well, so the registry always learns of the end.
        self.context.metrics.supervisors.dec();
        self.registry.stopped.do_send(SupervisorStopped {
            endpoint_id: self.lane.endpoint().id.clone(),
            generation: self.registry.generation,
            exit: if self.lane.has_stopped() {
                Exit::Clean
            } else {
                Exit::Panicked
            },
        });
    }
}

/// Handles a message with one of the lane's inputs, which gets the message and the moment.
macro_rules! handle {
    ($message:ty, |$lane:ident, $input:pat_param, $moment:ident| $actions:expr) => {
        impl Handler<$message> for EndpointSupervisor {
            type Result = ();
            fn handle(&mut self, $input: $message, ctx: &mut Self::Context) {
                let $moment = &self.moment();
                let $lane = &mut self.lane;
                let actions = $actions;
                self.advance(actions, $moment, ctx);
            }
        }
    };
}

handle!(HistoryLoaded, |lane, HistoryLoaded(read), moment| lane
    .on_history_loaded(read, moment));
handle!(DueLoaded, |lane, DueLoaded(page), moment| lane
    .on_due_loaded(page, moment));
handle!(Polled, |lane, polled, moment| lane.on_polled(polled));
handle!(StopReply, |lane, reply, moment| lane.on_stop_reply(reply));
handle!(RecordAnswered, |lane, answer, moment| {
    lane.on_recorded(answer.recorded, answer.result, moment)
});
handle!(InterruptionAnswered, |lane, answer, moment| {
    lane.on_interruption_recorded(answer.key, answer.result, moment)
});
handle!(HealthLoaded, |lane, HealthLoaded(stored), moment| {
    lane.on_health_loaded(stored);
    Vec::new()
});
handle!(NewlyDue, |lane, NewlyDue(new), moment| {
    lane.on_newly_due(new, moment);
    Vec::new()
});
handle!(Changed, |lane, changed, moment| {
    lane.on_changed(changed, moment);
    Vec::new()
});
handle!(Drain, |lane, _drain, moment| {
    lane.on_drain();
    Vec::new()
});
handle!(Released, |lane, _released, moment| {
    lane.on_released();
    Vec::new()
});
handle!(TailEnded, |lane, TailEnded(keys), moment| lane
    .on_tail_ended(&keys, moment));
handle!(Recheck, |_lane, _recheck, moment| Vec::new());

impl Handler<AttemptEnded> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, ended: AttemptEnded, ctx: &mut Self::Context) {
        let jitter = Jitter::new(random::share(self.context.random()));
        let moment = self.moment();
        let actions = self.lane.on_attempt_ended(ended, jitter, &moment);
        self.advance(actions, &moment, ctx);
    }
}

impl Handler<ClaimAnswered> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, answer: ClaimAnswered, ctx: &mut Self::Context) {
        let moment = self.moment();
        let actions = self.lane.on_claimed(&answer.keys, answer.result, &moment);
        self.carry_out(actions, Vec::new(), ctx);
        // Permits of claims that were not started are returned.
        for key in &answer.keys {
            self.permits.remove(key);
        }
        self.advance(Vec::new(), &moment, ctx);
    }
}

impl Handler<PermitGranted> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, PermitGranted(permit): PermitGranted, ctx: &mut Self::Context) {
        self.lane.on_permit_granted();
        let moment = self.moment();
        self.advance_with_permit(Some(permit), Vec::new(), &moment, ctx);
    }
}

impl Handler<Inspect> for EndpointSupervisor {
    type Result = MessageResult<Inspect>;
    fn handle(&mut self, _: Inspect, _: &mut Self::Context) -> Self::Result {
        let moment = self.moment();
        let status: SupervisorStatus = self.lane.status(&moment);
        MessageResult(status)
    }
}

#[cfg(feature = "testing")]
impl Handler<InjectPanic> for EndpointSupervisor {
    type Result = ();
    fn handle(&mut self, _: InjectPanic, _: &mut Self::Context) {
        panic!("injected into a supervisor");
    }
}
