//! Maintenance: fails what has outlived its endpoint or its `max_age`, and removes what has
//! outlived the retention. In small batches, between which everything else is written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::prelude::*;

use super::Shared;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::Shard;
use crate::domain::lifecycle::{self, Cause, State};
use crate::domain::rate_limit::Period;
use crate::store::StoreError;
use crate::store::query::{self, Overdue, Retire};

/// Rows a transaction, so that no other write waits long.
const BATCH: i64 = 200;

/// Deliveries that one transaction of retention removes at most, with their attempts.
const RETENTION_BATCH: i64 = 1000;

/// How often retention looks at all events again: others are looked at once, and stay because
/// something of them had not ended, or because they were stamped in the future.
const FULL_PASS_EVERY: Duration = Duration::from_secs(3600);

/// Between two batches.
const BREATH: Duration = Duration::from_millis(20);

/// Look for overdue and outdated rows now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Sweep;

pub(super) struct Maintenance {
    shared: Arc<Shared>,
    sweeping: bool,
    retention: Arc<Mutex<RetentionPass>>,
}

/// How far retention has looked.
#[derive(Debug, Default)]
struct RetentionPass {
    after_seq: i64,
    /// When it last began with the first event, on the monotonic clock.
    began_at: Option<Duration>,
}

impl RetentionPass {
    /// Where the next pass begins.
    fn begin(&mut self, now: Duration) -> i64 {
        if self
            .began_at
            .is_none_or(|began| now.saturating_sub(began) >= FULL_PASS_EVERY)
        {
            *self = Self {
                after_seq: 0,
                began_at: Some(now),
            };
        }
        self.after_seq
    }
}

impl Maintenance {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            sweeping: false,
            retention: Arc::default(),
        }
    }
}

impl Actor for Maintenance {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(Sweep);
        let interval = self.shared.config.maintenance_interval;
        ctx.run_interval(interval, |_, ctx| ctx.notify(Sweep));
    }
}

impl Handler<Sweep> for Maintenance {
    type Result = ();
    fn handle(&mut self, _: Sweep, ctx: &mut Self::Context) {
        if std::mem::replace(&mut self.sweeping, true) {
            return;
        }
        let (shared, pass) = (Arc::clone(&self.shared), Arc::clone(&self.retention));
        let sweep = async move {
            if let Err(error) = sweep(&shared).await {
                tracing::warn!(%error, "overdue deliveries could not be failed yet");
            }
            if let Err(error) = stop_blocking(&shared).await {
                tracing::warn!(%error, "what failed long ago still keeps its ordering key waiting");
            }
            // Of several processes one removes what is outdated.
            if shared.leases.of(Shard::from_number(0)).is_none() {
                return;
            }
            let cutoff = shared.clock.cutoff(shared.config.retention);
            let forget = shared
                .committer
                .run(move |tx| query::forget_recoveries(tx.conn(), cutoff));
            if let Err(error) = forget.await {
                tracing::warn!(%error, "recoveries of long ago could not be forgotten yet");
            }
            if let Err(error) = retire(&shared, &pass).await {
                tracing::warn!(%error, "outdated events could not be removed yet");
            }
        };
        ctx.spawn(
            sweep
                .into_actor(self)
                .map(|(), maintenance, _| maintenance.sweeping = false),
        );
    }
}

/// Fails what is overdue at the endpoints that this process sends to.
async fn sweep(shared: &Shared) -> Result<(), StoreError> {
    let held = shared.leases.open();
    let read = move |conn: &mut _, _: &_| query::waiting_endpoints(conn, &held);
    let endpoints = shared.store.read("waiting endpoints", read).await?;
    for endpoint in endpoints {
        fail_overdue(shared, &endpoint).await?;
        let_go_on(shared, &endpoint).await?;
        bring_within_reach(shared, &endpoint).await?;
    }
    Ok(())
}

/// Brings forward deliveries that are due later than any wait of their endpoint lasts: their times
/// were stored by a clock that was ahead, or by a schedule or a rest that was changed since.
async fn bring_within_reach(shared: &Shared, id: &EndpointId) -> Result<(), StoreError> {
    let (of_id, now) = (id.clone(), shared.clock.schedule_now());
    let read = move |conn: &mut _, codec: &_| {
        let latest = query::latest_due(conn, &of_id)?.filter(|due| *due > now);
        let Some(due) = latest else { return Ok(None) };
        let Some(endpoint) = query::endpoint(conn, codec, &of_id)? else {
            return Ok(None);
        };
        let health = query::health(conn, &of_id)?.health.within_reach(now);
        Ok(Some((due, endpoint.latest_retry(&health, now))))
    };
    let Some((due, reach)) = shared.store.read("latest due delivery", read).await? else {
        return Ok(());
    };
    if due <= reach {
        return Ok(());
    }
    let of_id = id.clone();
    let moved = shared
        .committer
        .run(move |tx| query::bring_forward(tx.conn(), &of_id, reach))
        .await?;
    tracing::info!(endpoint = %id, moved, "{moved} deliveries of {id} were due later than any wait of its schedule lasts; they are due by {reach}");
    Ok(())
}

