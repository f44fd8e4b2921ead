//! What is written together: the members of one commit, each with the channel that its answer
//! goes back through once the commit is durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{StoreError, Tx};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Finished, Queued, Seen};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::{EventFilter, EventType, SealedEvent};
use crate::domain::fair_queue::Cost;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::Life;

/// Resolves once the commit that holds the write is durable, or has failed.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

/// Events to store with their deliveries: all of them, or none.
pub(crate) struct Publish {
    pub(crate) events: Vec<Arc<SealedEvent>>,
    /// `None`: every endpoint of the tenant that wants it.
    pub(crate) only: Option<EndpointId>,
}

impl Publish {
    /// What its events are ordered by.
    pub(super) fn ordering_keys(&self) -> BTreeSet<OrderingKey<'_>> {
        self.events
            .iter()
            .filter_map(|event| Some((&event.tenant, event.ordering_key.as_deref()?)))
            .collect()
    }
}

/// Events of a tenant that share it are published in an order.
pub(super) type OrderingKey<'a> = (&'a Tenant, &'a str);

/// What publishing needs to know of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) id: EndpointId,
    pub(crate) tenant: Tenant,
    pub(crate) event_types: Vec<EventFilter>,
}

impl Target {
    /// Whether it wants events of that type.
    pub(super) fn wants(&self, event_type: &EventType) -> bool {
        EventFilter::any_matches(&self.event_types, event_type)
    }
}

/// What publishing one event came to.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) created_at: Timestamp,
    pub(crate) duplicate: bool,
    pub(crate) deliveries: Vec<(DeliveryId, EndpointId)>,
}

/// Why a publish wrote nothing although the database is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The event at `index` has the id of a different one.
    Conflict { index: usize, id: EventId },
    /// `only` names an endpoint that is not there.
    NoEndpoint,
    /// Somebody else is publishing under the same ordering key just now.
    KeyTaken,
}

pub(crate) type Outcome = Result<Vec<Published>, Refusal>;

/// Deliveries of one endpoint that its supervisor wants to send now.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) endpoint_id: EndpointId,
    /// What it is claimed under.
    pub(crate) lease: Lease,
    /// When, by the wall clock.
    pub(crate) at: Timestamp,
    /// What is due by then, in schedule time.
    pub(crate) due_by: Timestamp,
    /// Each as it was read.
    pub(crate) wanted: Vec<(DeliveryId, Seen)>,
}

impl Claim {
    pub(super) fn ids(&self) -> impl Iterator<Item = &DeliveryId> {
        self.wanted.iter().map(|(id, _)| id)
    }
}

/// What a claim came to.
#[derive(Debug, Default)]
pub(crate) struct ClaimResult {
    pub(crate) claimed: Vec<Claimed>,
    /// Those whose turn it is not: they wait for that, and not for a time any more.
    pub(crate) aside: Vec<DeliveryId>,
}

/// What recording an outcome came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The delivery is now this.
    Written {
        /// Where it stands.
        life: Life,
        /// Whether the endpoint's health was what it had been judged on; else somebody has changed
        /// it.
        health_is_current: bool,
    },
    /// Its claim had been taken away meanwhile: nothing was written.
    Stale,
}

/// A delivery that was just committed, and the endpoint it goes to.
#[derive(Debug, Clone)]
pub(crate) struct Wake {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) queued: Queued,
}

/// One request's place in a group.
pub(crate) struct Slot<I, O> {
    pub(super) input: I,
    pub(super) output: Option<O>,
    reply: oneshot::Sender<Result<O, StoreError>>,
}

impl<I, O> Slot<I, O> {
    fn new(input: I) -> (Self, Answer<O>) {
        let (reply, answer) = oneshot::channel();
        (
            Self {
                input,
                output: None,
                reply,
            },
            answer,
        )
    }

    /// The asker may have gone away; what was committed stays committed.
    fn answer(self, failure: Option<StoreError>) {
        let result = match (failure, self.output) {
            (None, Some(output)) => Ok(output),
            (Some(error), _) => Err(error),
            (None, None) => Err(StoreError::Panicked),
        };
        let _ = self.reply.send(result);
    }
}

/// Anything else that is written: it runs inside the group's transaction.
pub(super) trait Operate: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError>;
    fn reset(&mut self);
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

