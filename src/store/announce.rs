//! Operational events, published in the transaction of what they tell of.
//!
//! They are events like any other, but nothing is stored of one that no endpoint asks for.

use std::sync::Arc;

use super::{Publish, StoreError, Tx, query};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Finished;
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::event::EventFilter;
use crate::domain::ids::{DeliveryId, Tenant};
use crate::domain::lifecycle::{FailureReason, Life, State};
use crate::domain::notice::{Notice, Topic};

impl Tx<'_> {
    /// Tells of what an attempt's outcome has led to.
    pub(super) fn announce_outcome(
        &mut self,
        finished: &Finished,
        life: &Life,
        endpoint: &Endpoint,
    ) -> Result<(), StoreError> {
        let at = finished.ended_at;
        if let State::Failed(reason) = life.state
            && self.is_heard(Topic::DeliveryFailed, &endpoint.tenant)?
            && let Some(delivery) = query::delivery(self.conn, &finished.claimed.id)?
        {
            self.announce(
                &Notice::DeliveryFailed(&delivery, reason, Some(&finished.exchange)),
                at,
            )?;
        }
        if let Some(reason) = finished.pause {
            self.announce_pause(endpoint, reason, at)?;
        }
        if finished.recovers_endpoint()
            && self.is_heard(Topic::EndpointRecovered, &endpoint.tenant)?
        {
            self.announce(&Notice::EndpointRecovered(endpoint), at)?;
        }
        Ok(())
    }

    /// Tells that an endpoint is paused.
    pub(crate) fn announce_pause(
        &mut self,
        endpoint: &Endpoint,
        reason: PauseReason,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if self.is_heard(Topic::EndpointPaused, &endpoint.tenant)? {
            self.announce(&Notice::EndpointPaused(endpoint, reason), at)?;
        }
        Ok(())
    }

    /// Tells that a delivery waited for too long.
    pub(crate) fn announce_expiry(
        &mut self,
        id: &DeliveryId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(delivery) = query::delivery(self.conn, id)? else {
            return Ok(());
        };
        if self.is_heard(Topic::DeliveryFailed, &delivery.tenant)? {
            self.announce(
                &Notice::DeliveryFailed(&delivery, FailureReason::Expired, None),
                at,
            )?;
        }
        Ok(())
    }

    /// Whether anybody asks for that, of what happens at `tenant`.
    fn is_heard(&mut self, topic: Topic, tenant: &Tenant) -> Result<bool, StoreError> {
        if tenant.is_reserved() {
            return Ok(false);
        }
        let listeners = self.cache.of_tenant(self.conn, &Tenant::reserved())?;
        let wanted = topic.event_type();
        Ok(listeners
            .iter()
            .any(|target| EventFilter::any_matches(&target.event_types, &wanted)))
    }

    fn announce(&mut self, notice: &Notice<'_>, at: Timestamp) -> Result<(), StoreError> {
        let sealed = notice.event().map_err(|error| error.to_string());
        match sealed.and_then(|event| event.seal(at).map_err(|error| error.to_string())) {
            Ok(event) => {
                // Its id is fresh: no other event has it.
                let publish = Publish {
                    events: vec![Arc::new(event)],
                    only: None,
                };
                self.publish(std::iter::once(&publish))?;
            }
            Err(error) => {
                tracing::error!(%error, "a notice could not be written: this is a defect")
            }
        }
        Ok(())
    }
}
