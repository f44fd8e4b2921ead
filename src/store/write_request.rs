//! The writes of one commit, each with the channel for its result once the commit is durable.

use tokio::sync::oneshot;

use super::error::StoreError;
use super::tx::Tx;
use super::writes::{Claim, ClaimResult, Publish, PublishOutcome, Recorded};
use crate::domain::delivery::FinishedAttempt;
use crate::domain::fair_queue::Cost;
use crate::domain::ids::Tenant;

/// Resolves once the commit that contains the write is durable, or has failed.
pub(crate) type WriteResult<T> = oneshot::Receiver<Result<T, StoreError>>;

/// A queued write: its input, its result once it ran, and the channel of the caller.
pub(crate) struct PendingWrite<I, O> {
    pub(super) input: I,
    pub(super) output: Option<O>,
    reply: oneshot::Sender<Result<O, StoreError>>,
}

impl<I, O> PendingWrite<I, O> {
    fn new(input: I) -> (Self, WriteResult<O>) {
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

    /// Sends the result to the caller, who may have gone away: committed writes stay committed.
    fn answer(self, failure: Option<StoreError>) {
        let result = match (failure, self.output) {
            (None, Some(output)) => Ok(output),
            (Some(error), _) => Err(error),
            (None, None) => Err(StoreError::Panicked),
        };
        let _ = self.reply.send(result);
    }
}

/// A write with erased types, which runs inside the group's transaction.
pub(super) trait ErasedWrite: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError>;
    fn reset(&mut self);
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

impl<F, O> ErasedWrite for PendingWrite<F, O>
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
        PendingWrite::answer(*self, failure);
    }
}

/// One write of a group commit.
pub(crate) enum WriteRequest {
    /// Retried until it is written: a receiver's response must not be lost.
    Record(Box<PendingWrite<FinishedAttempt, Recorded>>),
    Claim(PendingWrite<Claim, ClaimResult>),
    Publish(PendingWrite<Publish, PublishOutcome>),
    Transact(Transact),
}

/// A boxed write, generic over the closure.
pub(crate) struct Transact(pub(super) Box<dyn ErasedWrite>);

impl WriteRequest {
    pub(crate) fn record(finished: FinishedAttempt) -> (Self, WriteResult<Recorded>) {
        let (write, answer) = PendingWrite::new(finished);
        (Self::Record(Box::new(write)), answer)
    }

    pub(crate) fn claim(claim: Claim) -> (Self, WriteResult<ClaimResult>) {
        let (write, answer) = PendingWrite::new(claim);
        (Self::Claim(write), answer)
    }

    pub(crate) fn publish(publish: Publish) -> (Self, WriteResult<PublishOutcome>) {
        let (write, answer) = PendingWrite::new(publish);
        (Self::Publish(write), answer)
    }

    /// `work` may run more than once, each time in a transaction that starts from committed state.
    pub(crate) fn transact<O, F>(work: F) -> (Self, WriteResult<O>)
    where
        O: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<O, StoreError> + Send + 'static,
    {
        let (write, answer) = PendingWrite::new(work);
        (Self::Transact(Transact(Box::new(write))), answer)
    }

    pub(super) fn as_record(&mut self) -> Option<&mut PendingWrite<FinishedAttempt, Recorded>> {
        if let Self::Record(write) = self {
            Some(write)
        } else {
            None
        }
    }

    pub(super) fn as_claim(&mut self) -> Option<&mut PendingWrite<Claim, ClaimResult>> {
        if let Self::Claim(write) = self {
            Some(write)
        } else {
            None
        }
    }

    pub(super) fn as_publish(&mut self) -> Option<&mut PendingWrite<Publish, PublishOutcome>> {
        if let Self::Publish(write) = self {
            Some(write)
        } else {
            None
        }
    }

    /// Drops a part of an outcome that the database has rejected. Returns false if nothing is left
    /// to drop, or for other writes.
    pub(crate) fn reduce(&mut self) -> bool {
        self.as_record().is_some_and(|write| write.input.reduce())
    }

    /// Returns true for claims and publishes, which depend on the current endpoints.
    pub(super) fn reads_endpoints(&self) -> bool {
        matches!(self, Self::Claim(_) | Self::Publish(_))
    }

    /// Returns true for a publish whose caller no longer waits.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(self, Self::Publish(write) if write.reply.is_closed())
    }

    /// Returns a publish's tenant, and its cost in events and bytes of bodies.
    pub(crate) fn publishing(&self) -> Option<(&Tenant, Cost)> {
        let Self::Publish(write) = self else {
            return None;
        };
        let events = &write.input.events;
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

    /// Returns the number of deliveries that a successful publish has created.
    pub(crate) fn deliveries_created(&self) -> Option<usize> {
        let Self::Publish(PendingWrite {
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

    /// Sends the committed result, or `failure`.
    pub(crate) fn answer(self, failure: Option<StoreError>) {
        match self {
            Self::Record(write) => write.answer(failure),
            Self::Claim(write) => write.answer(failure),
            Self::Publish(write) => write.answer(failure),
            Self::Transact(write) => write.0.answer(failure),
        }
    }

    /// Clears the result of a transaction that was rolled back.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Record(write) => write.output = None,
            Self::Claim(write) => write.output = None,
            Self::Publish(write) => write.output = None,
            Self::Transact(write) => write.0.reset(),
        }
    }
}
