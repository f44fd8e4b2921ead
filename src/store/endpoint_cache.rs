//! The endpoints as the writing transaction sees them, without reading them for each event.
//!
//! A counter in the database is raised with every change of an endpoint. It is read once a
//! transaction; while it stands, what was read under it still holds.

use std::collections::HashMap;
use std::sync::Arc;

use super::transactions::Targets;
use super::{AnyConnection, EndpointCodec, StoreError, query};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::EventType;
use crate::domain::ids::{EndpointId, Tenant};

/// For how many types of events it remembers who wants them.
const MAX_TYPES: usize = 10_000;

#[derive(Default)]
pub(super) struct EndpointCache {
    version: Option<i64>,
    by_tenant: HashMap<Tenant, Targets>,
    /// Who wants an event, so that an event costs what its deliveries do, however many others there are.
    by_type: HashMap<(Tenant, EventType), Targets>,
    by_id: HashMap<EndpointId, Option<Arc<Endpoint>>>,
}

impl EndpointCache {
    /// Forgets everything: what it holds may come from a transaction that was rolled back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// To be called once in a transaction, before anything is asked of it.
    pub(super) fn refresh(&mut self, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let version = query::counter(conn, query::ENDPOINTS)?;
        if self.version != Some(version) {
            self.clear();
            self.version = Some(version);
        }
        Ok(())
    }

    /// The tenant's endpoints that want events of that type.
    pub(super) fn wanting(
        &mut self,
        conn: &mut AnyConnection,
        tenant: &Tenant,
        event_type: &EventType,
    ) -> Result<Targets, StoreError> {
        let key = (tenant.clone(), event_type.clone());
        if let Some(targets) = self.by_type.get(&key) {
            return Ok(Arc::clone(targets));
        }
        let all = self.of_tenant(conn, tenant)?;
        let targets: Targets = all.iter().filter(|target| target.wants(event_type)).cloned().collect();
        if self.by_type.len() >= MAX_TYPES {
            self.by_type.clear();
        }
        self.by_type.insert(key, Arc::clone(&targets));
        Ok(targets)
    }

    /// The tenant's endpoints that have not been deleted.
    pub(super) fn of_tenant(
        &mut self,
        conn: &mut AnyConnection,
        tenant: &Tenant,
    ) -> Result<Targets, StoreError> {
        if let Some(targets) = self.by_tenant.get(tenant) {
            return Ok(Arc::clone(targets));
        }
        let targets: Targets = query::targets_of(conn, tenant)?.into();
        self.by_tenant.insert(tenant.clone(), Arc::clone(&targets));
        Ok(targets)
    }

    /// One endpoint, or `None` once it has been deleted.
    pub(super) fn get(
        &mut self,
        conn: &mut AnyConnection,
        codec: &EndpointCodec,
        id: &EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, StoreError> {
        if let Some(endpoint) = self.by_id.get(id) {
            return Ok(endpoint.clone());
        }
        let endpoint = query::endpoint(conn, codec, id)?.map(Arc::new);
        self.by_id.insert(id.clone(), endpoint.clone());
        Ok(endpoint)
    }
}
