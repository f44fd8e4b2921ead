//! What the registry is told, by publishers, supervisors, the keeper and other processes, and what
//! it does then.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::{Entry, Registry};
use crate::domain::delivery::Queued;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::engine::supervisor::{Changed, EndpointSupervisor, Inspect, Leave, Live, Wake};
use crate::store::Wake as Committed;
use crate::store::query::StoredHealth;

/// From the committer: deliveries that were just made. A hint; the poll finds what is lost of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct NewDeliveries(pub(in crate::engine) Vec<Committed>);

/// An endpoint was changed, paused, resumed or created. Answered once its supervisor knows.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct EndpointChanged {
    pub(in crate::engine) endpoint: Arc<Endpoint>,
    /// How it is doing, where that has been changed as well.
    pub(in crate::engine) health: Option<StoredHealth>,
}

/// Something became due at an endpoint other than by publishing.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Nudge(pub(in crate::engine) EndpointId);

/// From a supervisor with nothing to do.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct MayLeave {
    pub(in crate::engine) endpoint_id: EndpointId,
    pub(in crate::engine) generation: u64,
    /// How many of our messages it had got by then.
    pub(in crate::engine) heard: u64,
    pub(in crate::engine) supervisor: Addr<EndpointSupervisor>,
}

/// From a supervisor's `Drop`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct SupervisorGone {
    pub(in crate::engine) endpoint_id: EndpointId,
    pub(in crate::engine) generation: u64,
    pub(in crate::engine) cleanly: bool,
}

/// From the keeper: start nothing more in a shard; answered by `done` when every supervisor of it
/// has left.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Vacate {
    pub(in crate::engine) shard: Shard,
    pub(in crate::engine) done: oneshot::Sender<()>,
}

/// From the keeper: these shards are not ours any more. What is in flight in them is broken off.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Lost(pub(in crate::engine) Vec<Shard>);

/// From another process: something is due at these endpoints. A hint, as all that comes from there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Due(pub(in crate::engine) Vec<EndpointId>);

/// Look for due work, and for changes, without waiting for the next poll.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct PollNow;

/// Break off what is still in flight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct AbortAll;

/// What an endpoint's supervisor is doing; `None` where there is none.
#[derive(Debug, Message)]
#[rtype(result = "Option<Live>")]
pub(in crate::engine) struct InspectEndpoint(pub(in crate::engine) EndpointId);

/// Makes an endpoint's supervisor panic. False where there is none.
#[cfg(feature = "testing")]
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(in crate::engine) struct PanicSupervisor(pub(in crate::engine) EndpointId);

impl Handler<NewDeliveries> for Registry {
    type Result = ();
    fn handle(&mut self, NewDeliveries(new): NewDeliveries, ctx: &mut Self::Context) {
        let mut by_endpoint: HashMap<EndpointId, (Arc<Endpoint>, Vec<Queued>)> = HashMap::new();
        for Committed { endpoint, queued } in new {
            by_endpoint
                .entry(endpoint.id.clone())
                .or_insert_with(|| (endpoint, Vec::new()))
                .1
                .push(queued);
        }
        for (endpoint, queued) in by_endpoint.into_values() {
            if let Some(Entry::Running {
                supervisor, told, ..
            }) = self.supervisor(&endpoint, ctx)
            {
                *told += 1;
                supervisor.do_send(Wake(queued));
            }
        }
    }
}

impl Handler<EndpointChanged> for Registry {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, changed: EndpointChanged, ctx: &mut Self::Context) -> Self::Result {
        let EndpointChanged { endpoint, health } = changed;
        let Some(Entry::Running {
            supervisor, told, ..
        }) = self.supervisor(&endpoint, ctx)
        else {
            return Box::pin(async {});
        };
        *told += 1;
        let told = supervisor.send(Changed { endpoint, health });
        // A supervisor that is gone by then reads the endpoint anew when it is replaced.
        Box::pin(async move {
            let _ = told.await;
        })
    }
}

impl Handler<Nudge> for Registry {
    type Result = ();
    fn handle(&mut self, Nudge(id): Nudge, ctx: &mut Self::Context) {
        self.nudge(id, ctx);
    }
}

impl Handler<MayLeave> for Registry {
    type Result = ();
    fn handle(&mut self, ask: MayLeave, _: &mut Self::Context) {
        let up_to_date = matches!(
            self.entry(&ask.endpoint_id),
            Some(Entry::Running { generation, told, .. }) if *generation == ask.generation && *told == ask.heard
        );
        if up_to_date {
            self.remove(&ask.endpoint_id);
        }
        ask.supervisor
            .do_send(if up_to_date { Leave::Go } else { Leave::Stay });
    }
}

impl Handler<SupervisorGone> for Registry {
    type Result = ();
    fn handle(&mut self, gone: SupervisorGone, ctx: &mut Self::Context) {
        let roster = match self.entry(&gone.endpoint_id) {
            Some(Entry::Running {
                generation, roster, ..
            }) if *generation == gone.generation => roster.clone(),
            _ => return,
        };
        if gone.cleanly {
            self.remove(&gone.endpoint_id);
        } else {
            self.recover(gone.endpoint_id, roster, ctx);
        }
    }
}

impl Handler<Due> for Registry {
    type Result = ();
    fn handle(&mut self, Due(endpoints): Due, ctx: &mut Self::Context) {
        for id in endpoints {
            if self.shared.leases.for_new_work(&id).is_some() {
                self.nudge(id, ctx);
            }
        }
    }
}

impl Handler<PollNow> for Registry {
    type Result = ();
    fn handle(&mut self, _: PollNow, ctx: &mut Self::Context) {
        self.poll(ctx);
    }
}

impl Handler<Vacate> for Registry {
    type Result = ();
    fn handle(&mut self, vacate: Vacate, _: &mut Self::Context) {
        let shard = vacate.shard;
        self.vacating.push(vacate);
        self.drain(shard, false);
        self.answer_vacated(shard);
    }
}

impl Handler<Lost> for Registry {
    type Result = ();
    fn handle(&mut self, Lost(shards): Lost, _: &mut Self::Context) {
        for shard in shards {
            self.drain(shard, true);
        }
    }
}

impl Handler<AbortAll> for Registry {
    type Result = ();
    fn handle(&mut self, _: AbortAll, _: &mut Self::Context) {
        for entry in self.entries.values().flat_map(HashMap::values) {
            if let Entry::Running { roster, .. } = entry {
                roster.abort.cancel();
            }
        }
    }
}

impl Handler<InspectEndpoint> for Registry {
    type Result = ResponseFuture<Option<Live>>;
    fn handle(
        &mut self,
        InspectEndpoint(id): InspectEndpoint,
        _: &mut Self::Context,
    ) -> Self::Result {
        let asked = match self.entry(&id) {
            Some(Entry::Running { supervisor, .. }) => Some(supervisor.send(Inspect)),
            _ => None,
        };
        Box::pin(async move { asked?.await.ok() })
    }
}

#[cfg(feature = "testing")]
impl Handler<PanicSupervisor> for Registry {
    type Result = bool;
    fn handle(&mut self, PanicSupervisor(id): PanicSupervisor, _: &mut Self::Context) -> bool {
        match self.entry(&id) {
            Some(Entry::Running { supervisor, .. }) => {
                supervisor.do_send(crate::engine::supervisor::InjectPanic);
                true
            }
            _ => false,
        }
    }
}
