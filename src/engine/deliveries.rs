//! Looking at deliveries, and what a person may ask of one.

use super::publishing::next_key;
use super::{Error, Postrider};
use crate::domain::breaker::BreakerState;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery, WaitingFor};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lifecycle::{self, Cause, HoldReason, State, Status, Wait};
use crate::domain::settings::Ordering;
use crate::store::query::{self, Page};

/// A delivery with its attempts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: Delivery,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// What it waits for, while it is pending.
    pub waiting_for: Option<WaitingFor>,
}

/// Which deliveries a list is to show, newest first.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    /// Only of this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Only of this event.
    pub event_id: Option<EventId>,
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only in this state.
    pub status: Option<Status>,
    /// Published at this time or later.
    pub since: Option<Timestamp>,
    /// Published before this time.
    pub until: Option<Timestamp>,
    /// Where the page before ended.
    pub after: Option<String>,
    /// At most so many.
    pub limit: i64,
}

impl Postrider {
    /// One delivery.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        let of_id = id.clone();
        let found = self
            .read("delivery", move |conn, codec| {
                let Some(delivery) = query::delivery(conn, &of_id)? else {
                    return Ok(None);
                };
                let attempts = query::attempts_of(conn, &of_id)?;
                let endpoint = query::endpoint(conn, codec, &delivery.endpoint_id)?;
                let ordered = endpoint
                    .as_ref()
                    .is_some_and(|one| one.settings.ordering == Ordering::Key);
                let behind = ordered
                    && !query::behind(conn, &delivery.endpoint_id, std::iter::once(&of_id))?
                        .is_empty();
                Ok(Some((delivery, attempts, endpoint, behind)))
            })
            .await?;
        let (delivery, attempts, endpoint, behind) = found.ok_or(Error::NotFound("delivery"))?;
        let waiting_for = match (delivery.life.state, endpoint) {
            (State::Pending(Wait::Held(HoldReason::Order)), _) => Some(WaitingFor::Order),
            (State::Pending(Wait::Held(_)), _) => Some(WaitingFor::Held),
            (State::Pending(_), _) if behind => Some(WaitingFor::Order),
            (State::Pending(_), Some(endpoint)) if !endpoint.is_active() => {
                Some(WaitingFor::Paused)
            }
            (State::Pending(Wait::Until(due)), Some(endpoint)) => {
                Some(self.waits_for(&endpoint, due).await)
            }
            _ => None,
        };
        Ok(DeliveryView {
            delivery,
            attempts,
            waiting_for,
        })
    }

    /// Whose delivery it is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn tenant_of_delivery(&self, id: &DeliveryId) -> Result<Tenant, Error> {
        let id = id.clone();
        let found = self
            .read("tenant", move |conn, _| {
                query::tenant_of_delivery(conn, &id)
            })
            .await?;
        found.ok_or(Error::NotFound("delivery"))
    }

    /// What a delivery of an active endpoint waits for.
    async fn waits_for(&self, endpoint: &Endpoint, due: Timestamp) -> WaitingFor {
        let now = self.shared.clock.schedule_now();
        if due > now {
            return WaitingFor::DueTime;
        }
        let id = endpoint.id.clone();
        let stored = self
            .read("health", move |conn, _| query::health(conn, &id))
            .await
            .unwrap_or_default();
        let health = stored.health;
        if health.hold_until.is_some_and(|until| until > now) {
            return WaitingFor::RetryAfter;
        }
        if health.breaker.state() == BreakerState::Open {
            return WaitingFor::Breaker;
        }
        match self.inspect(endpoint).await {
            Some(live) if !live.rate_open => WaitingFor::RateLimit,
            Some(live) if live.in_flight > 0 || live.in_line => WaitingFor::Concurrency,
            _ => WaitingFor::DueTime,
        }
    }

    /// Everything that has not ended.
    #[cfg(feature = "testing")]
    pub(crate) async fn live_deliveries(&self) -> Result<Vec<DeliveryId>, Error> {
        Ok(self
            .read("live deliveries", |conn, _| query::live(conn))
            .await?)
    }

    /// A page of deliveries, newest first, and where the next one begins.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn deliveries(
        &self,
        list: DeliveryQuery,
    ) -> Result<(Vec<Delivery>, Option<String>), Error> {
        let filter = query::DeliveryFilter {
            endpoint_id: list.endpoint_id,
            event_id: list.event_id,
            tenant: list.tenant,
            status: list.status,
            since: list.since,
            until: list.until,
        };
        let page = Page {
            after: list.after,
            limit: list.limit + 1,
        };
        let mut found = self
            .read("deliveries", move |conn, _| {
                query::deliveries_page(conn, &filter, &page)
            })
            .await?;
        let next = next_key(&mut found, list.limit, |delivery| delivery.id.to_string());
        Ok((found, next))
    }

    /// Sends a failed, delivered or held delivery (again), with a fresh set of retries.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] in any other state.
    pub async fn retry_delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        self.decide(id, Cause::RetryAsked { at: self.now() }).await
    }

    /// Gives a pending delivery up.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] in any other state.
    pub async fn cancel_delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        self.decide(id, Cause::Cancelled).await
    }

    /// Lifts a hold, or lets those behind a failed delivery in its ordering key go on.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] when it is not held and nothing waits for it.
    pub async fn release_delivery(&self, id: &DeliveryId) -> Result<DeliveryView, Error> {
        self.decide(id, Cause::HoldLifted { at: self.now() }).await
    }

    /// Applies what a person asked for, if the state allows it.
    async fn decide(&self, id: &DeliveryId, cause: Cause<'static>) -> Result<DeliveryView, Error> {
        let (of_id, at) = (id.clone(), self.now());
        let reached = self
            .shared
            .committer
            .run(move |tx| {
                let Some(delivery) = tx.delivery_to_change(&of_id)? else {
                    return Ok(Err(Error::NotFound("delivery")));
                };
                let (conn, codec) = tx.parts();
                let gone = query::endpoint(conn, codec, &delivery.endpoint_id)?.is_none();
                let next = match lifecycle::next(&delivery.life, &cause) {
                    Ok(next) => next,
                    Err(refused) => return Ok(Err(refused.into())),
                };
                // Nothing would ever send it.
                if gone && matches!(next.state, State::Pending(_)) {
                    return Ok(Err(Error::EndpointDeleted));
                }
                tx.change_life(&of_id, &delivery.life, &next, at)?;
                if matches!(next.state, State::Pending(_)) {
                    query::mark_retried(tx.conn(), &of_id, at)?;
                }
                Ok(Ok(next.state))
            })
            .await??;
        self.shared.metrics.reached(reached);
        let view = self.delivery(id).await?;
        self.nudge(&view.delivery.endpoint_id);
        Ok(view)
    }
}
