//! Single statements, the same for every database. None of them begins a transaction.

use std::sync::Arc;

use diesel::dsl::{count_star, max, min};
use diesel::prelude::*;

use super::rows::{AttemptRow, DeliveryRow, EndpointRow, EventRow, SecretRow};
use super::schema::{
    webhook_attempts as attempts, webhook_counters as counters, webhook_deliveries as deliveries,
    webhook_endpoint_health as health, webhook_endpoint_secrets as secrets, webhook_endpoints as endpoints,
    webhook_events as events,
};
use super::status_is::{StatusIsPending, StatusIsSending};
use super::{AnyConnection, StoreError, codec};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Claimed, Delivery, Outcome, Queued};
use crate::domain::endpoint::{Backlog, Endpoint, EndpointDefaults};
use crate::domain::event::SealedEvent;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lifecycle::{Life, Status};
use crate::domain::secret::Secret;

/// The counter that each start of a sender raises.
pub(super) const EPOCH: &str = "epoch";
/// The counter that each change of an endpoint raises.
pub(super) const ENDPOINTS: &str = "endpoints";

type Conn = AnyConnection;

/// One page of a list, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// The last key of the page before.
    pub(crate) after: Option<String>,
    pub(crate) limit: i64,
}

/// Reads a counter.
pub(super) fn counter(conn: &mut Conn, name: &str) -> Result<i64, StoreError> {
    Ok(counters::table.find(name).select(counters::value).first(conn)?)
}

// ── Endpoints ──────────────────────────────────────────────────────────────────────────────────

/// An endpoint that has not been deleted.
pub(crate) fn endpoint(
    conn: &mut Conn,
    defaults: &EndpointDefaults,
    id: &EndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    let row = endpoints::table
        .find(id.as_str())
        .filter(endpoints::deleted_at.is_null())
        .select(EndpointRow::as_select())
        .first(conn)
        .optional()?;
    Ok(with_secrets(conn, defaults, row.into_iter().collect())?.pop())
}

/// All endpoints of a tenant.
pub(super) fn endpoints_of(
    conn: &mut Conn,
    defaults: &EndpointDefaults,
    tenant: &Tenant,
) -> Result<Vec<Endpoint>, StoreError> {
    let rows = endpoints::table
        .filter(endpoints::tenant.eq(tenant.as_str()))
        .filter(endpoints::deleted_at.is_null())
        .order(endpoints::id)
        .select(EndpointRow::as_select())
        .load(conn)?;
    with_secrets(conn, defaults, rows)
}

/// Which endpoints a list is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointFilter {
    pub(crate) tenant: Option<Tenant>,
    /// Only the paused ones, or only the others.
    pub(crate) paused: Option<bool>,
}

pub(crate) fn endpoints_page(
    conn: &mut Conn,
    defaults: &EndpointDefaults,
    filter: &EndpointFilter,
    page: &Page,
) -> Result<Vec<Endpoint>, StoreError> {
    let mut query = endpoints::table
        .filter(endpoints::deleted_at.is_null())
        .select(EndpointRow::as_select())
        .order(endpoints::id.desc())
        .limit(page.limit)
        .into_boxed();
    if let Some(tenant) = &filter.tenant {
        query = query.filter(endpoints::tenant.eq(tenant.to_string()));
    }
    match filter.paused {
        Some(true) => query = query.filter(endpoints::pause_reason.is_not_null()),
        Some(false) => query = query.filter(endpoints::pause_reason.is_null()),
        None => {}
    }
    if let Some(after) = &page.after {
        query = query.filter(endpoints::id.lt(after.clone()));
    }
    let rows = query.load(conn)?;
    with_secrets(conn, defaults, rows)
}

fn with_secrets(
    conn: &mut Conn,
    defaults: &EndpointDefaults,
    rows: Vec<EndpointRow>,
) -> Result<Vec<Endpoint>, StoreError> {
    let mut complete = Vec::with_capacity(rows.len());
    for row in rows {
        let of_endpoint: Vec<SecretRow> = secrets::table
            .filter(secrets::endpoint_id.eq(&row.id))
            .order(secrets::created_at.desc())
            .select(SecretRow::as_select())
            .load(conn)?;
        complete.push(codec::endpoint(row, of_endpoint, defaults)?);
    }
    Ok(complete)
}

pub(crate) fn insert_endpoint(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), StoreError> {
    diesel::insert_into(endpoints::table).values(codec::endpoint_row(endpoint)).execute(conn)?;
    endpoints_changed(conn)
}

