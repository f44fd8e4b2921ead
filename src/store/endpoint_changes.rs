//! Creating, changing and deleting endpoints, and their keys.

use std::collections::BTreeSet;

use diesel::dsl::max;
use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::counters::{ENDPOINTS, raised};
use super::endpoints::endpoint;
use super::error::StoreError;
use super::numbers::next_number;
use super::schema::{
    webhook_endpoint_health as health, webhook_endpoint_secrets as secrets,
    webhook_endpoints as endpoints,
};
use super::tenants::{new_tenant, number_for, number_of};
use super::tx::Tx;
use crate::domain::breaker::StoredHealth;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::{Endpoint, EndpointLimits, SigningKeys};
use crate::domain::ids::EndpointId;

impl Tx<'_> {
    /// Returns the defaults of endpoint settings.
    pub(crate) fn endpoint_defaults(&self) -> &EndpointLimits {
        self.codec.defaults()
    }

    /// Reads and locks an endpoint until the end of this transaction.
    pub(crate) fn endpoint_to_change(
        &mut self,
        id: &EndpointId,
    ) -> Result<Option<Endpoint>, StoreError> {
        self.conn.dialect().lock_endpoint(id)?;
        self.endpoint(id)
    }

    /// Reads an endpoint that has not been deleted.
    pub(crate) fn endpoint(&mut self, id: &EndpointId) -> Result<Option<Endpoint>, StoreError> {
        endpoint(self.conn, self.codec, id)
    }

    /// Stores a new endpoint, without keys. Returns false, and writes nothing, while another
    /// transaction gives its tenant a number.
    pub(crate) fn insert_endpoint(&mut self, endpoint: &Endpoint) -> Result<bool, StoreError> {
        if number_of(self.conn, &endpoint.tenant)?.is_none() {
            let key = BTreeSet::from([new_tenant(&endpoint.tenant)]);
            if self.conn.dialect().try_keys(key)?.is_empty() {
                return Ok(false);
            }
        }
        // The counter of all endpoints first, as in every change of one: no two transactions wait
        // for each other.
        let change_no = raised(self.conn, ENDPOINTS, 1)?;
        let tenant = number_for(self.conn, &endpoint.tenant)?;
        let number = next_number(self.conn, &endpoint.id)?;
        diesel::insert_into(endpoints::table)
            .values((
                self.codec.row(endpoint)?,
                endpoints::number.eq(number),
                endpoints::tenant.eq(tenant),
                endpoints::change_no.eq(change_no),
            ))
            .execute(self.conn)?;
        // Inserted now, so that a later change finds a row, and no two transactions insert it.
        let health = codec::health_row(&endpoint.id, &StoredHealth::default());
        diesel::insert_into(health::table)
            .values(health)
            .execute(self.conn)?;
        Ok(true)
    }

    /// Writes an endpoint's settings and pause. Keys have their own table.
    pub(crate) fn update_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), StoreError> {
        diesel::update(endpoints::table.find(endpoint.id.as_str()))
            .set(self.codec.row(endpoint)?)
            .execute(self.conn)?;
        endpoint_changed(self.conn, &endpoint.id)
    }

    /// Marks an endpoint as deleted and removes its secrets and headers. Returns false if there was
    /// no such endpoint.
    pub(crate) fn delete_endpoint(
        &mut self,
        id: &EndpointId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let present = endpoints::table
            .filter(endpoints::id.eq(id.as_str()))
            .filter(endpoints::deleted_at.is_null());
        let changes = (
            endpoints::deleted_at.eq(Some(at.as_micros())),
            endpoints::headers.eq("{}"),
        );
        let marked = diesel::update(present).set(changes).execute(self.conn)?;
        let of_endpoint = secrets::table.filter(secrets::endpoint_id.eq(id.as_str()));
        diesel::delete(of_endpoint).execute(self.conn)?;
        endpoint_changed(self.conn, id)?;
        Ok(marked > 0)
    }

    /// Makes `keys` the current ones; the previous keys sign until `grace_ends`. Without a grace
    /// they are removed, so that a clock set back cannot revive them.
    pub(crate) fn add_keys(
        &mut self,
        id: &EndpointId,
        keys: &SigningKeys,
        at: Timestamp,
        grace_ends: Timestamp,
    ) -> Result<(), StoreError> {
        let conn = &mut *self.conn;
        let of_endpoint = || secrets::table.filter(secrets::endpoint_id.eq(id.as_str()));
        let ended = of_endpoint().filter(secrets::expires_at.le(at.as_micros()));
        diesel::delete(ended).execute(conn)?;
        let current = of_endpoint().filter(secrets::expires_at.is_null());
        if grace_ends <= at {
            diesel::delete(current).execute(conn)?;
        } else {
            let until = secrets::expires_at.eq(Some(grace_ends.as_micros()));
            diesel::update(current).set(until).execute(conn)?;
        }
        // Two rotations within a microsecond would share a key.
        let newest: Option<i64> = of_endpoint().select(max(secrets::created_at)).first(conn)?;
        let created_at = newest.map_or(at.as_micros(), |newest| at.as_micros().max(newest + 1));
        let row = self.codec.secret_row(id, keys, created_at)?;
        diesel::insert_into(secrets::table)
            .values(row)
            .execute(conn)?;
        endpoint_changed(conn, id)
    }

    /// Removes the older keys of an endpoint, or only the one created at that time: they no longer
    /// sign.
    pub(crate) fn end_older_keys(
        &mut self,
        id: &EndpointId,
        created_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let older = secrets::table
            .filter(secrets::endpoint_id.eq(id.as_str()))
            .filter(secrets::expires_at.is_not_null());
        match created_at {
            Some(created_at) => {
                let one = older.filter(secrets::created_at.eq(created_at.as_micros()));
                diesel::delete(one).execute(self.conn)?
            }
            None => diesel::delete(older).execute(self.conn)?,
        };
        Ok(())
    }
}

/// Invalidates cached copies of an endpoint. The counter's row lock puts its values in the order of
/// the commits.
pub(super) fn endpoint_changed(
    conn: &mut AnyConnection,
    id: &EndpointId,
) -> Result<(), StoreError> {
    let change_no = raised(conn, ENDPOINTS, 1)?;
    diesel::update(endpoints::table.find(id.as_str()))
        .set(endpoints::change_no.eq(change_no))
        .execute(conn)?;
    Ok(())
}
