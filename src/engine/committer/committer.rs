//! The engine's handle of the committer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::domain::clock::Clock;
use crate::domain::delivery::FinishedAttempt;
use crate::metrics::Metrics;
use crate::store::{
    Claim, ClaimResult, Publish, PublishRejection, Published, Recorded, StoreError, Tx,
    Unavailable, WriteRequest, WriteResult,
};

/// Time beyond the commit timeout after which callers get an answer without it.
const COMMIT_GRACE: Duration = Duration::from_secs(5);

/// Time for which a failed write makes the engine unready: a small probe may still succeed where
/// the next event does not.
const REFUSAL_LASTS: Duration = Duration::from_secs(5);

/// Sends writes to the committer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Committer {
    pub(super) queue: mpsc::Sender<LaneMessage>,
    /// The lane of publishers: the same, or one of their own.
    pub(super) publishers: mpsc::Sender<LaneMessage>,
    pub(super) timeout: Duration,
    pub(super) health: WriteHealth,
}

/// A message to a lane.
pub(super) enum LaneMessage {
    Write {
        request: WriteRequest,
        /// Monotonic time until which the caller waits.
        until: Duration,
    },
    /// Answered once everything queued before it has been answered.
    Close(oneshot::Sender<()>),
}

/// The last success and failure of all lanes, to distinguish an overloaded database from one that
/// does not respond.
#[derive(Clone)]
pub(super) struct WriteHealth {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    last: Arc<Mutex<LastWrites>>,
}

#[derive(Default)]
struct LastWrites {
    committed: Option<Duration>,
    refused: Option<(Duration, Unavailable)>,
}

impl WriteHealth {
    pub(super) fn new(clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            clock,
            metrics,
            last: Arc::default(),
        }
    }

    // Each field is assigned as a whole, so a poisoned lock is still usable.
    pub(super) fn note_commit(&self) {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .committed = Some(self.clock.monotonic());
    }

    pub(super) fn note_refusal(&self, why: Unavailable) {
        self.metrics.refusals.inc();
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refused = Some((self.clock.monotonic(), why));
    }

    fn has_committed_within(&self, age: Duration) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.committed
            .is_some_and(|at| self.clock.monotonic().saturating_sub(at) < age)
    }

    fn recent_refusal(&self) -> Option<Unavailable> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = last.refused.as_ref()?;
        (self.clock.monotonic().saturating_sub(*at) < REFUSAL_LASTS).then(|| why.clone())
    }
}

impl Committer {
    /// Claims deliveries.
    pub(crate) async fn claim(&self, claim: Claim) -> Result<ClaimResult, StoreError> {
        // A supervisor waits without a limit: it must know the result of its claims.
        self.send(&self.queue, WriteRequest::claim(claim)).await
    }

    /// Records the outcome of an attempt, retrying until it is written.
    pub(crate) async fn record(&self, finished: FinishedAttempt) -> Result<Recorded, StoreError> {
        self.send(&self.queue, WriteRequest::record(finished)).await
    }

    /// Publishes events.
    pub(crate) async fn publish(
        &self,
        publish: Publish,
    ) -> Result<Result<Vec<Published>, PublishRejection>, StoreError> {
        self.in_time(self.send(&self.publishers, WriteRequest::publish(publish)))
            .await
    }

    /// Runs `work` in a transaction, and returns its result once it is durable. `work` may run more
    /// than once, each time in a transaction that starts from committed state.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.in_time(self.send(&self.queue, WriteRequest::transact(work)))
            .await
    }

    async fn send<T>(
        &self,
        lane: &mpsc::Sender<LaneMessage>,
        (request, result): (WriteRequest, WriteResult<T>),
    ) -> Result<T, StoreError> {
        let until = self.health.clock.monotonic() + self.timeout;
        let sent = lane.send(LaneMessage::Write { request, until }).await;
        sent.map_err(|_| StoreError::from(Unavailable::Stopped))?;
        result
            .await
            .unwrap_or_else(|_| Err(Unavailable::Stopped.into()))
    }

    /// Answers in time, even if the database does not respond.
    async fn in_time<T>(
        &self,
        written: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let in_time = tokio::time::timeout(self.timeout + COMMIT_GRACE, written).await;
        in_time.unwrap_or_else(|_| {
            // A database that commits other writes is healthy: it is overloaded.
            if self.health.has_committed_within(self.timeout) {
                return Err(Unavailable::Overloaded.into());
            }
            self.health.note_refusal(Unavailable::Silent);
            Err(Unavailable::Silent.into())
        })
    }

    /// Returns the reason for the last failed write, if it was recent.
    pub(crate) fn recent_refusal(&self) -> Option<Unavailable> {
        self.health.recent_refusal()
    }

    /// Flushes, and stops the committer.
    pub(crate) async fn close(&self) {
        // If both are the same lane, the second one is already closed.
        for queue in [&self.publishers, &self.queue] {
            let (done, closed) = oneshot::channel();
            if queue.send(LaneMessage::Close(done)).await.is_ok() {
                let _ = closed.await;
            }
        }
    }
}
