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

/// How many endpoints it names at most as subscribers of event types, and of tenants. What callers
/// send decides what is asked for, so it must not decide how much is kept.
const MAX_REFERENCES: usize = 100_000;

/// The most endpoints that it keeps.
const MAX_ENDPOINTS: usize = 100_000;

/// How many changed endpoints are forgotten one by one; beyond them everything is.
const MAX_CHANGES: i64 = 1000;

#[derive(Default)]
pub(super) struct EndpointCache {
    version: Option<i64>,
    by_tenant: HashMap<Tenant, Targets>,
    /// Who wants an event, so that an event costs what its deliveries do, however many others there
    /// are.
    by_type: HashMap<(Tenant, EventType), Targets>,
    by_id: HashMap<EndpointId, Option<Arc<Endpoint>>>,
    /// Subscribers named in `by_tenant` and `by_type`, and one for each of their entries.
    references: usize,
}

impl EndpointCache {
    /// Forgets everything: what it holds may come from a transaction that was rolled back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// To be called once in a transaction, before anything is asked of it.
    pub(super) fn refresh(&mut self, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let version = query::counter(conn, query::ENDPOINTS)?;
        let Some(before) = self.version.replace(version) else {
            self.clear();
            self.version = Some(version);
            return Ok(());
        };
        if before == version {
            return Ok(());
        }
        let changed = query::changed_after(conn, before, MAX_CHANGES)?;
        if i64::try_from(changed.len()).is_ok_and(|changed| changed < MAX_CHANGES) {
            for (id, tenant) in changed {
                self.by_id.remove(&id);
                self.forget_tenant(&tenant);
            }
        } else {
            self.clear();
            self.version = Some(version);
        }
        Ok(())
    }

    fn forget_tenant(&mut self, tenant: &Tenant) {
        let mut forgotten = self
            .by_tenant
            .remove(tenant)
            .map_or(0, |targets| targets.len() + 1);
        self.by_type.retain(|(of, _), targets| {
            let stays = of != tenant;
            forgotten += if stays { 0 } else { targets.len() + 1 };
            stays
        });
        self.references = self.references.saturating_sub(forgotten);
    }

    /// Makes room for as many more subscribers.
    fn reserve(&mut self, more: usize) {
        if self.references + more > MAX_REFERENCES {
            self.by_tenant.clear();
            self.by_type.clear();
            self.references = 0;
        }
        self.references += more;
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
        let targets: Targets = all
            .iter()
            .filter(|target| target.wants(event_type))
            .cloned()
            .collect();
        self.reserve(targets.len() + 1);
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
        let targets: Targets = query::targets_of(conn, tenant)?
            .into_iter()
            .map(Arc::new)
            .collect();
        self.reserve(targets.len() + 1);
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
        if self.by_id.len() >= MAX_ENDPOINTS {
            self.by_id.clear();
        }
        self.by_id.insert(id.clone(), endpoint.clone());
        Ok(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Event types that nobody sent before, each with the same 300 subscribers, once took
    /// gigabytes.
    #[test]
    fn what_callers_ask_for_does_not_decide_how_much_is_kept() {
        let mut cache = EndpointCache::default();
        let targets: Targets = Targets::default();
        for number in 0..10_000 {
            cache.reserve(301);
            let key = (
                Tenant::default(),
                EventType::parse(&format!("t.e{number}")).unwrap(),
            );
            cache.by_type.insert(key, Arc::clone(&targets));
            assert!(
                cache.references <= MAX_REFERENCES && cache.by_type.len() * 301 <= MAX_REFERENCES
            );
        }
        assert!(!cache.by_type.is_empty());
    }
}
