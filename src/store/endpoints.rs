//! Reading endpoints.

use std::collections::HashMap;

use diesel::prelude::*;

use super::codec;
use super::connection::{AnyBackend, AnyConnection};
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::numbers;
use super::rows::{EndpointRow, SecretRow};
use super::schema::{
    webhook_endpoint_secrets as secrets, webhook_endpoints as endpoints, webhook_tenants as tenants,
};
use super::store::Store;
use super::writes::Subscriber;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::query::{EndpointQuery, Listed, Page};

impl Store {
    /// Reads an endpoint that has not been deleted.
    pub(crate) async fn endpoint(&self, id: &EndpointId) -> Result<Option<Endpoint>, StoreError> {
        let id = id.clone();
        self.read("endpoint", move |conn, codec| endpoint(conn, codec, &id))
            .await
    }

    /// Returns an endpoint's tenant, unless it has been deleted.
    pub(crate) async fn tenant_of_endpoint(
        &self,
        id: &EndpointId,
    ) -> Result<Option<Tenant>, StoreError> {
        let id = id.clone();
        self.read("tenant", move |conn, _| tenant_of_endpoint(conn, &id))
            .await
    }

    /// Reads a page of endpoints, newest first.
    pub(crate) async fn endpoints(
        &self,
        query: EndpointQuery,
        page: Page<EndpointId>,
    ) -> Result<Listed<Endpoint, EndpointId>, StoreError> {
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let rows = endpoints_page(conn, codec, &query, &page)?;
            Ok(page.of(rows, |endpoint| endpoint.id.clone(), None))
        };
        self.read("endpoints", read).await
    }

    /// Reads endpoints by their ids, in that order; deleted ones are left out.
    pub(crate) async fn endpoints_of(
        &self,
        ids: Vec<EndpointId>,
    ) -> Result<Vec<Endpoint>, StoreError> {
        self.read("endpoints", move |conn, codec| {
            endpoints_of(conn, codec, &ids)
        })
        .await
    }
}

/// Reads endpoints by their ids, in that order; deleted ones are left out.
pub(super) fn endpoints_of(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    ids: &[EndpointId],
) -> Result<Vec<Endpoint>, StoreError> {
    let rows: Vec<(EndpointRow, String)> = present()
        .filter(endpoints::id.eq_any(ids.iter().map(EndpointId::as_str)))
        .load(conn)?;
    let mut found = with_secrets(conn, codec, rows)?;
    let places: HashMap<&EndpointId, usize> = ids.iter().zip(0..).collect();
    found.sort_by_key(|endpoint| places.get(&endpoint.id).copied());
    Ok(found)
}

/// Selects the endpoints that have not been deleted, with their tenants.
#[diesel::dsl::auto_type]
fn present() -> _ {
    let row: diesel::dsl::AsSelect<EndpointRow, AnyBackend> = EndpointRow::as_select();
    endpoints::table
        .inner_join(tenants::table)
        .filter(endpoints::deleted_at.is_null())
        .select((row, tenants::tenant))
}

/// Reads an endpoint that has not been deleted.
pub(super) fn endpoint(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    id: &EndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    let row = present()
        .filter(endpoints::id.eq(id.as_str()))
        .first(conn)
        .optional()?;
    Ok(with_secrets(conn, codec, row.into_iter().collect())?.pop())
}

/// Returns an endpoint's tenant, unless it has been deleted.
pub(super) fn tenant_of_endpoint(
    conn: &mut AnyConnection,
    id: &EndpointId,
) -> Result<Option<Tenant>, StoreError> {
    let tenant: Option<String> = endpoints::table
        .inner_join(tenants::table)
        .filter(endpoints::id.eq(id.as_str()))
        .filter(endpoints::deleted_at.is_null())
        .select(tenants::tenant)
        .first(conn)
        .optional()?;
    Ok(tenant.map(Tenant::from_text))
}

/// Returns a tenant's endpoints without their secrets, for publishing, in the order of their ids.
pub(super) fn subscribers_of(
    conn: &mut AnyConnection,
    tenant: &Tenant,
) -> Result<Vec<Subscriber>, StoreError> {
    let rows: Vec<(String, i32, String)> = endpoints::table
        .filter(numbers::endpoints_of(tenant))
        .filter(endpoints::deleted_at.is_null())
        .order(endpoints::id)
        .select((endpoints::id, endpoints::number, endpoints::event_types))
        .load(conn)?;
    rows.into_iter().map(subscriber).collect()
}

