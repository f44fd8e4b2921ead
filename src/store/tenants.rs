//! Numbers of tenants, which rows contain in place of names. A number is never given to another
//! tenant.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::StoreError;
use super::schema::webhook_tenants as tenants;
use super::writes::OrderingKey;
use crate::domain::ids::Tenant;

/// Returns what is locked while a tenant gets its number. (No ordering key is empty.)
pub(super) const fn new_tenant(tenant: &Tenant) -> OrderingKey<'_> {
    (tenant, "")
}

/// Returns a tenant's number; `None` for a tenant without events and endpoints.
pub(super) fn number_of(
    conn: &mut AnyConnection,
    tenant: &Tenant,
) -> Result<Option<i32>, StoreError> {
    Ok(tenants::table
        .filter(tenants::tenant.eq(tenant.as_str()))
        .select(tenants::number)
        .first(conn)
        .optional()?)
}

/// Returns a tenant's number, giving it one on first use. Waits for a transaction that is giving it
/// one.
pub(super) fn number_for(conn: &mut AnyConnection, tenant: &Tenant) -> Result<i32, StoreError> {
    if let Some(number) = number_of(conn, tenant)? {
        return Ok(number);
    }
    conn.dialect().insert_tenant(tenant)?;
    Ok(tenants::table
        .filter(tenants::tenant.eq(tenant.as_str()))
        .select(tenants::number)
        .first(conn)?)
}