/// Writes an endpoint's settings and pause. Its secrets are rows of their own.
pub(crate) fn update_endpoint(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), StoreError> {
    diesel::update(endpoints::table.find(endpoint.id.as_str()))
        .set(codec::endpoint_row(endpoint))
        .execute(conn)?;
    endpoints_changed(conn)
}

/// Marks an endpoint as deleted and forgets its secrets. False if it was not there.
pub(crate) fn delete_endpoint(conn: &mut Conn, id: &EndpointId, at: Timestamp) -> Result<bool, StoreError> {
    let marked = diesel::update(
        endpoints::table.filter(endpoints::id.eq(id.as_str())).filter(endpoints::deleted_at.is_null()),
    )
    .set(endpoints::deleted_at.eq(Some(at.as_micros())))
    .execute(conn)?;
    diesel::delete(secrets::table.filter(secrets::endpoint_id.eq(id.as_str()))).execute(conn)?;
    endpoints_changed(conn)?;
    Ok(marked > 0)
}

fn endpoints_changed(conn: &mut Conn) -> Result<(), StoreError> {
    diesel::update(counters::table.find(ENDPOINTS))
        .set(counters::value.eq(counters::value + 1))
        .execute(conn)?;
    Ok(())
}

/// Makes `secret` the present one; those before it sign until `grace_ends`.
pub(crate) fn add_secret(
    conn: &mut Conn,
    id: &EndpointId,
    secret: &Secret,
    at: Timestamp,
    grace_ends: Timestamp,
) -> Result<(), StoreError> {
    let of_endpoint = || secrets::table.filter(secrets::endpoint_id.eq(id.as_str()));
    diesel::delete(of_endpoint().filter(secrets::expires_at.le(at.as_micros()))).execute(conn)?;
    diesel::update(of_endpoint().filter(secrets::expires_at.is_null()))
        .set(secrets::expires_at.eq(Some(grace_ends.as_micros())))
        .execute(conn)?;
    // Two rotations within a microsecond would have one key.
    let newest: Option<i64> = of_endpoint().select(max(secrets::created_at)).first(conn)?;
    let row = SecretRow {
        endpoint_id: id.to_string(),
        secret: secret.reveal(),
        created_at: newest.map_or(at.as_micros(), |newest| at.as_micros().max(newest + 1)),
        expires_at: None,
    };
    diesel::insert_into(secrets::table).values(row).execute(conn)?;
    endpoints_changed(conn)
}

/// Failed attempts in a row.
pub(crate) fn consecutive_failures(conn: &mut Conn, id: &EndpointId) -> Result<u32, StoreError> {
    let failures: Option<i32> =
        health::table.find(id.as_str()).select(health::consecutive_failures).first(conn).optional()?;
    Ok(failures.and_then(|failures| u32::try_from(failures).ok()).unwrap_or(0))
}

/// Forgets failures.
pub(crate) fn clear_health(conn: &mut Conn, id: &EndpointId) -> Result<(), StoreError> {
    diesel::delete(health::table.find(id.as_str())).execute(conn)?;
    Ok(())
}

/// What waits at an endpoint.
pub(crate) fn backlog(conn: &mut Conn, id: &EndpointId) -> Result<Backlog, StoreError> {
    let pending =
        || deliveries::table.filter(StatusIsPending).filter(deliveries::endpoint_id.eq(id.as_str()));
    let (waiting, oldest): (i64, Option<i64>) =
        pending().select((count_star(), min(deliveries::created_at))).first(conn)?;
    let held: i64 = pending().filter(deliveries::next_attempt_at.is_null()).count().get_result(conn)?;
    let sending: i64 = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::endpoint_id.eq(id.as_str()))
        .count()
        .get_result(conn)?;
    Ok(Backlog {
        pending: waiting.unsigned_abs(),
        sending: sending.unsigned_abs(),
        held: held.unsigned_abs(),
        oldest_pending_at: oldest.map(codec::time),
    })
}

// ── What a supervisor needs ────────────────────────────────────────────────────────────────────

/// Due deliveries of an endpoint, oldest first, and when the next one is due after those.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) queued: Vec<Queued>,
    /// `None`: nothing waits beyond `queued`.
    pub(crate) next: Option<Timestamp>,
}

