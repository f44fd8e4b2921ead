//! Recoveries: requeue or create deliveries that an endpoint has missed, in the background, one
//! transaction per batch. Progress is stored, so a restart, or the endpoint's next owner, continues
//! from there.

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::batches::BATCH;
use crate::domain::ids::RecoveryId;
use crate::domain::recovery::Progress;
use crate::engine::context::EngineContext;
use crate::engine::registry::{EndpointsDue, Registry};
use crate::store::StoreError;

/// Time left to other writes between two batches.
const RECOVERY_BATCH_PAUSE: Duration = Duration::from_millis(100);

/// Maximum interval between checks for recoveries to resume.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

/// Checks for recoveries to resume.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ResumeRecoveries;

/// The actor that runs recoveries.
pub(crate) struct RecoveryRunner {
    context: Arc<EngineContext>,
    registry: Addr<Registry>,
    busy: bool,
}

impl RecoveryRunner {
    pub(crate) fn new(context: Arc<EngineContext>, registry: Addr<Registry>) -> Self {
        Self {
            context,
            registry,
            busy: false,
        }
    }
}

impl Actor for RecoveryRunner {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(ResumeRecoveries);
        let interval = self.context.config.maintenance_interval.min(MAX_INTERVAL);
        ctx.run_interval(interval, |_, ctx| ctx.notify(ResumeRecoveries));
    }
}

impl Handler<ResumeRecoveries> for RecoveryRunner {
    type Result = ();
    fn handle(&mut self, _: ResumeRecoveries, ctx: &mut Self::Context) {
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        let context = Arc::clone(&self.context);
        let registry = self.registry.clone();
        let run = async move {
            if let Err(error) = resume(&context, &registry).await {
                tracing::warn!(%error, "a recovery could not continue yet");
            }
        };
        ctx.spawn(
            run.into_actor(self)
                .map(|(), runner, _| runner.busy = false),
        );
    }
}

/// Runs all recoveries of this process's endpoints, one after the other.
async fn resume(context: &EngineContext, registry: &Addr<Registry>) -> Result<(), StoreError> {
    for id in context
        .store
        .running_recoveries(context.leases.open())
        .await?
    {
        while run_batch(context, registry, &id).await? {
            tokio::time::sleep(RECOVERY_BATCH_PAUSE).await;
        }
    }
    Ok(())
}

/// Runs one batch. Returns true if there is more to do.
async fn run_batch(
    context: &EngineContext,
    registry: &Addr<Registry>,
    id: &RecoveryId,
) -> Result<bool, StoreError> {
    let of = id.clone();
    let at = context.clock.now();
    let batch = context
        .committer
        .run(move |tx| tx.recover_batch(&of, at, BATCH))
        .await?;
    let Some(recovery) = batch else {
        return Ok(false);
    };
    registry.do_send(EndpointsDue(vec![recovery.endpoint_id.clone()]));
    let is_done = recovery.progress == Progress::Done;
    if is_done {
        tracing::info!(recovery = %id, matched = recovery.matched, requeued = recovery.requeued, "recovery {id} is done");
    }
    Ok(!is_done)
}