/// Lets everything go on that waits for its turn, or for a failed delivery, at an endpoint that
/// asks for no such thing (any more).
pub(super) async fn let_go_on(shared: &Shared, endpoint: &EndpointId) -> Result<(), StoreError> {
    loop {
        let id = endpoint.clone();
        let read = move |conn: &mut _, codec: &_| match query::endpoint(conn, codec, &id)? {
            Some(endpoint) => query::out_of_order(conn, &endpoint, BATCH),
            None => Ok(Vec::new()),
        };
        let found = shared.store.read("out of order", read).await?;
        if found.is_empty() {
            return Ok(());
        }
        release(shared, found).await?;
        tokio::time::sleep(BREATH).await;
    }
}

/// Lets what failed so long ago keep nobody waiting any more, so that it can be removed.
async fn stop_blocking(shared: &Shared) -> Result<(), StoreError> {
    let cutoff = shared.clock.cutoff(shared.config.retention);
    let held = Arc::new(shared.leases.open());
    loop {
        let held = Arc::clone(&held);
        let read = move |conn: &mut _, _: &_| query::blocking_since(conn, &held, cutoff, BATCH);
        let found = shared.store.read("blocking deliveries", read).await?;
        if found.is_empty() {
            return Ok(());
        }
        release(shared, found).await?;
        tokio::time::sleep(BREATH).await;
    }
}

/// Deliveries that wait for their turn get it, those that keep others waiting do so no more.
async fn release(shared: &Shared, ids: Vec<DeliveryId>) -> Result<(), StoreError> {
    let at = shared.clock.now();
    let write = move |tx: &mut crate::store::Tx<'_>| {
        for id in &ids {
            let Some(life) = tx.life_to_change(id)? else {
                continue;
            };
            let cause = match life.state {
                State::Pending(_) => Cause::TurnCame { at },
                _ => Cause::HoldLifted { at },
            };
            if let Ok(next) = lifecycle::next(&life, &cause) {
                tx.change_life(id, &life, &next, at)?;
            }
        }
        Ok(())
    };
    shared.committer.run(write).await
}

/// Fails pending deliveries of an endpoint that is gone, or that waited too long.
pub(super) async fn fail_overdue(shared: &Shared, id: &EndpointId) -> Result<(), StoreError> {
    loop {
        let (of_id, now, clock) = (id.clone(), shared.clock.now(), Arc::clone(&shared.clock));
        let read = move |conn: &mut _, codec: &_| {
            query::overdue(conn, codec, &of_id, |age| clock.cutoff(age), BATCH)
        };
        let overdue = shared.store.read("overdue deliveries", read).await?;
        if overdue.is_empty() {
            return Ok(());
        }
        let write = move |tx: &mut crate::store::Tx<'_>| {
            let mut failed = Vec::with_capacity(overdue.len());
            for (id, why) in &overdue {
                let cause = match why {
                    Overdue::Expired { blocks } => Cause::Expired { blocks: *blocks },
                    Overdue::EndpointDeleted => Cause::EndpointDeleted,
                };
                // It may have been claimed since it was read; then it is no longer overdue.
                if let Some(life) = tx.life_to_change(id)?
                    && let Ok(next) = lifecycle::next(&life, &cause)
                {
                    tx.change_life(id, &life, &next, now)?;
                    failed.push(next.state);
                    if matches!(why, Overdue::Expired { .. }) {
                        tx.announce_expiry(id, now)?;
                    }
                }
            }
            Ok(failed)
        };
        let failed = shared.committer.run(write).await?;
        failed
            .iter()
            .for_each(|state| shared.metrics.reached(*state));
        let failed = failed.len();
        tracing::info!(
            failed,
            "{failed} waiting deliveries expired or lost their endpoint"
        );
        tokio::time::sleep(BREATH).await;
    }
}

/// Removes events that ended longer ago than the retention, beginning where the last pass ended.
async fn retire(shared: &Shared, pass: &Mutex<RetentionPass>) -> Result<(), StoreError> {
    let lock = || pass.lock().unwrap_or_else(PoisonError::into_inner);
    let mut batch = Retire {
        cutoff: shared.clock.cutoff(shared.config.retention),
        // A little more than the longest window, which remembers by another clock.
        quiet_since: shared.clock.cutoff(Period::LONGEST * 2),
        after_seq: lock().begin(shared.clock.monotonic()),
        limit: BATCH,
        max_deliveries: RETENTION_BATCH,
    };
    loop {
        let this = batch.clone();
        let retired = shared.committer.run(move |tx| tx.retire(&this)).await?;
        if retired.events > 0 {
            tracing::info!(
                events = retired.events,
                "{} outdated events were removed",
                retired.events
            );
        }
        if !retired.more {
            return Ok(());
        }
        batch.after_seq = retired.last_seq;
        lock().after_seq = retired.last_seq;
        tokio::time::sleep(BREATH).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_continues_where_it_ended_and_begins_anew_each_hour() {
        let mut pass = RetentionPass::default();
        let minute = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(pass.begin(minute(1)), 0);
        pass.after_seq = 700;
        assert_eq!(pass.begin(minute(2)), 700);
        assert_eq!(pass.begin(minute(61)), 0);
    }
}