/// At most `limit` due deliveries, and at most about `max_bytes` of bodies.
pub(crate) fn due(
    conn: &mut Conn,
    id: &EndpointId,
    now: Timestamp,
    limit: i64,
    max_bytes: usize,
) -> Result<Due, StoreError> {
    let keys: Vec<(String, Option<i64>, i64)> = deliveries::table
        .filter(StatusIsPending)
        .filter(deliveries::endpoint_id.eq(id.as_str()))
        .filter(deliveries::next_attempt_at.is_not_null())
        .order((deliveries::next_attempt_at, deliveries::created_at, deliveries::id))
        .limit(limit + 1)
        .select((deliveries::id, deliveries::next_attempt_at, deliveries::event_seq))
        .load(conn)?;
    let mut due = Due::default();
    let mut bytes = 0;
    for (delivery, at, seq) in keys {
        let at = codec::time(at.unwrap_or_default());
        let full = i64::try_from(due.queued.len()).is_ok_and(|read| read >= limit) || bytes >= max_bytes;
        if at > now || full {
            due.next = Some(at);
            break;
        }
        let row = events::table.find(seq).select(EventRow::as_select()).first(conn)?;
        bytes += row.body.len();
        let event = codec::shared_event(row)?;
        due.queued.push(Queued { id: DeliveryId::from_text(delivery), due: at, event });
    }
    Ok(due)
}

/// When the attempts of an endpoint that a rate limit still remembers started, at most `limit` of
/// the latest. An interrupted one counts as started when its interruption was found: nobody knows
/// better.
pub(crate) fn recent_starts(
    conn: &mut Conn,
    id: &EndpointId,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Timestamp>, StoreError> {
    let rows: Vec<(i64, i64, String)> = attempts::table
        .filter(attempts::endpoint_id.eq(id.as_str()))
        .filter(attempts::ended_at.gt(since.as_micros()))
        .order(attempts::ended_at.desc())
        .limit(limit)
        .select((attempts::started_at, attempts::ended_at, attempts::outcome))
        .load(conn)?;
    let start = |(started_at, ended_at, outcome): (i64, i64, String)| {
        codec::time(if outcome == Outcome::Interrupted.as_str() { ended_at } else { started_at })
    };
    Ok(rows.into_iter().map(start).filter(|at| *at > since).collect())
}

/// The claims that these deliveries are `sending` under.
pub(super) fn claims_of(conn: &mut Conn, ids: &[DeliveryId]) -> Result<Vec<Claimed>, StoreError> {
    let ids: Vec<&str> = ids.iter().map(DeliveryId::as_str).collect();
    let rows: Vec<DeliveryRow> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::id.eq_any(ids))
        .select(DeliveryRow::as_select())
        .load(conn)?;
    rows.iter().map(codec::claimed).collect()
}

// ── What the registry needs ────────────────────────────────────────────────────────────────────

/// An endpoint that has due work or claims, whatever hints were lost.
#[derive(Debug, Clone)]
pub(crate) struct Stirring {
    pub(crate) endpoint_id: EndpointId,
    /// When its next delivery is due, if one waits for a time.
    pub(crate) next: Option<Timestamp>,
    /// What it is `sending`.
    pub(crate) sending: Vec<DeliveryId>,
}

/// Endpoints that may be sent to and have something due before `horizon`, or something `sending`.
///
/// Steps from endpoint to endpoint through the index, so that a long backlog costs no more than a
/// short one.
pub(crate) fn stirring(conn: &mut Conn, horizon: Timestamp) -> Result<Vec<Stirring>, StoreError> {
    let mut found = std::collections::BTreeMap::<String, Stirring>::new();
    let rows: Vec<(String, String)> = deliveries::table
        .filter(StatusIsSending)
        .select((deliveries::endpoint_id, deliveries::id))
        .load(conn)?;
    for (endpoint, delivery) in rows {
        let id = EndpointId::from_text(endpoint.as_str());
        let entry = found.entry(endpoint).or_insert_with(|| Stirring {
            endpoint_id: id,
            next: None,
            sending: Vec::new(),
        });
        entry.sending.push(DeliveryId::from_text(delivery));
    }
    let mut last = String::new();
    while let Some(endpoint) = next_waiting_endpoint(conn, &last)? {
        let next: Option<i64> = deliveries::table
            .filter(StatusIsPending)
            .filter(deliveries::endpoint_id.eq(&endpoint))
            .select(min(deliveries::next_attempt_at))
            .first(conn)?;
        if let Some(next) = next.map(codec::time).filter(|next| *next <= horizon)
            && is_active(conn, &endpoint)?
        {
            let id = EndpointId::from_text(endpoint.as_str());
            found
                .entry(endpoint.clone())
                .or_insert_with(|| Stirring { endpoint_id: id, next: None, sending: Vec::new() })
                .next = Some(next);
        }
        last = endpoint;
    }
    Ok(found.into_values().collect())
}

