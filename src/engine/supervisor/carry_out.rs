//! Carrying out the lane's decisions.
//!
//! Reads and writes are spawned on the `System`, not in the actor's context: they must outlive the
//! actor, because a claim or an outcome that is under way commits even if nobody waits for it.

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;

use super::actions::{Action, Start, Work};
use super::actor::EndpointSupervisor;
use super::attempt::{DeliveryAttempt, Job};
use super::messages::{
    ClaimAnswered, DueLoaded, HealthLoaded, HistoryLoaded, InterruptionAnswered, PermitGranted,
    Recheck, RecordAnswered, Released,
};
use super::report::report;
use super::wakeup::Wakeup;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::DeliveryKey;
use crate::engine::context::EngineContext;
use crate::engine::messages::{StopRequest, SupervisorQuiet};
use crate::store::{Claim, Tx};

/// The timer wheel rounds to milliseconds; late is acceptable, early is not.
const TIMER_SLACK: Duration = Duration::from_millis(1);

impl EndpointSupervisor {
    /// Carries out actions; a claim among them gets the permits.
    pub(super) fn carry_out(
        &mut self,
        actions: Vec<Action>,
        mut permits: Vec<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        for action in actions {
            match action {
                Action::Claim(claim) => self.claim(claim, std::mem::take(&mut permits), ctx),
                Action::Start(start) => self.start_attempt(start, ctx),
                Action::Report(what) => report(what, &self.lane.endpoint().id, &self.context),
                Action::SetTimer(wakeup) => self.set_timer(wakeup, ctx),
                Action::RequestStop => self.request_stop(ctx),
                Action::ReportQuiet(quiet) => self.registry.quiet.do_send(SupervisorQuiet {
                    endpoint_id: self.lane.endpoint().id.clone(),
                    quiet,
                }),
                Action::Stop => ctx.stop(),
                Action::Run(work) => self.spawn(work, ctx),
            }
        }
    }

    fn claim(&mut self, claim: Claim, permits: Vec<OwnedSemaphorePermit>, ctx: &mut Context<Self>) {
        let keys: Vec<DeliveryKey> = claim.keys().collect();
        self.permits.extend(keys.iter().copied().zip(permits));
        let context = Arc::clone(&self.context);
        let supervisor = ctx.address();
        actix::spawn(async move {
            let result = context.committer.claim(claim).await;
            supervisor.do_send(ClaimAnswered { keys, result });
        });
    }

    fn start_attempt(&mut self, start: Start, ctx: &mut Context<Self>) {
        let key = start.claimed.key;
        let delivery = self.context.store.public_ids().delivery(key);
        let endpoint = self.lane.endpoint();
        tracing::debug!(%delivery, event = %start.event.id, endpoint = %endpoint.id, "attempt of {delivery} starts");
        let now = self.context.clock.read();
        let job = Job {
            context: Arc::clone(&self.context),
            place: Arc::clone(&self.place),
            supervisor: ctx.address().recipient(),
            endpoint: Arc::clone(endpoint),
            started_at: now.wall,
            scheduled_at: now.schedule,
            abort: self.tasks.abort.clone(),
            _permit: self.permits.remove(&key),
            _alive: self.tasks.tracker.token(),
            start,
        };
        DeliveryAttempt::new(job).start();
    }

    fn set_timer(&mut self, wakeup: Wakeup, ctx: &mut Context<Self>) {
        self.timer = match wakeup {
            Wakeup::None => None,
            Wakeup::Advance(wait) => Some(ctx.notify_later(Recheck, wait + TIMER_SLACK)),
            Wakeup::RequestStop(wait) => {
                Some(ctx.run_later(wait + TIMER_SLACK, |supervisor, ctx| {
                    supervisor.timer = None;
                    let actions = supervisor.lane.on_idle();
                    supervisor.carry_out(actions, Vec::new(), ctx);
                }))
            }
        };
    }

    /// Asks the registry, which starts another supervisor when the next delivery is due.
    fn request_stop(&self, ctx: &mut Context<Self>) {
        self.registry.stop.do_send(StopRequest {
            endpoint_id: self.lane.endpoint().id.clone(),
            generation: self.registry.generation,
            received: self.lane.received(),
            reply_to: ctx.address().recipient(),
        });
    }

    fn spawn(&self, work: Work, ctx: &mut Context<Self>) {
        let context = Arc::clone(&self.context);
        let endpoint = Arc::clone(self.lane.endpoint());
        let supervisor = ctx.address();
        actix::spawn(async move { run(work, &context, &endpoint, &supervisor).await });
    }
}

/// Runs work, and sends its result back.
async fn run(
    work: Work,
    context: &Arc<EngineContext>,
    endpoint: &Endpoint,
    supervisor: &Addr<EndpointSupervisor>,
) {
    match work {
        Work::LoadHistory => {
            let clock = Arc::clone(&context.clock);
            let limit = endpoint.limits.rate_limit;
            let read = context.store.rate_limit_history(&endpoint.id, limit, clock);
            supervisor.do_send(HistoryLoaded(read.await));
        }
        Work::LoadHealth => match context.store.health(&endpoint.id).await {
            Ok(stored) => supervisor.do_send(HealthLoaded(stored)),
            Err(error) => {
                tracing::warn!(%error, "cannot read an endpoint's health yet; the poll does");
            }
        },
        Work::ReadDue(scan) => {
            supervisor.do_send(DueLoaded(context.due_reader.read(scan).await));
        }
        Work::AwaitPermit => {
            let permits = Arc::clone(&context.permits);
            if let Ok(permit) = permits.acquire_owned().await {
                supervisor.do_send(PermitGranted(permit));
            }
        }
        Work::Record(finished, recorded) => {
            let result = context.committer.record(*finished).await;
            supervisor.do_send(RecordAnswered { recorded, result });
        }
        Work::Interrupt(claimed, interruption) => {
            let key = claimed.key;
            let write = move |tx: &mut Tx<'_>| tx.interrupt_claim(&claimed, interruption);
            let result = context.committer.run(write).await;
            supervisor.do_send(InterruptionAnswered { key, result });
        }
        Work::Reclaim(claims) => {
            context.reclaim(claims).await;
            supervisor.do_send(Recheck);
        }
        Work::Release(claims, at) => {
            let released = context
                .committer
                .run(move |tx| tx.release(&claims, at))
                .await;
            if let Err(error) = released {
                tracing::warn!(%error, "claims could not be released yet; the poll reclaims them");
            }
            supervisor.do_send(Released);
        }
    }
}
