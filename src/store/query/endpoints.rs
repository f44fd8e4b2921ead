//! Endpoints, their secrets and their health.

use diesel::dsl::{count_star, max, min};
use diesel::prelude::*;

use super::deliveries::of_endpoint;
use super::{Conn, ENDPOINTS, Page, counter, raise_counter};
use crate::domain::breaker::Health;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Finished;
use crate::domain::endpoint::{Backlog, Endpoint, LiveKeys, PauseReason};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lifecycle::HoldReason;
use crate::store::rows::{EndpointRow, HealthRow, SecretRow};
use crate::store::schema::{
    webhook_deliveries as deliveries, webhook_endpoint_health as health,
    webhook_endpoint_secrets as secrets, webhook_endpoints as endpoints,
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
pub(crate) fn tenant_of_endpoint(
    conn: &mut Conn,
    id: &EndpointId,
) -> Result<Option<Tenant>, StoreError> {
    let of = endpoints::table
        .find(id.as_str())
        .filter(endpoints::deleted_at.is_null());
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
        Ok(Target {
            id: EndpointId::from_text(id),
            tenant: tenant.clone(),
            event_types,
        })
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
        let escaped = search
            .to_lowercase()
            .replace('\\', "\\\\")
            .replace('%', "\\%")
            .replace('_', "\\_");
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
    diesel::insert_into(endpoints::table)
        .values(codec.row(endpoint)?)
        .execute(conn)?;
    // From the beginning, so that whoever changes it later finds a row, and no two insert it at
    // once.
    let health = codec::health_row(&endpoint.id, &StoredHealth::default());
    diesel::insert_into(health::table)
        .values(health)
        .execute(conn)?;
    endpoint_changed(conn, &endpoint.id)
}

/// Writes an endpoint's settings and pause. Its secrets are rows of their own.
pub(crate) fn update_endpoint(
    conn: &mut Conn,
    codec: &EndpointCodec,
    endpoint: &Endpoint,
) -> Result<(), StoreError> {
    diesel::update(endpoints::table.find(endpoint.id.as_str()))
        .set(codec.row(endpoint)?)
        .execute(conn)?;
    endpoint_changed(conn, &endpoint.id)
}

/// Marks an endpoint as deleted and forgets its secrets and headers. False if it was not there.
pub(crate) fn delete_endpoint(
    conn: &mut Conn,
    id: &EndpointId,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let marked = diesel::update(
        endpoints::table
            .filter(endpoints::id.eq(id.as_str()))
            .filter(endpoints::deleted_at.is_null()),
    )
    .set((
        endpoints::deleted_at.eq(Some(at.as_micros())),
        endpoints::headers.eq("{}"),
    ))
    .execute(conn)?;
    diesel::delete(secrets::table.filter(secrets::endpoint_id.eq(id.as_str()))).execute(conn)?;
    endpoint_changed(conn, id)?;
    Ok(marked > 0)
}

/// Marks an endpoint as changed for all that keep a copy of it. Who raises the counter waits for
/// whoever has raised it before, so its values are in the order of the commits.
fn endpoint_changed(conn: &mut Conn, id: &EndpointId) -> Result<(), StoreError> {
    raise_counter(conn, ENDPOINTS)?;
    let change_no = counter(conn, ENDPOINTS)?;
    diesel::update(endpoints::table.find(id.as_str()))
        .set(endpoints::change_no.eq(change_no))
        .execute(conn)?;
    Ok(())
}

/// The endpoints that were changed after the counter had that value, deleted ones included; at most
/// `limit`.
pub(crate) fn changed_after(
    conn: &mut Conn,
    change_no: i64,
    limit: i64,
) -> Result<Vec<(EndpointId, Tenant)>, StoreError> {
    let rows: Vec<(String, String)> = endpoints::table
        .filter(endpoints::change_no.gt(change_no))
        .order(endpoints::change_no)
        .limit(limit)
        .select((endpoints::id, endpoints::tenant))
        .load(conn)?;
    Ok(rows
        .into_iter()
        .map(|(id, tenant)| (EndpointId::from_text(id), Tenant::from_text(tenant)))
        .collect())
}

/// Makes `keys` the present ones; those before them sign until `grace_ends`. Without a grace they
/// are removed, so that a clock that is set back brings none of them back.
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
    let present = of_endpoint().filter(secrets::expires_at.is_null());
    if grace_ends <= at {
        diesel::delete(present).execute(conn)?;
    } else {
        diesel::update(present)
            .set(secrets::expires_at.eq(Some(grace_ends.as_micros())))
            .execute(conn)?;
    }
    // Two rotations within a microsecond would have one key.
    let newest: Option<i64> = of_endpoint().select(max(secrets::created_at)).first(conn)?;
    let created_at = newest.map_or(at.as_micros(), |newest| at.as_micros().max(newest + 1));
    let row = codec.secret_row(id, keys, created_at)?;
    diesel::insert_into(secrets::table)
        .values(row)
        .execute(conn)?;
    endpoint_changed(conn, id)
}

