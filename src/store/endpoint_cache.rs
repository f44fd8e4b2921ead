//! A cache of endpoints for the writing transaction.
//!
//! Every change of an endpoint raises a counter in the database. The cache is valid while the
//! counter is unchanged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::connection::AnyConnection;
use super::counters::{ENDPOINTS, counter};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::{ChangedEndpoint, changed_after, endpoint, endpoints_of, subscribers_of};
use super::error::StoreError;
use super::tenants::number_of;
use super::writes::{Subscriber, Subscribers};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::EventType;
use crate::domain::ids::{EndpointId, Tenant};

/// Maximum number of subscribers over all event types and tenants: callers choose the event types,
/// so memory must have a bound.
const MAX_REFERENCES: usize = 100_000;

/// Maximum number of cached endpoints.
const MAX_ENDPOINTS: usize = 100_000;

/// Maximum number of cached tenants.
const MAX_TENANTS: usize = 100_000;

/// Maximum number of changed endpoints that are dropped one by one; above it, all are.
const MAX_CHANGES: i64 = 1000;

#[derive(Default)]
pub(super) struct EndpointCache {
    version: Option<i64>,
    by_tenant: HashMap<Tenant, Subscribers>,
    /// Subscribers by event type, so that the cost of an event depends on its deliveries, not on
    /// the number of endpoints.
    by_type: HashMap<(Tenant, EventType), Subscribers>,
    by_id: HashMap<EndpointId, Option<Arc<Endpoint>>>,
    /// Numbers of tenants, which never change.
    tenants: HashMap<Tenant, i32>,
    /// Subscribers named in `by_tenant` and `by_type`, and one for each of their entries.
    references: usize,
}

impl EndpointCache {
    /// Clears the cache, whose content may come from a transaction that was rolled back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops changed endpoints. Call it in a transaction before the first read of the cache, and
    /// again after a write that may have changed an endpoint.
    pub(super) fn refresh(&mut self, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let version = counter(conn, ENDPOINTS)?;
        let Some(before) = self.version.replace(version) else {
            self.clear();
            self.version = Some(version);
            return Ok(());
        };
        if before == version {
            return Ok(());
        }
        let changed = changed_after(conn, before, MAX_CHANGES)?;
        if i64::try_from(changed.len()).is_ok_and(|changed| changed < MAX_CHANGES) {
            self.apply(changed);
        } else {
            self.clear();
            self.version = Some(version);
        }
        Ok(())
    }

