//! Publishing: the events of a whole group, for the endpoints as of the transaction.

use std::collections::BTreeSet;

use super::dialect::{NewDeliveries, Publishing, Target};
use super::error::StoreError;
use super::tenants::{new_tenant, number_for};
use super::tx::Tx;
use super::write_request::WriteRequest;
use super::writes::{
    CommittedDelivery, OrderingKey, Publish, PublishOutcome, PublishRejection, Subscribers,
};
use crate::domain::event::StoredEvent;

impl Tx<'_> {
    /// Publishes for all publishers of a group.
    pub(super) fn publish_all(&mut self, requests: &mut [WriteRequest]) -> Result<(), StoreError> {
        let mut writes: Vec<_> = requests
            .iter_mut()
            .filter_map(WriteRequest::as_publish)
            .collect();
        let outcomes = self.publish(writes.iter().map(|write| &write.input))?;
        for (write, outcome) in writes.iter_mut().zip(outcomes) {
            write.output = Some(outcome);
        }
        Ok(())
    }

    /// Stores events for their tenants' current endpoints.
    pub(super) fn publish<'p>(
        &mut self,
        asked: impl Iterator<Item = &'p Publish>,
    ) -> Result<Vec<PublishOutcome>, StoreError> {
        let asked: Vec<&Publish> = asked.collect();
        let mut keys: BTreeSet<OrderingKey<'_>> = asked
            .iter()
            .flat_map(|publish| publish.ordering_keys())
            .collect();
        for event in asked.iter().flat_map(|publish| &publish.events) {
            // Another transaction may be giving this tenant its number, and stay open for long.
            if self.cache.tenant(self.conn, &event.tenant)?.is_none() {
                keys.insert(new_tenant(&event.tenant));
            }
        }
        let locked = self.conn.dialect().try_keys(keys)?;
        let mut checked = Vec::with_capacity(asked.len());
        for publish in asked {
            checked.push(self.check(publish, &locked)?);
        }
        let accepted: Vec<&Publishing<'_>> =
            checked.iter().filter_map(|one| one.as_ref().ok()).collect();
        let mut stored = self.store(&accepted)?.into_iter();
        let outcome = |one: Result<_, PublishRejection>| match one {
            Ok(_) => stored.next().ok_or(StoreError::Panicked),
            Err(rejection) => Ok(Err(rejection)),
        };
        checked.into_iter().map(outcome).collect()
    }

    /// Finds the endpoints of a publish, or the reason to reject it.
    fn check<'p>(
        &mut self,
        publish: &'p Publish,
        locked: &BTreeSet<OrderingKey<'_>>,
    ) -> Result<Result<Publishing<'p>, PublishRejection>, StoreError> {
        if !publish.ordering_keys().is_subset(locked) {
            return Ok(Err(PublishRejection::KeyTaken));
        }
        let mut targets = Vec::with_capacity(publish.events.len());
        for event in &publish.events {
            let tenant = match self.cache.tenant(self.conn, &event.tenant)? {
                Some(number) => number,
                None if locked.contains(&new_tenant(&event.tenant)) => {
                    number_for(self.conn, &event.tenant)?
                }
                None => return Ok(Err(PublishRejection::KeyTaken)),
            };
            targets.push(Target {
                tenant,
                subscribers: self.subscribers(publish, event)?,
            });
        }
        if publish.only.is_some() && targets.iter().any(|target| target.subscribers.is_empty()) {
            return Ok(Err(PublishRejection::NoEndpoint));
        }
        Ok(Ok(Publishing { publish, targets }))
    }

    /// Returns the endpoints that an event goes to.
    fn subscribers(
        &mut self,
        publish: &Publish,
        event: &StoredEvent,
    ) -> Result<Subscribers, StoreError> {
        let Some(only) = &publish.only else {
            return self
                .cache
                .subscribers_to(self.conn, &event.tenant, &event.event_type);
        };
        let all = self.cache.of_tenant(self.conn, &event.tenant)?;
        Ok(all
            .iter()
            .filter(|subscriber| subscriber.id == *only)
            .cloned()
            .collect())
    }

    fn store(&mut self, accepted: &[&Publishing<'_>]) -> Result<Vec<PublishOutcome>, StoreError> {
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        let mut new = NewDeliveries::default();
        let outcomes = self.conn.dialect().publish(accepted, &mut new)?;
        let created = new.into_created().into_iter();
        self.new_deliveries
            .extend(created.map(|(endpoint_id, queued)| CommittedDelivery {
                endpoint_id,
                queued,
            }));
        Ok(outcomes)
    }
}
