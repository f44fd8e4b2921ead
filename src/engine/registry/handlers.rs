//! The registry's message handlers.

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::collections::BTreeMap;

use actix::prelude::*;

use super::actor::Registry;
use super::loading::MissedChange;
#[cfg(feature = "testing")]
use super::messages::PanicSupervisor;
use super::messages::{
    AbortAll, DeliveriesCommitted, DrainShard, EndpointChanged, EndpointDue, EndpointsDue,
    InspectEndpoint, LeasesLost, PollNow,
};
use super::table::{Ended, Route};
use crate::domain::delivery::Queued;
use crate::domain::ids::EndpointId;
use crate::engine::messages::{StopReply, StopRequest, SupervisorQuiet, SupervisorStopped};
use crate::engine::supervisor::{Changed, Inspect, NewlyDue, SupervisorStatus};
use crate::store::CommittedDelivery;

impl Handler<DeliveriesCommitted> for Registry {
    type Result = ();
    fn handle(&mut self, DeliveriesCommitted(new): DeliveriesCommitted, ctx: &mut Self::Context) {
        let mut by_endpoint: BTreeMap<EndpointId, Vec<Queued>> = BTreeMap::new();
        for CommittedDelivery {
            endpoint_id,
            queued,
        } in new
        {
            by_endpoint.entry(endpoint_id).or_default().push(queued);
        }
        for (id, queued) in by_endpoint {
            if self.context.leases.for_new_work(&id).is_none() {
                continue;
            }
            match self.table.route(&id) {
                Route::Deliver(supervisor) => supervisor.address.do_send(NewlyDue(queued)),
                Route::Recovering => {}
                // The read that a new supervisor starts with includes them.
                Route::Absent => self.loading.add_due(&id, self.context.clock.schedule_now()),
            }
        }
        self.load(ctx);
    }
}

impl Handler<EndpointChanged> for Registry {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, changed: EndpointChanged, ctx: &mut Self::Context) -> Self::Result {
        let EndpointChanged { endpoint, health } = changed;
        let id = &endpoint.id;
        if self.context.leases.for_new_work(id).is_none() {
            return Box::pin(async {});
        }
        match self.table.route(id) {
            Route::Deliver(supervisor) => {
                let notified = supervisor.address.send(Changed { endpoint, health });
                // A supervisor that has died meanwhile reads the endpoint again when it is replaced.
                Box::pin(async move {
                    let _ = notified.await;
                })
            }
            Route::Recovering => Box::pin(async {}),
            Route::Absent => {
                if endpoint.is_active() {
                    self.loading.add_due(id, self.context.clock.schedule_now());
                }
                self.loading.note_change(MissedChange { endpoint, health });
                self.load(ctx);
                Box::pin(async {})
            }
        }
    }
}

impl Handler<EndpointDue> for Registry {
    type Result = ();
    fn handle(&mut self, EndpointDue(id): EndpointDue, ctx: &mut Self::Context) {
        self.notify_due(&id);
        self.load(ctx);
    }
}

impl Handler<EndpointsDue> for Registry {
    type Result = ();
    fn handle(&mut self, EndpointsDue(endpoints): EndpointsDue, ctx: &mut Self::Context) {
        for id in endpoints {
            if self.context.leases.for_new_work(&id).is_some() {
                self.notify_due(&id);
                // A former owner may have recorded an attempt.
                if self.tails.contains(&id) {
                    self.check_tails(ctx);
                }
            }
        }
        self.load(ctx);
    }
}

impl Handler<StopRequest> for Registry {
    type Result = ();
    fn handle(&mut self, ask: StopRequest, _: &mut Self::Context) {
        let reply = self
            .table
            .may_stop(&ask.endpoint_id, ask.generation, ask.received);
        if reply == StopReply::Stop {
            self.draining.ended(&ask.endpoint_id);
        }
        ask.reply_to.do_send(reply);
    }
}

impl Handler<SupervisorStopped> for Registry {
    type Result = ();
    fn handle(&mut self, stopped: SupervisorStopped, ctx: &mut Self::Context) {
        match self
            .table
            .ended(&stopped.endpoint_id, stopped.generation, stopped.exit)
        {
            Ended::Ignore => {}
            Ended::Removed => {
                let id = &stopped.endpoint_id;
                self.draining.ended(id);
                // This node owns its shard again.
                if self.context.leases.for_new_work(id).is_some() {
                    self.notify_due(id);
                    self.load(ctx);
                }
            }
            Ended::Recover(supervisor) => {
                self.recover(stopped.endpoint_id, supervisor.tasks, ctx);
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

impl Handler<DrainShard> for Registry {
    type Result = ();
    fn handle(&mut self, drain: DrainShard, _: &mut Self::Context) {
        let shard = drain.shard;
        self.draining.begin(drain, self.table.endpoints_of(shard));
        self.drain(shard, false);
    }
}

impl Handler<SupervisorQuiet> for Registry {
    type Result = ();
    fn handle(
        &mut self,
        SupervisorQuiet { endpoint_id, quiet }: SupervisorQuiet,
        _: &mut Self::Context,
    ) {
        self.draining.quiet(&endpoint_id, quiet);
    }
}

impl Handler<LeasesLost> for Registry {
    type Result = ();
    fn handle(&mut self, LeasesLost(shards): LeasesLost, _: &mut Self::Context) {
        for shard in shards {
            self.drain(shard, true);
        }
    }
}

impl Handler<AbortAll> for Registry {
    type Result = ();
    fn handle(&mut self, _: AbortAll, _: &mut Self::Context) {
        for supervisor in self.table.all() {
            supervisor.tasks.abort.cancel();
        }
    }
}

impl Handler<InspectEndpoint> for Registry {
    type Result = ResponseFuture<Option<SupervisorStatus>>;
    fn handle(
        &mut self,
        InspectEndpoint(id): InspectEndpoint,
        _: &mut Self::Context,
    ) -> Self::Result {
        let asked = self
            .table
            .get(&id)
            .map(|supervisor| supervisor.address.send(Inspect));
        Box::pin(async move { asked?.await.ok() })
    }
}

#[cfg(feature = "testing")]
impl Handler<PanicSupervisor> for Registry {
    type Result = bool;
    fn handle(&mut self, PanicSupervisor(id): PanicSupervisor, _: &mut Self::Context) -> bool {
        let supervisor = self.table.get(&id);
        if let Some(supervisor) = &supervisor {
            supervisor
                .address
                .do_send(crate::engine::supervisor::InjectPanic);
        }
        supervisor.is_some()
    }
}
