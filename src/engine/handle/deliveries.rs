//! Reading deliveries, and manual operations on them.

use std::sync::Arc;

use super::Postrider;
use super::views::DeliveryView;
use crate::domain::Resource;
use crate::domain::breaker::{BreakerState, Health};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Delivery, WaitingFor};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryId, DeliveryKey, Tenant};
use crate::domain::lifecycle::{self, Cause, HoldReason, State, Wait};
use crate::domain::query::{DeliveryQuery, Listed, Page};
use crate::engine::error::Error;
use crate::engine::supervisor::SupervisorStatus;
use crate::store::{DeliveryDetail, Tx};

impl Postrider {
    /// Returns one delivery.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        let detail = self.store().delivery_detail(self.key_of(id)?).await?;
        let detail = detail.ok_or(Error::NotFound(Resource::Delivery))?;
        let waiting_for = self.waiting_for(&detail).await;
        let DeliveryDetail {
            delivery, attempts, ..
        } = detail;
        Ok(DeliveryView {
            delivery,
            attempts,
            waiting_for,
        })
    }

    /// Returns a delivery's tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn tenant_of_delivery(&self, id: &DeliveryId) -> Result<Tenant, Error> {
        self.store()
            .tenant_of_delivery(self.key_of(id)?)
            .await?
            .ok_or(Error::NotFound(Resource::Delivery))
    }

    /// Returns the key of a delivery. A text that no delivery has as its id is not found.
    fn key_of(&self, id: &DeliveryId) -> Result<DeliveryKey, Error> {
        let key = self.store().public_ids().delivery_key(id);
        key.ok_or(Error::NotFound(Resource::Delivery))
    }

    async fn waiting_for(&self, detail: &DeliveryDetail) -> Option<WaitingFor> {
        let State::Pending(wait) = detail.delivery.life.state else {
            return None;
        };
        match (wait, &detail.endpoint) {
            (Wait::Held(HoldReason::Order), _) => Some(WaitingFor::Order),
            (Wait::Held(_), _) => Some(WaitingFor::Held),
            _ if detail.is_blocked => Some(WaitingFor::Order),
            (_, Some(endpoint)) if !endpoint.is_active() => Some(WaitingFor::Paused),
            (Wait::Until(due), Some(endpoint)) => Some(self.waits_at(endpoint, due).await),
            (Wait::Until(_), None) => None,
        }
    }

    /// Returns the condition that a delivery of an active endpoint waits for.
    async fn waits_at(&self, endpoint: &Endpoint, due: Timestamp) -> WaitingFor {
        let now = self.context().clock.schedule_now();
        if due > now {
            return WaitingFor::DueTime;
        }
        let ids = vec![endpoint.id.clone()];
        let state = self.store().endpoint_states(ids).await.unwrap_or_default();
        let state = state.get(&endpoint.id).copied().unwrap_or_default();
        match blocked_by_health(&state.health, now) {
            Some(waiting_for) => waiting_for,
            None => by_status(self.status(endpoint, &state.backlog).await),
        }
    }

    /// Returns the ids of all deliveries that have not ended.
    #[cfg(feature = "testing")]
    pub(crate) async fn live_deliveries(&self) -> Result<Vec<DeliveryId>, Error> {
        Ok(self.store().live_deliveries().await?)
    }

    /// Returns a page of deliveries, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another list, and [`Error::Store`].
    pub async fn deliveries(
        &self,
        query: DeliveryQuery,
        page: Page,
    ) -> Result<Listed<Delivery>, Error> {
        let read = |query, page| self.store().deliveries(query, page);
        self.list(query, page, read).await
    }

    /// Retries a failed, delivered or held delivery with a fresh set of retries.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] in any other state.
    pub async fn retry_delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        self.apply(id, Cause::RetryAsked { at: self.now() }).await
    }

    /// Cancels a pending delivery.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] in any other state.
    pub async fn cancel_delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        self.apply(id, Cause::Cancelled).await
    }

    /// Releases a held delivery, or unblocks the deliveries behind a failed one with the same
    /// ordering key.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] when it is not held and nothing waits for it.
    pub async fn release_delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        self.apply(id, Cause::HoldLifted { at: self.now() }).await
    }

    /// Applies a person's decision, if the delivery's state allows it.
    async fn apply(&self, id: &DeliveryId, cause: Cause<'static>) -> Result<DeliveryView, Error> {
        let of = self.key_of(id)?;
        let at = self.now();
        let write = move |tx: &mut Tx<'_>| {
            let Some(delivery) = tx.delivery_to_change(of)? else {
                return Ok(Err(Error::NotFound(Resource::Delivery)));
            };
            let is_deleted = tx.endpoint(&delivery.endpoint_id)?.is_none();
            let next = match lifecycle::next(&delivery.life, &cause) {
                Ok(next) => next,
                Err(refused) => return Ok(Err(refused.into())),
            };
            let is_pending = matches!(next.state, State::Pending(_));
            if is_pending && is_deleted {
                // Nothing would ever send it.
                return Ok(Err(Error::EndpointDeleted));
            }
            tx.change_life(of, &delivery.life, &next, at)?;
            if is_pending {
                tx.mark_retried(of, at)?;
            }
            Ok(Ok(next.state))
        };
        let context = Arc::clone(&self.inner.context);
        let reached = context.committer.run(write).await??;
        context.metrics.reached(reached);
        let view = self.delivery(id).await?;
        self.notify_due(&view.delivery.endpoint_id);
        Ok(view)
    }
}

fn blocked_by_health(health: &Health, now: Timestamp) -> Option<WaitingFor> {
    if health.hold_until.is_some_and(|until| until > now) {
        Some(WaitingFor::RetryAfter)
    } else if health.breaker.state() == BreakerState::Open {
        Some(WaitingFor::Breaker)
    } else {
        None
    }
}

fn by_status(status: Option<SupervisorStatus>) -> WaitingFor {
    match status {
        Some(status) if !status.rate_open => WaitingFor::RateLimit,
        Some(status) if status.in_flight > 0 || status.awaiting_permit => WaitingFor::Concurrency,
        _ => WaitingFor::DueTime,
    }
}
