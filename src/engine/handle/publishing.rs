//! Publishing, and reading published events.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::Postrider;
use super::views::{EventView, Receipt};
use crate::domain::clock::Timestamp;
use crate::domain::event::{MAX_BATCH, NewEvent, StoredEvent};
use crate::domain::idempotency;
use crate::domain::ids::{EndpointId, EventId, Tenant};
use crate::domain::public_ids::PublicIds;
use crate::domain::query::{EventQuery, Listed, Page};
use crate::domain::{Field, Resource};
use crate::engine::error::Error;
use crate::engine::trace;
use crate::store::{Publish, PublishRejection, Published, Unavailable};

/// Delay between tries to write what another transaction has locked.
const KEY_RETRY_DELAY: Duration = Duration::from_millis(5);

impl Postrider {
    /// Publishes one event. `Ok` means that it is durable, with all of its deliveries.
    ///
    /// # Errors
    /// [`Error::EventIdConflict`] when its id belongs to a different event, [`Error::TooLarge`],
    /// [`Error::Invalid`], and [`Error::Store`] if the database did not accept it.
    pub async fn publish(&self, mut event: NewEvent) -> Result<Receipt, Error> {
        let span = trace::publish_span(&event);
        event.traceparent = trace::stored(&span, event.traceparent);
        let stored = Arc::new(freeze(event, self.now(), None)?);
        let publish = self.publish_stored(vec![stored], None, |_| None);
        let mut receipts = publish.instrument(span).await?;
        receipts.pop().ok_or(Error::NotFound(Resource::Event))
    }

    /// Returns the event id that an idempotency key determines.
    #[must_use]
    pub fn idempotent_event_id(&self, request: &idempotency::Request<'_>) -> EventId {
        self.inner.idempotency.event_id(request)
    }

    /// Like [`publish`](Self::publish), but a duplicate id returns the stored event, whatever its
    /// content.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), without [`Error::EventIdConflict`].
    pub async fn publish_once(&self, event: NewEvent) -> Result<Receipt, Error> {
        let (tenant, id) = (event.tenant.clone(), event.id.clone());
        match self.publish(event).await {
            Err(Error::EventIdConflict { .. }) => {}
            published => return published,
        }
        let EventView { event, deliveries } = self.event(&tenant, &id).await?;
        self.context().metrics.duplicates.inc();
        Ok(Receipt {
            id,
            event_type: event.event_type.clone(),
            tenant,
            created_at: event.created_at,
            duplicate: true,
            deliveries: deliveries
                .into_iter()
                .map(|one| (one.id, one.endpoint_id))
                .collect(),
        })
    }

    /// Publishes 1 to 1,000 events, all or none.
    ///
    /// # Errors
    /// Same as [`publish`](Self::publish); fields are named `events[i].…`.
    pub async fn publish_batch(&self, events: Vec<NewEvent>) -> Result<Vec<Receipt>, Error> {
        if events.is_empty() || events.len() > MAX_BATCH {
            return Err(Error::field(
                Field::Events,
                format!("must hold 1 to {MAX_BATCH} events, not {}", events.len()),
            ));
        }
        let span = trace::publish_batch_span(&events);
        let now = self.now();
        let one = |(i, mut event): (usize, NewEvent)| {
            event.traceparent = trace::stored(&span, event.traceparent);
            freeze(event, now, Some(i)).map(Arc::new)
        };
        let stored = events
            .into_iter()
            .enumerate()
            .map(one)
            .collect::<Result<_, _>>()?;
        self.publish_stored(stored, None, Some)
            .instrument(span)
            .await
    }

    /// Commits events; with `only`, they go to that endpoint regardless of its subscriptions.
    pub(super) async fn publish_stored(
        &self,
        events: Vec<Arc<StoredEvent>>,
        only: Option<EndpointId>,
        batch_index: fn(usize) -> Option<usize>,
    ) -> Result<Vec<Receipt>, Error> {
        let context = self.context();
        let publish = || {
            let publish = Publish {
                events: events.clone(),
                only: only.clone(),
            };
            async {
                match context.committer.publish(publish).await? {
                    Ok(published) => Ok(Some(published)),
                    Err(PublishRejection::KeyTaken) => Ok(None),
                    Err(rejection) => Err(rejected(rejection, batch_index)),
                }
            }
        };
        let published = self.retry_taken(publish).await?;
        let new = published.iter().filter(|one| !one.duplicate).count();
        let count = |events: usize| u64::try_from(events).unwrap_or(0);
        context.metrics.events.inc_by(count(new));
        context
            .metrics
            .duplicates
            .inc_by(count(published.len() - new));
        Ok(events
            .iter()
            .zip(published)
            .map(|(event, one)| receipt(event, one, self.store().public_ids()))
            .collect())
    }

    /// Runs `work` again while another transaction holds what it needs (`None`).
    pub(super) async fn retry_taken<T, R>(&self, mut work: impl FnMut() -> R) -> Result<T, Error>
    where
        R: Future<Output = Result<Option<T>, Error>>,
    {
        let give_up_at = Instant::now() + self.context().config.commit_timeout;
        loop {
            if let Some(done) = work().await? {
                return Ok(done);
            }
            if Instant::now() >= give_up_at {
                return Err(Unavailable::KeyTaken.into());
            }
            tokio::time::sleep(KEY_RETRY_DELAY).await;
        }
    }

    /// Returns a stored event, with its body and its deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`], including after the retention.
    pub async fn event(&self, tenant: &Tenant, id: &EventId) -> Result<EventView, Error> {
        let found = self.store().event(tenant, id).await?;
        let (event, deliveries) = found.ok_or(Error::NotFound(Resource::Event))?;
        Ok(EventView { event, deliveries })
    }

    /// Returns a page of events, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another list, and [`Error::Store`].
    pub async fn events(
        &self,
        query: EventQuery,
        page: Page,
    ) -> Result<Listed<Arc<StoredEvent>>, Error> {
        let read = |query, page| self.store().events(query, page);
        self.list(query, page, read).await
    }
}

/// Maps a rejected publish to an error.
pub(super) fn rejected(
    rejection: PublishRejection,
    batch_index: fn(usize) -> Option<usize>,
) -> Error {
    match rejection {
        PublishRejection::Conflict { index, id } => Error::EventIdConflict {
            field: Field::EventId.of_event(batch_index(index)),
            id: id.to_string(),
        },
        PublishRejection::NoEndpoint => Error::NotFound(Resource::Endpoint),
        PublishRejection::KeyTaken => Error::from(Unavailable::KeyTaken),
    }
}

/// Composes the stored bytes. `index` is the event\'s place in a batch.
pub(super) fn freeze(
    event: NewEvent,
    now: Timestamp,
    index: Option<usize>,
) -> Result<StoredEvent, Error> {
    if event.tenant.is_reserved() {
        let detail = "`_postrider` is reserved for operational events";
        return Err(Error::field(Field::Tenant.of_event(index), detail));
    }
    event
        .freeze(now)
        .map_err(|error| Error::of_event(error, index))
}

pub(super) fn receipt(event: &StoredEvent, published: Published, ids: &PublicIds) -> Receipt {
    let deliveries = published.deliveries.into_iter();
    Receipt {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        tenant: event.tenant.clone(),
        created_at: published.created_at,
        duplicate: published.duplicate,
        deliveries: deliveries
            .map(|(key, endpoint)| (ids.delivery(key), endpoint))
            .collect(),
    }
}