impl<F, O> Operate for Slot<F, O>
where
    F: FnMut(&mut Tx<'_>) -> Result<O, StoreError> + Send,
    O: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        self.output = Some((self.input)(tx)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.output = None;
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        Slot::answer(*self, failure);
    }
}

/// One member of a group commit.
pub(crate) enum Member {
    /// Retried until it lands: what a receiver answered must not be forgotten.
    Record(Box<Slot<Finished, Recorded>>),
    Claim(Slot<Claim, ClaimResult>),
    Publish(Slot<Publish, Outcome>),
    Operate(Operation),
}

/// A boxed write; its type is the closure's.
pub(crate) struct Operation(pub(super) Box<dyn Operate>);

impl Member {
    pub(crate) fn record(finished: Finished) -> (Self, Answer<Recorded>) {
        let (slot, answer) = Slot::new(finished);
        (Self::Record(Box::new(slot)), answer)
    }

    pub(crate) fn claim(claim: Claim) -> (Self, Answer<ClaimResult>) {
        let (slot, answer) = Slot::new(claim);
        (Self::Claim(slot), answer)
    }

    pub(crate) fn publish(publish: Publish) -> (Self, Answer<Outcome>) {
        let (slot, answer) = Slot::new(publish);
        (Self::Publish(slot), answer)
    }

    /// `write` may run more than once, each time in a transaction of which nothing was kept before.
    pub(crate) fn operation<O, F>(write: F) -> (Self, Answer<O>)
    where
        O: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<O, StoreError> + Send + 'static,
    {
        let (slot, answer) = Slot::new(write);
        (Self::Operate(Operation(Box::new(slot))), answer)
    }

    pub(super) fn as_record(&mut self) -> Option<&mut Slot<Finished, Recorded>> {
        if let Self::Record(slot) = self {
            Some(slot)
        } else {
            None
        }
    }

    pub(super) fn as_claim(&mut self) -> Option<&mut Slot<Claim, ClaimResult>> {
        if let Self::Claim(slot) = self {
            Some(slot)
        } else {
            None
        }
    }

    pub(super) fn as_publish(&mut self) -> Option<&mut Slot<Publish, Outcome>> {
        if let Self::Publish(slot) = self {
            Some(slot)
        } else {
            None
        }
    }

    /// Makes less of an outcome that the database has refused. False where nothing less is left,
    /// and of anything but an outcome.
    pub(crate) fn reduce(&mut self) -> bool {
        self.as_record().is_some_and(|slot| slot.input.reduce())
    }

    /// Whether nobody waits for the answer to a publish any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(self, Self::Publish(slot) if slot.reply.is_closed())
    }

    /// Whose commit a publish is, and how many events of how many bytes it has.
    pub(crate) fn publishing(&self) -> Option<(&Tenant, Cost)> {
        let Self::Publish(slot) = self else {
            return None;
        };
        let events = &slot.input.events;
        let bytes = events.iter().map(|event| event.body.len()).sum();
        events.first().map(|first| {
            (
                &first.tenant,
                Cost {
                    rows: events.len(),
                    bytes,
                },
            )
        })
    }

    /// How many deliveries a publish that went well has made.
    pub(crate) fn deliveries_made(&self) -> Option<usize> {
        let Self::Publish(Slot {
            output: Some(Ok(published)),
            ..
        }) = self
        else {
            return None;
        };
        Some(
            published
                .iter()
                .filter(|one| !one.duplicate)
                .map(|one| one.deliveries.len())
                .sum(),
        )
    }

    /// Answers with what was committed, or with `failure`.
    pub(crate) fn answer(self, failure: Option<StoreError>) {
        match self {
            Self::Record(slot) => slot.answer(failure),
            Self::Claim(slot) => slot.answer(failure),
            Self::Publish(slot) => slot.answer(failure),
            Self::Operate(operation) => operation.0.answer(failure),
        }
    }

    /// Forgets what a transaction that was rolled back had come to.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Record(slot) => slot.output = None,
            Self::Claim(slot) => slot.output = None,
            Self::Publish(slot) => slot.output = None,
            Self::Operate(operation) => operation.0.reset(),
        }
    }
}
