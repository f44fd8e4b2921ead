//! Endpoints, their secrets and their health.

use diesel::dsl::{count_star, max, min};
use diesel::prelude::*;

use super::deliveries::of_endpoint;
use super::{Conn, ENDPOINTS, Page, raise_counter};
use crate::domain::breaker::Health;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Finished;
use crate::domain::endpoint::{Backlog, Endpoint, LiveKeys};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lifecycle::HoldReason;
use crate::store::rows::{EndpointRow, HealthRow, SecretRow};
use crate::store::schema::{
    webhook_deliveries as deliveries, webhook_endpoint_health as health, webhook_endpoint_secrets as secrets,
    webhook_endpoints as endpoints,
};
use crate::store::status_is::{StatusIsPending, StatusIsSending};
use crate::store::{EndpointCodec, StoreError, Target, codec};

/// An endpoint that has not been deleted.
pub(crate) fn endpoint(
    conn: &mut Conn,
    codec: &EndpointCodec,
    id: &EndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    let row = endpoints::table
        .find(id.as_str())
        .filter(endpoints::deleted_at.is_null())
        .select(EndpointRow::as_select())
        .first(conn)
        .optional()?;
    Ok(with_secrets(conn, codec, row.into_iter().collect())?.pop())
}

/// Whose endpoint it is, if it has not been deleted.
pub(crate) fn tenant_of_endpoint(conn: &mut Conn, id: &EndpointId) -> Result<Option<Tenant>, StoreError> {
    let of = endpoints::table.find(id.as_str()).filter(endpoints::deleted_at.is_null());
    let tenant: Option<String> = of.select(endpoints::tenant).first(conn).optional()?;
    Ok(tenant.map(Tenant::from_text))
}

/// All endpoints of a tenant, as publishing needs to know them: no key is needed to read that.
pub(crate) fn targets_of(conn: &mut Conn, tenant: &Tenant) -> Result<Vec<Target>, StoreError> {
    let rows: Vec<(String, String)> = endpoints::table
        .filter(endpoints::tenant.eq(tenant.as_str()))
        .filter(endpoints::deleted_at.is_null())
        .order(endpoints::id)
        .select((endpoints::id, endpoints::event_types))
        .load(conn)?;
    let target = |(id, event_types): (String, String)| {
        let event_types = codec::json("webhook_endpoints", "event_types", &event_types)?;
        Ok(Target { id: EndpointId::from_text(id), tenant: tenant.clone(), event_types })
    };
    rows.into_iter().map(target).collect()
}

/// Which endpoints a list is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointFilter {
    pub(crate) tenant: Option<Tenant>,
    /// Only the paused ones, or only the others.
    pub(crate) paused: Option<bool>,
    /// Only those with this in their URL or description.
    pub(crate) search: Option<String>,
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// Without upper case.
    fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text;
}

pub(crate) fn endpoints_page(
    conn: &mut Conn,
    codec: &EndpointCodec,
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
    if let Some(search) = &filter.search {
        // What LIKE makes something of is meant as it stands.
        let escaped = search.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let pattern = format!("%{escaped}%");
        let found = lower(endpoints::url).like(pattern.clone()).escape('\\');
        query = query.filter(found.or(lower(endpoints::description).like(pattern).escape('\\')));
    }
    if let Some(after) = &page.after {
        query = query.filter(endpoints::id.lt(after.clone()));
    }
    let rows = query.load(conn)?;
    with_secrets(conn, codec, rows)
}

fn with_secrets(
    conn: &mut Conn,
    codec: &EndpointCodec,
    rows: Vec<EndpointRow>,
) -> Result<Vec<Endpoint>, StoreError> {
    let mut complete = Vec::with_capacity(rows.len());
    for row in rows {
        let of_endpoint: Vec<SecretRow> = secrets::table
            .filter(secrets::endpoint_id.eq(&row.id))
            .order(secrets::created_at.desc())
            .select(SecretRow::as_select())
            .load(conn)?;
        complete.push(codec.endpoint(row, of_endpoint)?);
    }
    Ok(complete)
}

pub(crate) fn insert_endpoint(
    conn: &mut Conn,
    codec: &EndpointCodec,
    endpoint: &Endpoint,
) -> Result<(), StoreError> {
    diesel::insert_into(endpoints::table).values(codec.row(endpoint)?).execute(conn)?;
    endpoints_changed(conn)
}

