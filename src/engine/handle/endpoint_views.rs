//! Endpoints with their health, backlog and rate.

use std::sync::Arc;

use super::Postrider;
use super::views::{EndpointHealth, EndpointView};
use crate::domain::Resource;
use crate::domain::endpoint::{Backlog, Endpoint};
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::domain::query::{EndpointQuery, Listed, Page};
use crate::engine::error::Error;
use crate::engine::registry::InspectEndpoint;
use crate::engine::supervisor::SupervisorStatus;
use crate::store::EndpointState;

impl Postrider {
    /// Returns one endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let endpoint = self.find_endpoint(id).await?;
        self.view(endpoint).await
    }

    /// Returns a page of endpoints, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another list, and [`Error::Store`].
    pub async fn endpoints(
        &self,
        query: EndpointQuery,
        page: Page,
    ) -> Result<Listed<EndpointView>, Error> {
        let read = |query, page| self.store().endpoints(query, page);
        let found = self.list(query, page, read).await?;
        let entries = self.views(found.entries).await?;
        Ok(Listed {
            entries,
            next: found.next,
            searched_back_to: found.searched_back_to,
        })
    }

    /// Returns endpoints by their ids, in that order; deleted ones are left out.
    pub(super) async fn endpoints_of(
        &self,
        ids: Vec<EndpointId>,
    ) -> Result<Vec<EndpointView>, Error> {
        let endpoints = self.store().endpoints_of(ids).await?;
        self.views(endpoints).await
    }

    pub(super) async fn view(&self, endpoint: Endpoint) -> Result<EndpointView, Error> {
        let mut views = self.views(vec![endpoint]).await?;
        views.pop().ok_or(Error::NotFound(Resource::Endpoint))
    }

    /// Adds the states to endpoints, with one read for all.
    async fn views(&self, endpoints: Vec<Endpoint>) -> Result<Vec<EndpointView>, Error> {
        let ids = endpoints
            .iter()
            .map(|endpoint| endpoint.id.clone())
            .collect();
        let mut states = self.store().endpoint_states(ids).await?;
        let mut views = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let EndpointState { health, backlog } = states.remove(&endpoint.id).unwrap_or_default();
            let waiting = backlog.pending - backlog.held.min(backlog.pending);
            let status = self.status(&endpoint, &backlog).await;
            let health = EndpointHealth {
                state: health,
                backlog,
                next_slot_at: status.and_then(|status| status.next_slot_at),
                estimated_drain: endpoint.limits.rate_limit.drain_time(waiting),
            };
            views.push(EndpointView { endpoint, health });
        }
        Ok(views)
    }

    /// Returns the status of an endpoint from its supervisor, or from the database if another
    /// process sends.
    pub(super) async fn status(
        &self,
        endpoint: &Endpoint,
        backlog: &Backlog,
    ) -> Option<SupervisorStatus> {
        let context = self.context();
        if context.leases.of(Shard::of(&endpoint.id)).is_some() {
            let inspect = InspectEndpoint(endpoint.id.clone());
            return self.inner.registry.send(inspect).await.ok().flatten();
        }
        // Nothing waits for a slot: a list must not read a history per endpoint.
        if backlog.pending <= backlog.held {
            return None;
        }
        let clock = Arc::clone(&context.clock);
        let limit = endpoint.limits.rate_limit;
        let history = self
            .store()
            .rate_limit_history(&endpoint.id, limit, clock)
            .await
            .ok()?;
        let now = (context.clock.now(), context.clock.monotonic());
        let mut limiter = history.limiter(now.0, now.1, Vec::new());
        let in_flight = usize::try_from(backlog.sending).unwrap_or(usize::MAX);
        Some(SupervisorStatus::new(in_flight, false, &mut limiter, now))
    }
}