/// The first endpoint after `last` at which something is pending.
fn next_waiting_endpoint(conn: &mut Conn, last: &str) -> Result<Option<String>, StoreError> {
    Ok(deliveries::table
        .filter(StatusIsPending)
        .filter(deliveries::endpoint_id.gt(last))
        .select(min(deliveries::endpoint_id))
        .first(conn)?)
}

fn is_active(conn: &mut Conn, id: &str) -> Result<bool, StoreError> {
    let found: i64 = endpoints::table
        .filter(endpoints::id.eq(id))
        .filter(endpoints::pause_reason.is_null())
        .filter(endpoints::deleted_at.is_null())
        .count()
        .get_result(conn)?;
    Ok(found > 0)
}

// ── Maintenance ────────────────────────────────────────────────────────────────────────────────

/// One batch of retention.
#[derive(Debug, Clone)]
pub(crate) struct Retire {
    /// Events published before this are outdated.
    pub(crate) cutoff: Timestamp,
    /// Deliveries that changed after this stay: a rate limit may still remember their attempts.
    pub(crate) quiet_since: Timestamp,
    /// Where the batch before left off.
    pub(crate) after_seq: i64,
    pub(crate) limit: i64,
}

/// What one batch of retention came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) events: usize,
    pub(crate) last_seq: i64,
    /// Whether another batch may find more.
    pub(crate) more: bool,
}

/// Why a pending delivery is to be failed without having been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    Expired,
    EndpointDeleted,
}

/// Pending deliveries that have outlived their endpoint or its `max_age`, at most `limit` of each.
pub(crate) fn overdue(
    conn: &mut Conn,
    defaults: &EndpointDefaults,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<(DeliveryId, Overdue)>, StoreError> {
    let mut found = Vec::new();
    let mut last = String::new();
    while let Some(id) = next_waiting_endpoint(conn, &last)? {
        let endpoint = endpoint(conn, defaults, &EndpointId::from_text(id.as_str()))?;
        let (cutoff, why) = match endpoint {
            Some(endpoint) => (now - endpoint.max_age, Overdue::Expired),
            None => (Timestamp::from_micros(i64::MAX), Overdue::EndpointDeleted),
        };
        let ids: Vec<String> = deliveries::table
            .filter(StatusIsPending)
            .filter(deliveries::endpoint_id.eq(&id))
            .filter(deliveries::created_at.lt(cutoff.as_micros()))
            .limit(limit)
            .select(deliveries::id)
            .load(conn)?;
        found.extend(ids.into_iter().map(|id| (DeliveryId::from_text(id), why)));
        last = id;
    }
    Ok(found)
}

// ── Deliveries ─────────────────────────────────────────────────────────────────────────────────

/// A delivery as the lifecycle sees it.
pub(crate) fn life(conn: &mut Conn, id: &DeliveryId) -> Result<Option<Life>, StoreError> {
    let row = deliveries::table
        .find(id.as_str())
        .select(super::rows::LifeColumns::as_select())
        .first(conn)
        .optional()?;
    row.as_ref().map(codec::life).transpose()
}

/// Writes what the lifecycle decided of a delivery that is not `sending`.
pub(crate) fn set_life(
    conn: &mut Conn,
    id: &DeliveryId,
    life: &Life,
    at: Timestamp,
) -> Result<(), StoreError> {
    diesel::update(deliveries::table.find(id.as_str()))
        .set((codec::life_columns(life), deliveries::updated_at.eq(at.as_micros())))
        .execute(conn)?;
    Ok(())
}

/// Which deliveries a list is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeliveryFilter {
    pub(crate) endpoint_id: Option<EndpointId>,
    pub(crate) event_id: Option<EventId>,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) status: Option<Status>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

pub(crate) fn delivery(conn: &mut Conn, id: &DeliveryId) -> Result<Option<Delivery>, StoreError> {
    let row: Option<(DeliveryRow, String, String)> = deliveries::table
        .inner_join(events::table)
        .filter(deliveries::id.eq(id.as_str()))
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .first(conn)
        .optional()?;
    row.map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type)).transpose()
}