    /// Drops changed endpoints, and replaces them among the subscribers: the other endpoints of a
    /// tenant, which may be thousands, are not read again.
    fn apply(&mut self, changed: Vec<ChangedEndpoint>) {
        let mut by_tenant: BTreeMap<Tenant, Vec<Replacement>> = BTreeMap::new();
        for one in changed {
            self.by_id.remove(&one.id);
            // Without the tenant here, none of its subscribers is cached; and most changes, such as
            // a pause, leave the subscription as it is.
            let Some(cached) = self.by_tenant.get(&one.tenant) else {
                continue;
            };
            let place = cached.binary_search_by(|cached| cached.id.cmp(&one.id));
            let cached = place.ok().map(|place| &*cached[place]);
            if cached != one.subscriber.as_ref() {
                let replacement = (one.id, one.subscriber.map(Arc::new));
                by_tenant.entry(one.tenant).or_default().push(replacement);
            }
        }
        if by_tenant.is_empty() {
            return;
        }
        let (mut added, mut removed) = (0, 0);
        let mut replace_in = |subscribers: &mut Subscribers, changes: Vec<Replacement>| {
            removed += subscribers.len();
            *subscribers = replaced(subscribers, changes);
            added += subscribers.len();
        };
        for (tenant, changes) in &by_tenant {
            if let Some(subscribers) = self.by_tenant.get_mut(tenant) {
                replace_in(subscribers, changes.clone());
            }
        }
        #[expect(
            clippy::iter_over_hash_type,
            reason = "each entry is changed by itself"
        )]
        for ((tenant, event_type), subscribers) in &mut self.by_type {
            if let Some(changes) = by_tenant.get(tenant) {
                let mut changes = changes.clone();
                for (_, subscriber) in &mut changes {
                    subscriber.take_if(|subscriber| !subscriber.accepts(event_type));
                }
                replace_in(subscribers, changes);
            }
        }
        self.references = (self.references + added).saturating_sub(removed);
    }

    /// Makes room for more subscribers.
    fn reserve(&mut self, more: usize) {
        if self.references + more > MAX_REFERENCES {
            self.by_tenant.clear();
            self.by_type.clear();
            self.references = 0;
        }
        self.references += more;
    }

    /// Returns the tenant's endpoints subscribed to an event type.
    pub(super) fn subscribers_to(
        &mut self,
        conn: &mut AnyConnection,
        tenant: &Tenant,
        event_type: &EventType,
    ) -> Result<Subscribers, StoreError> {
        let key = (tenant.clone(), event_type.clone());
        if let Some(subscribers) = self.by_type.get(&key) {
            return Ok(Arc::clone(subscribers));
        }
        let all = self.of_tenant(conn, tenant)?;
        let subscribers: Subscribers = all
            .iter()
            .filter(|subscriber| subscriber.accepts(event_type))
            .cloned()
            .collect();
        self.reserve(subscribers.len() + 1);
        self.by_type.insert(key, Arc::clone(&subscribers));
        Ok(subscribers)
    }

    /// Returns the tenant's endpoints that have not been deleted.
    pub(super) fn of_tenant(
        &mut self,
        conn: &mut AnyConnection,
        tenant: &Tenant,
    ) -> Result<Subscribers, StoreError> {
        if let Some(subscribers) = self.by_tenant.get(tenant) {
            return Ok(Arc::clone(subscribers));
        }
        let subscribers: Subscribers = subscribers_of(conn, tenant)?
            .into_iter()
            .map(Arc::new)
            .collect();
        self.reserve(subscribers.len() + 1);
        self.by_tenant
            .insert(tenant.clone(), Arc::clone(&subscribers));
        Ok(subscribers)
    }

    /// Returns a tenant's number; `None` for a tenant without events and endpoints.
    pub(super) fn tenant(
        &mut self,
        conn: &mut AnyConnection,
        tenant: &Tenant,
    ) -> Result<Option<i32>, StoreError> {
        if let Some(number) = self.tenants.get(tenant) {
            return Ok(Some(*number));
        }
        let number = number_of(conn, tenant)?;
        if self.tenants.len() >= MAX_TENANTS {
            self.tenants.clear();
        }
        self.tenants
            .extend(number.map(|number| (tenant.clone(), number)));
        Ok(number)
    }

    /// Returns an endpoint, or `None` once it has been deleted.
    pub(super) fn get(
        &mut self,
        conn: &mut AnyConnection,
        codec: &EndpointCodec,
        id: &EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, StoreError> {
        if let Some(endpoint) = self.by_id.get(id) {
            return Ok(endpoint.clone());
        }
        let endpoint = endpoint(conn, codec, id)?.map(Arc::new);
        self.insert(id.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// Reads those of the endpoints that are not cached with one statement for all.
    pub(super) fn prefetch<'i>(
        &mut self,
        conn: &mut AnyConnection,
        codec: &EndpointCodec,
        ids: impl Iterator<Item = &'i EndpointId>,
    ) -> Result<(), StoreError> {
        let missing: BTreeSet<&EndpointId> =
            ids.filter(|id| !self.by_id.contains_key(*id)).collect();
        if missing.len() < 2 {
            return Ok(());
        }
        let missing: Vec<EndpointId> = missing.into_iter().cloned().collect();
        let found = endpoints_of(conn, codec, &missing)?;
        for id in missing {
            self.insert(id, None);
        }
        for endpoint in found {
            self.insert(endpoint.id.clone(), Some(Arc::new(endpoint)));
        }
        Ok(())
    }

    fn insert(&mut self, id: EndpointId, endpoint: Option<Arc<Endpoint>>) {
        if self.by_id.len() >= MAX_ENDPOINTS {
            self.by_id.clear();
        }
        self.by_id.insert(id, endpoint);
    }
}

/// A changed endpoint; `None` if it does not subscribe any more.
type Replacement = (EndpointId, Option<Arc<Subscriber>>);

/// Returns the subscribers after changes of some. They stay in the order of their ids.
fn replaced(subscribers: &Subscribers, changes: Vec<Replacement>) -> Subscribers {
    let mut all = subscribers.to_vec();
    for (id, subscriber) in changes {
        let place = all.binary_search_by(|one| one.id.cmp(&id));
        match (place, subscriber) {
            (Ok(at), Some(subscriber)) => all[at] = subscriber,
            (Ok(at), None) => drop(all.remove(at)),
            (Err(at), Some(subscriber)) => all.insert(at, subscriber),
            (Err(_), None) => {}
        }
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventFilter;

    fn subscriber(id: &str, number: i32, event_type: &str) -> Arc<Subscriber> {
        Arc::new(Subscriber {
            id: EndpointId::from_text(id),
            number,
            event_types: vec![EventFilter::try_from(event_type.to_owned()).unwrap()],
        })
    }

    #[test]
    fn a_changed_endpoint_is_replaced_where_it_is_a_subscriber() {
        let mut cache = EndpointCache::default();
        let tenant = Tenant::default();
        let (a, b, c) = (
            subscriber("ep_a", 1, "order.*"),
            subscriber("ep_b", 2, "order.*"),
            subscriber("ep_c", 3, "user.*"),
        );
        let all: Subscribers = [&a, &b, &c].into_iter().cloned().collect();
        let orders: Subscribers = [&a, &b].into_iter().cloned().collect();
        let of_type = |name: &str| (tenant.clone(), EventType::parse(name).unwrap());
        cache.reserve(all.len() + 1 + orders.len() + 1);
        cache.by_tenant.insert(tenant.clone(), all);
        cache.by_type.insert(of_type("order.paid"), orders);
        let changed = |id: &str, to: Option<Arc<Subscriber>>| ChangedEndpoint {
            id: EndpointId::from_text(id),
            tenant: Tenant::default(),
            change_no: 1,
            subscriber: to.map(|to| Subscriber::clone(&to)),
        };
        cache.apply(vec![
            changed("ep_a", None),
            changed("ep_b", Some(subscriber("ep_b", 2, "user.*"))),
            changed("ep_c", Some(subscriber("ep_c", 3, "order.*"))),
            changed("ep_d", Some(subscriber("ep_d", 4, "order.*"))),
            changed("ep_e", None),
        ]);
        let ids = |subscribers: &Subscribers| -> Vec<String> {
            subscribers.iter().map(|one| one.id.to_string()).collect()
        };
        assert_eq!(ids(&cache.by_tenant[&tenant]), ["ep_b", "ep_c", "ep_d"]);
        assert_eq!(
            ids(&cache.by_type[&of_type("order.paid")]),
            ["ep_c", "ep_d"]
        );
        assert_eq!(cache.references, 3 + 1 + 2 + 1);
    }

    /// Event types that nobody sent before, each with the same 300 subscribers, once took
    /// gigabytes.
    #[test]
    fn what_callers_ask_for_does_not_decide_how_much_is_kept() {
        let mut cache = EndpointCache::default();
        let subscribers: Subscribers = Subscribers::default();
        for number in 0..10_000 {
            cache.reserve(301);
            let key = (
                Tenant::default(),
                EventType::parse(&format!("t.e{number}")).unwrap(),
            );
            cache.by_type.insert(key, Arc::clone(&subscribers));
            assert!(
                cache.references <= MAX_REFERENCES && cache.by_type.len() * 301 <= MAX_REFERENCES
            );
        }
        assert!(!cache.by_type.is_empty());
    }
}
