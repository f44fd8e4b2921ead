//! Numbers of endpoints and tenants, which rows contain in place of ids and names.

use std::collections::HashMap;

use diesel::backend::Backend;
use diesel::expression::{
    AppearsOnTable, Expression, SelectableExpression, ValidGrouping, is_aggregate,
};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Integer, Text};

use super::connection::AnyConnection;
use super::counters::raised;
use super::error::StoreError;
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    webhook_events as events,
};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lease::Shard;

macro_rules! looked_up {
    ($(#[$meta:meta])* $name:ident, $sql:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, QueryId)]
        pub(super) struct $name(String);

        impl Expression for $name {
            type SqlType = Integer;
        }

        impl<DB: Backend + HasSqlType<Text>> QueryFragment<DB> for $name
        where
            String: ToSql<Text, DB>,
        {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
                out.push_sql($sql);
                out.push_bind_param::<Text, _>(&self.0)?;
                out.push_sql(")");
                Ok(())
            }
        }

        impl<QS> AppearsOnTable<QS> for $name {}
        impl<QS> SelectableExpression<QS> for $name {}
        impl<GB> ValidGrouping<GB> for $name {
            type IsAggregate = is_aggregate::Never;
        }
    };
}

looked_up! {
    /// The number of an endpoint, looked up by the statement that uses it.
    NumberOf, "(SELECT number FROM webhook_endpoints WHERE webhook_endpoints.id = "
}
looked_up! {
    /// The number of a tenant, looked up by the statement that uses it.
    TenantNumberOf, "(SELECT number FROM webhook_tenants WHERE webhook_tenants.tenant = "
}

/// Selects a tenant's events.
pub(super) fn events_of(tenant: &Tenant) -> diesel::dsl::Eq<events::tenant, TenantNumberOf> {
    events::tenant.eq(TenantNumberOf(tenant.to_string()))
}

/// Selects a tenant's endpoints.
pub(super) fn endpoints_of(tenant: &Tenant) -> diesel::dsl::Eq<endpoints::tenant, TenantNumberOf> {
    endpoints::tenant.eq(TenantNumberOf(tenant.to_string()))
}

/// Selects an endpoint's deliveries.
pub(super) fn of_endpoint(id: &EndpointId) -> diesel::dsl::Eq<deliveries::endpoint, NumberOf> {
    deliveries::endpoint.eq(NumberOf(id.to_string()))
}

/// Selects an endpoint's attempts.
pub(super) fn attempts_of(id: &EndpointId) -> diesel::dsl::Eq<attempts::endpoint, NumberOf> {
    attempts::endpoint.eq(NumberOf(id.to_string()))
}

/// Reads the number of an endpoint, also of one that was deleted.
pub(super) fn number_of_endpoint(
    conn: &mut AnyConnection,
    id: &EndpointId,
) -> Result<Option<i32>, StoreError> {
    Ok(endpoints::table
        .filter(endpoints::id.eq(id.as_str()))
        .select(endpoints::number)
        .first(conn)
        .optional()?)
}

/// Reads the numbers of endpoints.
pub(super) fn numbers_of(
    conn: &mut AnyConnection,
    ids: &[&EndpointId],
) -> Result<HashMap<EndpointId, i32>, StoreError> {
    let rows: Vec<(String, i32)> = endpoints::table
        .filter(endpoints::id.eq_any(ids.iter().map(|id| id.as_str())))
        .select((endpoints::id, endpoints::number))
        .load(conn)?;
    let found = rows
        .into_iter()
        .map(|(id, number)| (EndpointId::from_text(id), number));
    Ok(found.collect())
}

/// Reads the ids of endpoints by their numbers.
pub(super) fn ids_of(
    conn: &mut AnyConnection,
    numbers: &[i32],
) -> Result<HashMap<i32, EndpointId>, StoreError> {
    let rows: Vec<(i32, String)> = endpoints::table
        .filter(endpoints::number.eq_any(numbers))
        .select((endpoints::number, endpoints::id))
        .load(conn)?;
    let found = rows
        .into_iter()
        .map(|(number, id)| (number, EndpointId::from_text(id)));
    Ok(found.collect())
}

/// Returns a number for a new endpoint, which no other endpoint ever had.
pub(super) fn next_number(conn: &mut AnyConnection, id: &EndpointId) -> Result<i32, StoreError> {
    let shard = Shard::of(id);
    let number = raised(conn, &format!("endpoint_number_{}", shard.number()), 1)?;
    i32::try_from(number)
        .ok()
        .filter(|number| shard.endpoint_numbers().contains(number))
        .ok_or_else(|| StoreError::Setup("this database has no room for another endpoint".into()))
}
