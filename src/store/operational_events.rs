//! Operational events, published in the transaction of the change that they report.
//!
//! They are ordinary events, but without a subscriber they are not stored.

use std::sync::Arc;

use super::delivery_rows::delivery;
use super::error::StoreError;
use super::tx::Tx;
use super::writes::Publish;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::FinishedAttempt;
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::ids::{DeliveryKey, Tenant};
use crate::domain::lifecycle::{FailureReason, Life, State};
use crate::domain::operational_event::{OperationalEvent, OperationalEventType};

impl Tx<'_> {
    /// Publishes the operational events of an attempt's outcome.
    pub(super) fn publish_outcome_events(
        &mut self,
        finished: &FinishedAttempt,
        life: &Life,
        endpoint: &Endpoint,
    ) -> Result<(), StoreError> {
        let at = finished.ended_at;
        if let State::Failed(reason) = life.state
            && self.has_subscriber(OperationalEventType::DeliveryFailed, &endpoint.tenant)?
            && let Some(delivery) = delivery(self.conn, self.codec.ids(), finished.claimed.key)?
        {
            self.publish_operational_event(
                &OperationalEvent::DeliveryFailed(&delivery, reason, Some(&finished.record)),
                at,
            )?;
        }
        if let Some(reason) = finished.pause {
            self.publish_pause_event(endpoint, reason, at)?;
        }
        if finished.recovers_endpoint()
            && self.has_subscriber(OperationalEventType::EndpointRecovered, &endpoint.tenant)?
        {
            self.publish_operational_event(&OperationalEvent::EndpointRecovered(endpoint), at)?;
        }
        Ok(())
    }

    /// Publishes that an endpoint was paused.
    pub(crate) fn publish_pause_event(
        &mut self,
        endpoint: &Endpoint,
        reason: PauseReason,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if self.has_subscriber(OperationalEventType::EndpointPaused, &endpoint.tenant)? {
            self.publish_operational_event(
                &OperationalEvent::EndpointPaused(endpoint, reason),
                at,
            )?;
        }
        Ok(())
    }

    /// Publishes that a delivery expired.
    pub(crate) fn publish_expiry_event(
        &mut self,
        key: DeliveryKey,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(delivery) = delivery(self.conn, self.codec.ids(), key)? else {
            return Ok(());
        };
        if self.has_subscriber(OperationalEventType::DeliveryFailed, &delivery.tenant)? {
            self.publish_operational_event(
                &OperationalEvent::DeliveryFailed(&delivery, FailureReason::Expired, None),
                at,
            )?;
        }
        Ok(())
    }

    /// Returns true if an endpoint of `tenant` is subscribed to such events.
    fn has_subscriber(
        &mut self,
        kind: OperationalEventType,
        tenant: &Tenant,
    ) -> Result<bool, StoreError> {
        if tenant.is_reserved() {
            return Ok(false);
        }
        let event_type = kind.event_type();
        let all = self.cache.of_tenant(self.conn, &Tenant::reserved())?;
        Ok(all.iter().any(|subscriber| subscriber.accepts(&event_type)))
    }

    fn publish_operational_event(
        &mut self,
        event: &OperationalEvent<'_>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let stored = event
            .event(self.ids.event())
            .map_err(|error| error.to_string());
        match stored.and_then(|event| event.freeze(at).map_err(|error| error.to_string())) {
            Ok(event) => {
                // A new id cannot conflict with another event.
                let publish = Publish {
                    events: vec![Arc::new(event)],
                    only: None,
                };
                self.publish(std::iter::once(&publish))?;
            }
            Err(error) => {
                tracing::error!(%error, "an operational event could not be written: this is a defect");
            }
        }
        Ok(())
    }
}