fn subscriber((id, number, event_types): (String, i32, String)) -> Result<Subscriber, StoreError> {
    let event_types = codec::json("webhook_endpoints", "event_types", &event_types)?;
    Ok(Subscriber {
        id: EndpointId::from_text(id),
        number,
        event_types,
    })
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// Lower-case text.
    fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text;
}

fn endpoints_page(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    query: &EndpointQuery,
    page: &Page<EndpointId>,
) -> Result<Vec<Endpoint>, StoreError> {
    let mut rows = present()
        .order(endpoints::id.desc())
        .limit(page.rows())
        .into_boxed();
    if let Some(tenant) = &query.tenant {
        rows = rows.filter(numbers::endpoints_of(tenant));
    }
    match query.paused {
        Some(true) => rows = rows.filter(endpoints::pause_reason.is_not_null()),
        Some(false) => rows = rows.filter(endpoints::pause_reason.is_null()),
        None => {}
    }
    if let Some(search) = &query.search {
        let pattern = containing(search);
        let found = lower(endpoints::url).like(pattern.clone()).escape('\\');
        rows = rows.filter(found.or(lower(endpoints::description).like(pattern).escape('\\')));
    }
    if let Some(after) = &page.after {
        rows = rows.filter(endpoints::id.lt(after.to_string()));
    }
    let rows = rows.load(conn)?;
    with_secrets(conn, codec, rows)
}

/// Returns a LIKE pattern that matches texts containing `search` literally.
fn containing(search: &str) -> String {
    let mut pattern = String::from("%");
    for c in search.to_lowercase().chars() {
        if matches!(c, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// Adds the secrets to endpoints, with one statement for all.
fn with_secrets(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    rows: Vec<(EndpointRow, String)>,
) -> Result<Vec<Endpoint>, StoreError> {
    let ids: Vec<&str> = rows.iter().map(|(row, _)| row.id.as_str()).collect();
    let found: Vec<SecretRow> = match ids[..] {
        [] => return Ok(Vec::new()),
        // The usual case; its statement stays prepared.
        [id] => secrets::table
            .filter(secrets::endpoint_id.eq(id))
            .order(secrets::created_at.desc())
            .select(SecretRow::as_select())
            .load(conn)?,
        _ => secrets::table
            .filter(secrets::endpoint_id.eq_any(&ids))
            .order(secrets::created_at.desc())
            .select(SecretRow::as_select())
            .load(conn)?,
    };
    let mut of: HashMap<String, Vec<SecretRow>> = HashMap::new();
    for secret in found {
        of.entry(secret.endpoint_id.clone())
            .or_default()
            .push(secret);
    }
    let complete = |(row, tenant): (EndpointRow, String)| {
        let own = of.remove(&row.id).unwrap_or_default();
        codec.endpoint(row, Tenant::from_text(tenant), own)
    };
    rows.into_iter().map(complete).collect()
}

/// An endpoint that was changed.
pub(super) struct ChangedEndpoint {
    pub(super) id: EndpointId,
    pub(super) tenant: Tenant,
    pub(super) change_no: i64,
    /// `None` once it has been deleted.
    pub(super) subscriber: Option<Subscriber>,
}

/// Returns the endpoints that were changed after the counter had that value, in the order of their
/// last changes; at most `limit`.
pub(super) fn changed_after(
    conn: &mut AnyConnection,
    change_no: i64,
    limit: i64,
) -> Result<Vec<ChangedEndpoint>, StoreError> {
    let rows: Vec<(String, String, i64, i32, String, Option<i64>)> = endpoints::table
        .inner_join(tenants::table)
        .filter(endpoints::change_no.gt(change_no))
        .order(endpoints::change_no)
        .limit(limit)
        .select((
            endpoints::id,
            tenants::tenant,
            endpoints::change_no,
            endpoints::number,
            endpoints::event_types,
            endpoints::deleted_at,
        ))
        .load(conn)?;
    let mut changed = Vec::with_capacity(rows.len());
    for (id, tenant, change_no, number, event_types, deleted_at) in rows {
        changed.push(ChangedEndpoint {
            subscriber: match deleted_at {
                Some(_) => None,
                None => Some(subscriber((id.clone(), number, event_types))?),
            },
            id: EndpointId::from_text(id),
            tenant: Tenant::from_text(tenant),
            change_no,
        });
    }
    Ok(changed)
}
