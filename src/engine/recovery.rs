//! Recoveries: bring back what an endpoint has not got, in the background, a batch a transaction.
//! How far one is stands in the database, so that a restart, or the endpoint's next owner, goes on
//! from there.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::registry::{Due, Registry};
use super::{Error, Postrider, Shared};
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{EndpointId, RecoveryId};
use crate::domain::lifecycle::{self, Cause};
use crate::domain::recovery::{Include, Progress, Recovery};
use crate::store::query::{self, Cursor};
use crate::store::{Hint, StoreError, Tx};

/// Rows a transaction, and what is left to everything else between two.
const BATCH: i64 = 200;
const BREATH: Duration = Duration::from_millis(100);

/// Look for recoveries that are to go on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct GoOn;

pub(super) struct Recoverer {
    shared: Arc<Shared>,
    registry: Addr<Registry>,
    busy: bool,
}

impl Recoverer {
    pub(super) fn new(shared: Arc<Shared>, registry: Addr<Registry>) -> Self {
        Self {
            shared,
            registry,
            busy: false,
        }
    }
}

impl Actor for Recoverer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(GoOn);
        let interval = self
            .shared
            .config
            .maintenance_interval
            .min(Duration::from_secs(10));
        ctx.run_interval(interval, |_, ctx| ctx.notify(GoOn));
    }
}

impl Handler<GoOn> for Recoverer {
    type Result = ();
    fn handle(&mut self, _: GoOn, ctx: &mut Self::Context) {
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        let (shared, registry) = (Arc::clone(&self.shared), self.registry.clone());
        let run = async move {
            if let Err(error) = go_on(&shared, &registry).await {
                tracing::warn!(%error, "a recovery could not go on yet");
            }
        };
        ctx.spawn(
            run.into_actor(self)
                .map(|(), recoverer, _| recoverer.busy = false),
        );
    }
}

/// All that are under way at the endpoints that this process sends to, one after the other.
async fn go_on(shared: &Shared, registry: &Addr<Registry>) -> Result<(), StoreError> {
    let held = shared.leases.open();
    let read = move |conn: &mut _, _: &_| query::running_recoveries(conn, &held);
    for id in shared.store.read("recoveries", read).await? {
        loop {
            let (of_id, at) = (id.clone(), shared.clock.now());
            let recovery = shared
                .committer
                .run(move |tx| tx.recover_batch(&of_id, at, BATCH))
                .await?;
            let Some(recovery) = recovery else { break };
            registry.do_send(Due(vec![recovery.endpoint_id.clone()]));
            if recovery.progress == Progress::Done {
                tracing::info!(recovery = %id, matched = recovery.matched, requeued = recovery.requeued, "recovery {id} is done");
                break;
            }
            tokio::time::sleep(BREATH).await;
        }
    }
    Ok(())
}

impl Tx<'_> {
    /// Takes a recovery one batch further. `None`: there is none of that id.
    fn recover_batch(
        &mut self,
        id: &RecoveryId,
        at: Timestamp,
        limit: i64,
    ) -> Result<Option<Recovery>, StoreError> {
        let Some(mut recovery) = query::recovery(self.conn(), id)? else {
            return Ok(None);
        };
        if recovery.progress == Progress::Done {
            return Ok(Some(recovery));
        }
        let mut cursor = query::cursor(self.conn(), id)?;
        let (conn, codec) = self.parts();
        let more = match query::endpoint(conn, codec, &recovery.endpoint_id)? {
            None => false,
            Some(_) if recovery.include.failed() && cursor.seq.is_none() => {
                let more = self.recover_failed(&mut recovery, &mut cursor, at, limit)?;
                // From here on the other half, if it is asked for.
                if !more && recovery.include.missing() {
                    self.recover_missing(&mut recovery, &mut cursor, at, limit)?
                } else {
                    more
                }
            }
            Some(_) => self.recover_missing(&mut recovery, &mut cursor, at, limit)?,
        };
        if !more {
            recovery.progress = Progress::Done;
        }
        query::advance_recovery(self.conn(), &recovery, &cursor)?;
        Ok(Some(recovery))
    }

    /// Whether there may be more of them.
    fn recover_failed(
        &mut self,
        recovery: &mut Recovery,
        cursor: &mut Cursor,
        at: Timestamp,
        limit: i64,
    ) -> Result<bool, StoreError> {
        let found = query::given_up(self.conn(), recovery, cursor, limit)?;
        for (_, id) in &found {
            recovery.matched += 1;
            // A person may have been faster.
            if let Some(life) = self.life_to_change(id)?
                && let Ok(next) = lifecycle::next(&life, &Cause::RetryAsked { at })
            {
                self.change_life(id, &life, &next, at)?;
                query::mark_retried(self.conn(), id, at)?;
                recovery.requeued += 1;
            }
        }
        let full = i64::try_from(found.len()).is_ok_and(|found| found == limit);
        if let Some((failed_at, id)) = found.into_iter().next_back() {
            cursor.failed = Some((failed_at, id.to_string()));
        }
        Ok(full)
    }

    fn recover_missing(
        &mut self,
        recovery: &mut Recovery,
        cursor: &mut Cursor,
        at: Timestamp,
        limit: i64,
    ) -> Result<bool, StoreError> {
        let (conn, codec) = self.parts();
        let Some(endpoint) = query::endpoint(conn, codec, &recovery.endpoint_id)? else {
            return Ok(false);
        };
        let missing = query::missing(
            conn,
            recovery,
            &endpoint.settings.event_types,
            cursor,
            limit,
        )?;
        query::insert_missing(conn, &endpoint.id, &endpoint.tenant, &missing.events, at)?;
        let found = missing.events.len() as u64;
        recovery.matched += found;
        recovery.requeued += found;
        cursor.seq = missing.last.or(cursor.seq);
        Ok(missing.last.is_some())
    }
}

/// A recovery that has not begun.
pub(super) fn asked_for(
    endpoint: &Endpoint,
    include: Include,
    since: Timestamp,
    until: Option<Timestamp>,
    now: Timestamp,
) -> Result<Recovery, Error> {
    // What fails from now on is not what was asked for.
    let until = until.unwrap_or(now).min(now);
    if since >= until {
        return Err(Error::field(
            "since",
            "must be before `until`, and before now",
        ));
    }
    Ok(Recovery {
        id: RecoveryId::generate(now),
        endpoint_id: endpoint.id.clone(),
        tenant: endpoint.tenant.clone(),
        include,
        since,
        until,
        progress: Progress::Running,
        matched: 0,
        requeued: 0,
        created_at: now,
    })
}

impl Postrider {
    /// Sends (again) what an endpoint has not got between `since` and `until` (default: now), in
    /// the background.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Invalid`] for a span that holds nothing.
    pub async fn recover_endpoint(
        &self,
        id: &EndpointId,
        include: Include,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Recovery, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let recovery = asked_for(&endpoint, include, since, until, self.now())?;
        let row = recovery.clone();
        self.shared
            .committer
            .run(move |tx| query::insert_recovery(tx.conn(), &row))
            .await?;
        tracing::info!(recovery = %recovery.id, endpoint = %id, "recovery {} was asked for", recovery.id);
        self.recoverer.do_send(GoOn);
        self.shared.hints.send(Hint::Changed);
        Ok(recovery)
    }

    /// A recovery, and how far it is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn recovery(&self, id: &RecoveryId) -> Result<Recovery, Error> {
        let id = id.clone();
        let found = self
            .read("recovery", move |conn, _| query::recovery(conn, &id))
            .await?;
        found.ok_or(Error::NotFound("recovery"))
    }
}
