//! Publishing, and reading what was published.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Error, Postrider, trace};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::event::{EventType, MAX_BATCH, NewEvent, SealedEvent};
use crate::domain::idempotency;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::store::query::{self, Page};
use crate::store::{Member, Publish, Published, Refusal, StoreError, Unavailable};

/// How long to wait before an ordering key that somebody else publishes under is asked for again.
const KEY_PAUSE: Duration = Duration::from_millis(5);

/// The answer to a published event, once it and all of its deliveries are durable.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's id.
    pub id: EventId,
    /// Its name.
    pub event_type: EventType,
    /// Whose it is.
    pub tenant: Tenant,
    /// When it was first published.
    pub created_at: Timestamp,
    /// Whether it had been published before, with the same content.
    pub duplicate: bool,
    /// Where it goes.
    pub deliveries: Vec<(DeliveryId, EndpointId)>,
}

/// A stored event with its deliveries.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EventView {
    /// The event.
    pub event: Arc<SealedEvent>,
    /// Where it went.
    pub deliveries: Vec<Delivery>,
}

/// Which events a list is to show, newest first.
#[derive(Debug, Clone, Default)]
pub struct EventListQuery {
    /// Only of this name.
    pub event_type: Option<String>,
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
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
    /// Publishes one event. `Ok` means it is durable, with all of its deliveries.
    ///
    /// # Errors
    /// [`Error::EventIdConflict`] when its id belongs to a different event, [`Error::TooLarge`],
    /// [`Error::Invalid`], and [`Error::Store`] when the database did not take it.
    pub async fn publish(&self, mut event: NewEvent) -> Result<Receipt, Error> {
        let span = trace::publish_span(&event);
        event.traceparent = trace::stored(&span, event.traceparent);
        let sealed = Arc::new(seal(event, self.now(), "")?);
        let publish = self.publish_sealed(vec![sealed], None, |_| "id".into());
        let mut receipts = publish.instrument(span).await?;
        receipts.pop().ok_or(Error::NotFound("event"))
    }

    /// Returns the id of the event that a request with an idempotency key publishes.
    #[must_use]
    pub fn idempotent_event_id(&self, request: &idempotency::Request<'_>) -> EventId {
        self.shared.idempotency.event_id(request)
    }

    /// As [`publish`](Self::publish), but an event that has been published under its id is answered
    /// with the stored one, whatever its content.
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
        self.shared.metrics.duplicates.inc();
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
    /// As [`publish`](Self::publish); fields are named `events[i].…`.
    pub async fn publish_batch(&self, events: Vec<NewEvent>) -> Result<Vec<Receipt>, Error> {
        if events.is_empty() || events.len() > MAX_BATCH {
            return Err(Error::field(
                "events",
                format!("must hold 1 to {MAX_BATCH} events, not {}", events.len()),
            ));
        }
        let span = trace::publish_batch_span(&events);
        let now = self.now();
        let one = |(i, mut event): (usize, NewEvent)| {
            event.traceparent = trace::stored(&span, event.traceparent);
            seal(event, now, &format!("events[{i}].")).map(Arc::new)
        };
        let sealed = events
            .into_iter()
            .enumerate()
            .map(one)
            .collect::<Result<_, _>>()?;
        self.publish_sealed(sealed, None, |i| format!("events[{i}].id"))
            .instrument(span)
            .await
    }

    /// Commits events that are ready; `only` sends them to one endpoint whatever it wants.
    pub(super) async fn publish_sealed(
        &self,
        events: Vec<Arc<SealedEvent>>,
        only: Option<EndpointId>,
        id_field: impl Fn(usize) -> String,
    ) -> Result<Vec<Receipt>, Error> {
        let patience = Instant::now() + self.shared.config.commit_timeout;
        let published = loop {
            let publish = Publish {
                events: events.clone(),
                only: only.clone(),
            };
            match self
                .shared
                .committer
                .write(Member::publish(publish))
                .await?
            {
                Ok(published) => break published,
                Err(Refusal::Conflict { index, id }) => {
                    return Err(Error::EventIdConflict {
                        field: id_field(index),
                        id: id.to_string(),
                    });
                }
                Err(Refusal::NoEndpoint) => return Err(Error::NotFound("endpoint")),
                Err(Refusal::KeyTaken) if Instant::now() < patience => {
                    tokio::time::sleep(KEY_PAUSE).await;
                }
                Err(Refusal::KeyTaken) => {
                    return Err(StoreError::from(Unavailable::KeyTaken).into());
                }
            }
        };
        let new = published.iter().filter(|one| !one.duplicate).count();
        self.shared
            .metrics
            .events
            .inc_by(u64::try_from(new).unwrap_or(0));
        self.shared
            .metrics
            .duplicates
            .inc_by(u64::try_from(published.len() - new).unwrap_or(0));
        Ok(events
            .iter()
            .zip(published)
            .map(|(event, published)| receipt(event, published))
            .collect())
    }

    /// A stored event, with its body and its deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`], also once it is past its retention.
    pub async fn event(&self, tenant: &Tenant, id: &EventId) -> Result<EventView, Error> {
        let (tenant, id) = (tenant.clone(), id.clone());
        let found = self
            .read("event", move |conn, _| {
                let Some((seq, event)) = query::event(conn, &tenant, &id)? else {
                    return Ok(None);
                };
                let deliveries = query::deliveries_of_event(conn, seq)?;
                Ok(Some(EventView { event, deliveries }))
            })
            .await?;
        found.ok_or(Error::NotFound("event"))
    }

    /// A page of events, newest first, and where the next one begins.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn events(
        &self,
        list: EventListQuery,
    ) -> Result<(Vec<Arc<SealedEvent>>, Option<String>), Error> {
        let filter = query::EventQuery {
            event_type: list.event_type,
            tenant: list.tenant,
            since: list.since,
            until: list.until,
        };
        // One more than asked for tells whether there is a next page.
        let page = Page {
            after: list.after,
            limit: list.limit + 1,
        };
        let mut found = self
            .read("events", move |conn, _| {
                query::events_page(conn, &filter, &page)
            })
            .await?;
        let next = next_key(&mut found, list.limit, |(seq, _)| seq.to_string());
        Ok((found.into_iter().map(|(_, event)| event).collect(), next))
    }
}

/// Makes the bytes that are stored. `prefix` is where the event's fields are in the caller's words.
pub(super) fn seal(event: NewEvent, now: Timestamp, prefix: &str) -> Result<SealedEvent, Error> {
    if event.tenant.is_reserved() {
        let detail = "`_postrider` is reserved for operational events";
        return Err(Error::field(format!("{prefix}tenant"), detail));
    }
    event
        .seal(now)
        .map_err(|error| Error::of_event(error, prefix))
}

pub(super) fn receipt(event: &SealedEvent, published: Published) -> Receipt {
    Receipt {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        tenant: event.tenant.clone(),
        created_at: published.created_at,
        duplicate: published.duplicate,
        deliveries: published.deliveries,
    }
}

/// Cuts a page that was read one row too long, and tells where the next one begins.
pub(super) fn next_key<T>(
    rows: &mut Vec<T>,
    limit: i64,
    key: impl Fn(&T) -> String,
) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let more = rows.len() > limit;
    rows.truncate(limit);
    rows.last().filter(|_| more).map(key)
}