/// Writes an endpoint's settings and pause. Its secrets are rows of their own.
pub(crate) fn update_endpoint(
    conn: &mut Conn,
    codec: &EndpointCodec,
    endpoint: &Endpoint,
) -> Result<(), StoreError> {
    diesel::update(endpoints::table.find(endpoint.id.as_str())).set(codec.row(endpoint)?).execute(conn)?;
    endpoints_changed(conn)
}

/// Marks an endpoint as deleted and forgets its secrets and headers. False if it was not there.
pub(crate) fn delete_endpoint(conn: &mut Conn, id: &EndpointId, at: Timestamp) -> Result<bool, StoreError> {
    let marked = diesel::update(
        endpoints::table.filter(endpoints::id.eq(id.as_str())).filter(endpoints::deleted_at.is_null()),
    )
    .set((endpoints::deleted_at.eq(Some(at.as_micros())), endpoints::headers.eq("{}")))
    .execute(conn)?;
    diesel::delete(secrets::table.filter(secrets::endpoint_id.eq(id.as_str()))).execute(conn)?;
    endpoints_changed(conn)?;
    Ok(marked > 0)
}

fn endpoints_changed(conn: &mut Conn) -> Result<(), StoreError> {
    raise_counter(conn, ENDPOINTS)
}

/// Makes `keys` the present ones; those before them sign until `grace_ends`.
pub(crate) fn add_keys(
    conn: &mut Conn,
    codec: &EndpointCodec,
    id: &EndpointId,
    keys: &LiveKeys,
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
    let created_at = newest.map_or(at.as_micros(), |newest| at.as_micros().max(newest + 1));
    let row = codec.secret_row(id, keys, created_at)?;
    diesel::insert_into(secrets::table).values(row).execute(conn)?;
    endpoints_changed(conn)
}

/// How many keys of an endpoint sign.
pub(crate) fn live_keys(conn: &mut Conn, id: &EndpointId, now: Timestamp) -> Result<i64, StoreError> {
    let live = secrets::expires_at.is_null().or(secrets::expires_at.gt(now.as_micros()).assume_not_null());
    Ok(secrets::table.filter(secrets::endpoint_id.eq(id.as_str())).filter(live).count().get_result(conn)?)
}

/// How an endpoint is doing, as its last attempts left it.
pub(crate) fn health(conn: &mut Conn, id: &EndpointId) -> Result<Health, StoreError> {
    let row = health::table.find(id.as_str()).select(HealthRow::as_select()).get_result(conn).optional()?;
    row.as_ref().map_or(Ok(Health::default()), codec::health)
}

/// How an endpoint is doing after an attempt, as its supervisor judged. Most attempts change nothing of
/// it, and then nothing is written.
pub(crate) fn record_health(conn: &mut Conn, finished: &Finished) -> Result<(), StoreError> {
    let id = finished.endpoint_id.as_str();
    if finished.health != finished.health_before {
        let row = codec::health_row(&finished.endpoint_id, &finished.health);
        // No other one writes it: an endpoint has one supervisor.
        if diesel::update(health::table.find(id)).set(row.clone()).execute(conn)? == 0 {
            diesel::insert_into(health::table).values(row).execute(conn)?;
        }
    }
    if let Some(reason) = finished.pause {
        diesel::update(
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
        raise_counter(conn, ENDPOINTS)?;
    }
    Ok(())
}

/// Forgets failures.
pub(crate) fn clear_health(conn: &mut Conn, id: &EndpointId) -> Result<(), StoreError> {
    diesel::delete(health::table.find(id.as_str())).execute(conn)?;
    Ok(())
}

/// What waits at an endpoint.
pub(crate) fn backlog(conn: &mut Conn, id: &EndpointId) -> Result<Backlog, StoreError> {
    let pending = || deliveries::table.filter(StatusIsPending).filter(of_endpoint(id));
    let (waiting, oldest): (i64, Option<i64>) =
        pending().select((count_star(), min(deliveries::created_at))).first(conn)?;
    let held = pending()
        .filter(deliveries::next_attempt_at.is_null())
        .filter(deliveries::hold_reason.eq(HoldReason::Interrupted.as_str()));
    let held: i64 = held.count().get_result(conn)?;
    let sending: i64 =
        deliveries::table.filter(StatusIsSending).filter(of_endpoint(id)).count().get_result(conn)?;
    Ok(Backlog {
        pending: waiting.unsigned_abs(),
        sending: sending.unsigned_abs(),
        held: held.unsigned_abs(),
        oldest_pending_at: oldest.map(codec::time),
    })
}
