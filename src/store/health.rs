//! An endpoint's health: read, recorded after an attempt, and replaced by a person.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::endpoint_changes::endpoint_changed;
use super::error::StoreError;
use super::rows::HealthRow;
use super::schema::{webhook_endpoint_health as health, webhook_endpoints as endpoints};
use super::store::Store;
use super::tx::Tx;
use crate::domain::breaker::{Health, StoredHealth};
use crate::domain::delivery::FinishedAttempt;
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::ids::EndpointId;

impl Store {
    /// Reads an endpoint's health.
    pub(crate) async fn health(&self, id: &EndpointId) -> Result<StoredHealth, StoreError> {
        let id = id.clone();
        self.read("health", move |conn, _| health(conn, &id)).await
    }
}

impl Tx<'_> {
    /// Reads an endpoint's health.
    pub(crate) fn health(&mut self, id: &EndpointId) -> Result<StoredHealth, StoreError> {
        health(self.conn, id)
    }

    /// Replaces an endpoint's health by a decision outside of its supervisor.
    pub(crate) fn replace_health(
        &mut self,
        id: &EndpointId,
        health: Health,
    ) -> Result<StoredHealth, StoreError> {
        let present = health::table
            .find(id.as_str())
            .select(health::epoch)
            .first::<i64>(self.conn)
            .optional()?;
        let epoch = present.unwrap_or(0) + 1;
        let stored = StoredHealth { health, epoch };
        let row = codec::health_row(id, &stored);
        match present {
            Some(_) => diesel::update(health::table.find(id.as_str()))
                .set(row)
                .execute(self.conn)?,
            None => diesel::insert_into(health::table)
                .values(row)
                .execute(self.conn)?,
        };
        Ok(stored)
    }
}

/// Reads an endpoint's health.
pub(super) fn health(
    conn: &mut AnyConnection,
    id: &EndpointId,
) -> Result<StoredHealth, StoreError> {
    let row = health::table
        .find(id.as_str())
        .select(HealthRow::as_select())
        .get_result(conn)
        .optional()?;
    row.as_ref()
        .map_or(Ok(StoredHealth::default()), codec::health)
}

/// Reads the health of endpoints; one without a row may be missing, and has the default.
pub(super) fn health_of(
    conn: &mut AnyConnection,
    ids: &[&EndpointId],
) -> Result<HashMap<EndpointId, StoredHealth>, StoreError> {
    // The usual case; its statement stays prepared.
    if let [id] = ids {
        return Ok(HashMap::from([((*id).clone(), health(conn, id)?)]));
    }
    let rows: Vec<HealthRow> = health::table
        .filter(health::endpoint_id.eq_any(ids.iter().map(|id| id.as_str())))
        .select(HealthRow::as_select())
        .load(conn)?;
    let found = |row: HealthRow| {
        let stored = codec::health(&row)?;
        Ok((EndpointId::from_text(row.endpoint_id), stored))
    };
    rows.into_iter().map(found).collect()
}

/// The health of endpoints whose shards were given up: outcomes are judged from it one after the
/// other, and not from the copy of a supervisor.
#[derive(Default)]
pub(super) struct SharedHealth {
    stored: HashMap<EndpointId, StoredHealth>,
}

impl SharedHealth {
    /// Locks the health of these endpoints until the end of the transaction.
    pub(super) fn lock(
        conn: &mut AnyConnection,
        ids: &BTreeSet<&EndpointId>,
    ) -> Result<Self, StoreError> {
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let mut stored = HashMap::new();
        for row in conn.dialect().lock_health(ids)? {
            let health = codec::health(&row)?;
            stored.insert(EndpointId::from_text(row.endpoint_id), health);
        }
        Ok(Self { stored })
    }

    /// Judges an outcome from the health that the one before it has left.
    pub(super) fn judge(&mut self, finished: &mut FinishedAttempt, endpoint: &Endpoint) {
        let stored = self.stored.entry(endpoint.id.clone()).or_default();
        finished.judge(*stored, endpoint);
        if finished.health != finished.health_before {
            *stored = StoredHealth {
                health: finished.health,
                epoch: stored.epoch + 1,
            };
        }
    }
}

/// Writes an endpoint's health after an attempt, as its supervisor judged it. Writes nothing if the
/// attempt did not change it. Returns false, and keeps the stored health, if somebody else has
/// changed it meanwhile.
pub(super) fn record_health(
    conn: &mut AnyConnection,
    finished: &FinishedAttempt,
) -> Result<bool, StoreError> {
    let (id, epoch) = (finished.endpoint_id.as_str(), finished.health_epoch);
    let mut current = true;
    if finished.health != finished.health_before {
        // The shard's owner has a copy of an older epoch, and reads it again.
        let stored = StoredHealth {
            health: finished.health,
            epoch: epoch + i64::from(finished.is_after_handover),
        };
        let row = codec::health_row(&finished.endpoint_id, &stored);
        let of_epoch = health::table.find(id).filter(health::epoch.eq(epoch));
        if diesel::update(of_epoch).set(row.clone()).execute(conn)? == 0 {
            let there = health::table
                .find(id)
                .select(health::epoch)
                .first::<i64>(conn)
                .optional()?;
            current = there.is_none() && epoch == 0;
            if current {
                diesel::insert_into(health::table)
                    .values(row)
                    .execute(conn)?;
            }
        }
    }
    // A pause for failures that a person has reset meanwhile would be wrong; a 410 always counts.
    let pause = finished
        .pause
        .filter(|reason| current || *reason == PauseReason::Gone);
    if let Some(reason) = pause {
        let paused = diesel::update(
            endpoints::table
                .filter(endpoints::id.eq(id))
                .filter(endpoints::pause_reason.is_null())
                .filter(endpoints::deleted_at.is_null()),
        )
        .set((
            endpoints::pause_reason.eq(Some(reason.as_str())),
            endpoints::version.eq(endpoints::version + 1),
        ))
        .execute(conn)?;
        if paused > 0 {
            endpoint_changed(conn, &finished.endpoint_id)?;
        }
    }
    Ok(current)
}