/// Removes the older keys of an endpoint, or the one that was created then: they sign nothing any
/// more.
pub(crate) fn end_older_keys(
    conn: &mut Conn,
    id: &EndpointId,
    created_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let older = || {
        let of_endpoint = secrets::table.filter(secrets::endpoint_id.eq(id.as_str()));
        of_endpoint.filter(secrets::expires_at.is_not_null())
    };
    match created_at {
        Some(created_at) => {
            diesel::delete(older().filter(secrets::created_at.eq(created_at.as_micros())))
                .execute(conn)?
        }
        None => diesel::delete(older()).execute(conn)?,
    };
    Ok(())
}

/// How an endpoint is doing, and which version of that it is: raised by each change that its
/// supervisor has not made itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoredHealth {
    pub(crate) health: Health,
    pub(crate) epoch: i64,
}

/// How an endpoint is doing, as its last attempts, or a person, left it.
pub(crate) fn health(conn: &mut Conn, id: &EndpointId) -> Result<StoredHealth, StoreError> {
    let row = health::table
        .find(id.as_str())
        .select(HealthRow::as_select())
        .get_result(conn)
        .optional()?;
    row.as_ref()
        .map_or(Ok(StoredHealth::default()), codec::health)
}

/// How an endpoint is doing after an attempt, as its supervisor judged. Most attempts change
/// nothing of it, and then nothing is written. False where somebody has changed it meanwhile: then
/// that stands.
pub(crate) fn record_health(conn: &mut Conn, finished: &Finished) -> Result<bool, StoreError> {
    let (id, epoch) = (finished.endpoint_id.as_str(), finished.health_epoch);
    let mut current = true;
    if finished.health != finished.health_before {
        let stored = StoredHealth {
            health: finished.health,
            epoch,
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
    // A pause for what was forgiven meanwhile would come too late; a 410 is a 410.
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

/// Replaces how an endpoint is doing by what somebody else than its supervisor says.
pub(crate) fn replace_health(
    conn: &mut Conn,
    id: &EndpointId,
    health: Health,
) -> Result<StoredHealth, StoreError> {
    let present = health::table
        .find(id.as_str())
        .select(health::epoch)
        .first::<i64>(conn)
        .optional()?;
    let stored = StoredHealth {
        health,
        epoch: present.unwrap_or(0) + 1,
    };
    let row = codec::health_row(id, &stored);
    match present {
        Some(_) => diesel::update(health::table.find(id.as_str()))
            .set(row)
            .execute(conn)?,
        None => diesel::insert_into(health::table)
            .values(row)
            .execute(conn)?,
    };
    Ok(stored)
}

/// What waits at an endpoint.
pub(crate) fn backlog(conn: &mut Conn, id: &EndpointId) -> Result<Backlog, StoreError> {
    let pending = || {
        deliveries::table
            .filter(StatusIsPending)
            .filter(of_endpoint(id))
    };
    let (waiting, oldest): (i64, Option<i64>) = pending()
        .select((count_star(), min(deliveries::created_at)))
        .first(conn)?;
    let held = pending()
        .filter(deliveries::next_attempt_at.is_null())
        .filter(
            deliveries::hold_reason
                .ne(HoldReason::Order.as_str())
                .assume_not_null(),
        );
    let held: i64 = held.count().get_result(conn)?;
    let sending: i64 = deliveries::table
        .filter(StatusIsSending)
        .filter(of_endpoint(id))
        .count()
        .get_result(conn)?;
    Ok(Backlog {
        pending: waiting.unsigned_abs(),
        sending: sending.unsigned_abs(),
        held: held.unsigned_abs(),
        oldest_pending_at: oldest.map(codec::time),
    })
}