pub(crate) fn deliveries_page(
    conn: &mut Conn,
    filter: &DeliveryFilter,
    page: &Page,
) -> Result<Vec<Delivery>, StoreError> {
    let mut query = deliveries::table
        .inner_join(events::table)
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .order(deliveries::id.desc())
        .limit(page.limit)
        .into_boxed();
    if let Some(id) = &filter.endpoint_id {
        query = query.filter(deliveries::endpoint_id.eq(id.to_string()));
    }
    if let Some(id) = &filter.event_id {
        query = query.filter(events::id.eq(id.to_string()));
    }
    if let Some(tenant) = &filter.tenant {
        query = query.filter(deliveries::tenant.eq(tenant.to_string()));
    }
    match filter.status {
        Some(Status::Pending) => query = query.filter(StatusIsPending),
        Some(Status::Sending) => query = query.filter(StatusIsSending),
        Some(status) => query = query.filter(deliveries::status.eq(status.as_str())),
        None => {}
    }
    if let Some(since) = filter.since {
        query = query.filter(deliveries::created_at.ge(since.as_micros()));
    }
    if let Some(until) = filter.until {
        query = query.filter(deliveries::created_at.lt(until.as_micros()));
    }
    if let Some(after) = &page.after {
        query = query.filter(deliveries::id.lt(after.clone()));
    }
    let rows: Vec<(DeliveryRow, String, String)> = query.load(conn)?;
    rows.into_iter().map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type)).collect()
}

/// A delivery's attempts, oldest first.
pub(crate) fn attempts_of(conn: &mut Conn, id: &DeliveryId) -> Result<Vec<Attempt>, StoreError> {
    let rows: Vec<AttemptRow> = attempts::table
        .filter(attempts::delivery_id.eq(id.as_str()))
        .order(attempts::claim_no)
        .select(AttemptRow::as_select())
        .load(conn)?;
    rows.into_iter().map(codec::attempt).collect()
}

// ── Events ─────────────────────────────────────────────────────────────────────────────────────

/// Which events a list is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQuery {
    pub(crate) event_type: Option<String>,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

/// An event and its place in the order of publishing.
pub(crate) type StoredEvent = (i64, Arc<SealedEvent>);

pub(crate) fn event(
    conn: &mut Conn,
    tenant: &Tenant,
    id: &EventId,
) -> Result<Option<StoredEvent>, StoreError> {
    let row: Option<EventRow> = events::table
        .filter(events::tenant.eq(tenant.as_str()))
        .filter(events::id.eq(id.as_str()))
        .select(EventRow::as_select())
        .first(conn)
        .optional()?;
    row.map(stored_event).transpose()
}

pub(crate) fn events_page(
    conn: &mut Conn,
    filter: &EventQuery,
    page: &Page,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut query =
        events::table.select(EventRow::as_select()).order(events::seq.desc()).limit(page.limit).into_boxed();
    if let Some(event_type) = &filter.event_type {
        query = query.filter(events::event_type.eq(event_type.clone()));
    }
    if let Some(tenant) = &filter.tenant {
        query = query.filter(events::tenant.eq(tenant.to_string()));
    }
    if let Some(since) = filter.since {
        query = query.filter(events::created_at.ge(since.as_micros()));
    }
    if let Some(until) = filter.until {
        query = query.filter(events::created_at.lt(until.as_micros()));
    }
    if let Some(after) = page.after.as_deref().and_then(|after| after.parse::<i64>().ok()) {
        query = query.filter(events::seq.lt(after));
    }
    let rows: Vec<EventRow> = query.load(conn)?;
    rows.into_iter().map(stored_event).collect()
}

fn stored_event(row: EventRow) -> Result<StoredEvent, StoreError> {
    Ok((row.seq, codec::shared_event(row)?))
}

/// An event's deliveries, in the order they were made.
pub(crate) fn deliveries_of_event(conn: &mut Conn, seq: i64) -> Result<Vec<Delivery>, StoreError> {
    let rows: Vec<(DeliveryRow, String, String)> = deliveries::table
        .inner_join(events::table)
        .filter(deliveries::event_seq.eq(seq))
        .order(deliveries::id)
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .load(conn)?;
    rows.into_iter().map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type)).collect()
}

/// A statement that fails where the database takes no writes, and changes nothing where it does.
pub(crate) fn probe_write(conn: &mut Conn) -> Result<(), StoreError> {
    diesel::update(counters::table.find(EPOCH)).set(counters::value.eq(counters::value + 0)).execute(conn)?;
    Ok(())
}
