//! The sweep: fails expired deliveries and those of deleted endpoints, unblocks deliveries that no
//! longer wait for anything, and removes outdated events. It works in small batches, with pauses
//! for other writes.

use std::sync::{Arc, Mutex};

use actix::prelude::*;

use super::batches::{BATCH, BATCH_PAUSE};
use super::retention::{RetentionPass, delete_expired_events};
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::domain::lease::Shard;
use crate::engine::context::EngineContext;
use crate::store::{OverdueScan, StoreError};

/// Checks for overdue and outdated rows now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Sweep;

/// The actor that sweeps at intervals.
pub(crate) struct Sweeper {
    context: Arc<EngineContext>,
    sweeping: bool,
    retention: Arc<Mutex<RetentionPass>>,
}

impl Sweeper {
    pub(crate) fn new(context: Arc<EngineContext>) -> Self {
        Self {
            context,
            sweeping: false,
            retention: Arc::default(),
        }
    }
}

impl Actor for Sweeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(Sweep);
        let interval = self.context.config.maintenance_interval;
        ctx.run_interval(interval, |_, ctx| ctx.notify(Sweep));
    }
}

impl Handler<Sweep> for Sweeper {
    type Result = ();
    fn handle(&mut self, _: Sweep, ctx: &mut Self::Context) {
        if std::mem::replace(&mut self.sweeping, true) {
            return;
        }
        let context = Arc::clone(&self.context);
        let pass = Arc::clone(&self.retention);
        let sweep = async move { sweep(&context, &pass).await };
        ctx.spawn(
            sweep
                .into_actor(self)
                .map(|(), sweeper, _| sweeper.sweeping = false),
        );
    }
}

async fn sweep(context: &EngineContext, pass: &Mutex<RetentionPass>) {
    if let Err(error) = sweep_endpoints(context).await {
        tracing::warn!(%error, "overdue deliveries could not be failed yet");
    }
    if let Err(error) = release_expired_blockers(context).await {
        tracing::warn!(%error, "deliveries that failed long ago still block their ordering keys");
    }
    // Only one of several processes removes outdated rows.
    if context.leases.of(Shard::from_number(0)).is_none() {
        return;
    }
    let cutoff = context.clock.cutoff(context.config.retention);
    if let Err(error) = context
        .committer
        .run(move |tx| tx.forget_recoveries(cutoff))
        .await
    {
        tracing::warn!(%error, "old recoveries could not be removed yet");
    }
    if let Err(error) = delete_expired_events(context, pass).await {
        tracing::warn!(%error, "outdated events could not be removed yet");
    }
}

/// Sweeps this process's endpoints.
async fn sweep_endpoints(context: &EngineContext) -> Result<(), StoreError> {
    for endpoint in context
        .store
        .pending_endpoints(context.leases.open())
        .await?
    {
        // A failure of one endpoint does not keep the others from their turn.
        if let Err(error) = sweep_endpoint(context, &endpoint).await {
            tracing::warn!(%endpoint, %error, "{endpoint} could not be swept yet");
        }
    }
    Ok(())
}

async fn sweep_endpoint(context: &EngineContext, id: &EndpointId) -> Result<(), StoreError> {
    fail_overdue(context, id).await?;
    unblock_unordered(context, id).await?;
    bring_within_reach(context, id).await
}

/// Brings forward deliveries that are due later than any wait of their endpoint lasts: their times
/// come from a clock that was ahead, or from a schedule or a rest that has changed since.
async fn bring_within_reach(context: &EngineContext, id: &EndpointId) -> Result<(), StoreError> {
    let now = context.clock.schedule_now();
    let Some(reach) = context.store.due_beyond_reach(id, now).await? else {
        return Ok(());
    };
    let of = id.clone();
    let moved = context
        .committer
        .run(move |tx| tx.bring_forward(&of, reach))
        .await?;
    tracing::info!(endpoint = %id, moved, "{moved} deliveries of {id} were due later than any wait of its schedule lasts; they are due by {reach}");
    Ok(())
}

/// Unblocks deliveries held for ordering at an endpoint that no longer uses it.
pub(crate) async fn unblock_unordered(
    context: &EngineContext,
    endpoint: &EndpointId,
) -> Result<(), StoreError> {
    loop {
        let found = context.store.out_of_order(endpoint, BATCH).await?;
        if found.is_empty() {
            return Ok(());
        }
        unblock(context, found).await?;
    }
}

/// Releases the deliveries behind one that failed so long ago that retention may remove it.
async fn release_expired_blockers(context: &EngineContext) -> Result<(), StoreError> {
    let cutoff = context.clock.cutoff(context.config.retention);
    loop {
        let held = context.leases.open();
        let found = context.store.blocking_since(held, cutoff, BATCH).await?;
        if found.is_empty() {
            return Ok(());
        }
        unblock(context, found).await?;
    }
}

async fn unblock(context: &EngineContext, keys: Vec<DeliveryKey>) -> Result<(), StoreError> {
    let at = context.clock.now();
    context
        .committer
        .run(move |tx| tx.unblock(&keys, at))
        .await?;
    tokio::time::sleep(BATCH_PAUSE).await;
    Ok(())
}

/// Fails pending deliveries that expired or whose endpoint was deleted.
pub(crate) async fn fail_overdue(
    context: &EngineContext,
    id: &EndpointId,
) -> Result<(), StoreError> {
    let clock = Arc::clone(&context.clock);
    let scan = OverdueScan {
        endpoint_id: id.clone(),
        clock,
        limit: BATCH,
    };
    loop {
        let now = context.clock.now();
        let overdue = context.store.overdue(scan.clone()).await?;
        if overdue.is_empty() {
            return Ok(());
        }
        let failed = context
            .committer
            .run(move |tx| tx.fail_overdue(&overdue, now))
            .await?;
        for state in &failed {
            context.metrics.reached(*state);
        }
        let failed = failed.len();
        tracing::info!(
            failed,
            "{failed} pending deliveries expired or lost their endpoint"
        );
        tokio::time::sleep(BATCH_PAUSE).await;
    }
}
