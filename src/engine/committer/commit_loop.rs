//! The loop of one lane: takes groups from the queue, commits them on its connection, and answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::committer::{LaneMessage, WriteHealth};
use super::queue::{CommitQueue, Publishing};
use super::resolution::{Resolution, resolve, stays_queued};
use crate::domain::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{CommittedDelivery, Store, StoreError, Unavailable, WriteRequest, Writer};

/// Called with the deliveries that a commit has created.
pub(crate) type OnCommit = Arc<dyn Fn(Vec<CommittedDelivery>) + Send + Sync>;

/// The parts of the engine that the committer uses.
pub(crate) struct Observers {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) on_commit: OnCommit,
}

/// A queued write, and the monotonic time until which its caller waits.
struct QueuedWrite {
    request: WriteRequest,
    until: Duration,
}

/// The engine stops: writes that are not committed by `until` are left to the next start.
struct Closing {
    done: oneshot::Sender<()>,
    until: Duration,
}

/// The loop's next step.
pub(super) enum Turn {
    /// Wait for a write.
    Wait,
    /// Collect queued writes, and commit again.
    Continue,
    /// Pause before the next access to the database.
    Pause(Duration),
    Finished,
}

/// The state of one lane.
pub(super) struct CommitLoop {
    store: Store,
    timeout: Duration,
    /// `None` after an error or a panic left its transaction in an unknown state.
    writer: Option<Writer>,
    observers: Arc<Observers>,
    health: WriteHealth,
    queue: CommitQueue<QueuedWrite>,
    closing: Option<Closing>,
    /// True once no more writes can arrive.
    disconnected: bool,
}

impl CommitLoop {
    pub(super) fn open(
        store: &Store,
        timeout: Duration,
        observers: Arc<Observers>,
        health: WriteHealth,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            store: store.clone(),
            timeout,
            writer: Some(Writer::open(store)?),
            observers,
            health,
            queue: CommitQueue::default(),
            closing: None,
            disconnected: false,
        })
    }

    fn now(&self) -> Duration {
        self.observers.clock.monotonic()
    }

    /// Notes that no more writes can arrive.
    pub(super) fn disconnect(&mut self) {
        self.disconnected = true;
    }

    /// Takes a write and the ones queued behind it, so that tenants can take turns.
    pub(super) fn collect(
        &mut self,
        first: Option<LaneMessage>,
        incoming: &mut mpsc::Receiver<LaneMessage>,
    ) {
        let mut next = first.or_else(|| incoming.try_recv().ok());
        while let Some(entry) = next {
            match entry {
                LaneMessage::Write { request, until } => self.push(QueuedWrite { request, until }),
                LaneMessage::Close(done) => {
                    incoming.close();
                    let until = self.now() + self.timeout;
                    self.closing.get_or_insert(Closing { done, until });
                    return;
                }
            }
            next = if self.queue.is_full() {
                None
            } else {
                incoming.try_recv().ok()
            };
        }
    }

    /// Commits one group.
    pub(super) fn turn(&mut self) -> Turn {
        let pause = self.commit_queued();
        let is_flushed = self.queue.is_empty();
        if let Some(closing) = &self.closing
            && (is_flushed || self.now() >= closing.until)
        {
            return Turn::Finished;
        }
        match pause {
            Some(pause) => Turn::Pause(pause),
            None if !is_flushed => Turn::Continue,
            None if self.disconnected => Turn::Finished,
            None => Turn::Wait,
        }
    }

    /// Answers everything that is left.
    pub(super) fn finish(mut self) {
        for QueuedWrite { request, .. } in self.queue.drain() {
            request.answer(Some(Unavailable::Stopped.into()));
        }
        // The connection closes before the stop is reported, so the next owner finds it closed.
        drop(self.writer);
        if let Some(closing) = self.closing {
            let _ = closing.done.send(());
        }
    }

    fn push(&mut self, write: QueuedWrite) {
        let publishing = publishing_of(&write.request);
        self.queue.push(write, publishing);
    }

    /// Commits one group. Returns the time to wait if the database is unavailable.
    fn commit_queued(&mut self) -> Option<Duration> {
        let mut group = self.queue.next_group();
        // A caller that has gone away publishes again, or not at all.
        group.retain(|write| !write.request.is_abandoned());
        if group.is_empty() {
            None
        } else {
            self.commit_group(group)
        }
    }

    fn commit_group(&mut self, group: Vec<QueuedWrite>) -> Option<Duration> {
        let untils: Vec<Duration> = group.iter().map(|write| write.until).collect();
        let mut requests: Vec<WriteRequest> =
            group.into_iter().map(|write| write.request).collect();
        let Err(error) = self.commit(&mut requests) else {
            self.queue.note_success();
            for request in requests {
                if let Some((of, created)) =
                    publishing_of(&request).zip(request.deliveries_created())
                {
                    self.queue.note_fan_out(of, created);
                }
                request.answer(None);
            }
            return None;
        };
        let is_outcome = requests
            .iter()
            .all(|request| matches!(request, WriteRequest::Record(_)));
        let resolution = resolve(&error, requests.len(), is_outcome);
        let group = requests.into_iter().zip(untils);
        let group: Vec<QueuedWrite> = group
            .map(|(request, until)| QueuedWrite { request, until })
            .collect();
        match resolution {
            Resolution::Requeue(why) => Some(self.requeue_or_fail(group, &why)),
            Resolution::Split => {
                tracing::warn!(%error, writes = group.len(), "a group failed: running its writes one by one");
                let one_by_one = group
                    .into_iter()
                    .map(|write| self.commit_group(vec![write]));
                one_by_one.fold(None, |pause, next| next.or(pause))
            }
            // Both concern a single write.
            Resolution::Reduce => group
                .into_iter()
                .next()
                .and_then(|outcome| self.store_reduced(outcome, error)),
            Resolution::Fail => {
                tracing::error!(%error, "a write failed");
                if let Some(write) = group.into_iter().next() {
                    write.request.answer(Some(error));
                }
                None
            }
        }
    }

    /// Requeues the writes that can wait for the database, and answers the others with an error.
    fn requeue_or_fail(&mut self, group: Vec<QueuedWrite>, why: &Unavailable) -> Duration {
        tracing::warn!(%why, writes = group.len(), "the database takes no writes");
        self.health.note_refusal(why.clone());
        let now = self.now();
        for write in group {
            let is_outcome = matches!(write.request, WriteRequest::Record(_));
            if stays_queued(is_outcome, why, now, write.until) {
                self.push(write);
            } else {
                write.request.answer(Some(why.clone().into()));
            }
        }
        self.queue.note_unavailable()
    }

    /// Stores reduced forms of an outcome that the database rejects, as long as it accepts other
    /// writes: the outcome is neither retried permanently nor lost.
    fn store_reduced(&mut self, outcome: QueuedWrite, mut error: StoreError) -> Option<Duration> {
        let QueuedWrite { mut request, until } = outcome;
        let mut is_first = true;
        loop {
            let (probe, _) = WriteRequest::transact(|tx| tx.probe());
            if let Err(unavailable) = self.commit(&mut [probe]) {
                let why = match unavailable {
                    StoreError::Unavailable(why) => why,
                    other => Unavailable::Refused(other.to_string()),
                };
                return Some(self.requeue_or_fail(vec![QueuedWrite { request, until }], &why));
            }
            // A temporary rejection is not about the content: the complete outcome is tried once
            // more.
            if !std::mem::take(&mut is_first) {
                if !request.reduce() {
                    tracing::error!(%error, "an outcome could not be stored in any form");
                    request.answer(Some(error));
                    return None;
                }
                tracing::warn!(%error, "the database rejected the content of an outcome: storing a reduced form");
            }
            let mut alone = [request];
            let committed = self.commit(&mut alone);
            [request] = alone;
            match committed {
                Ok(()) => {
                    self.queue.note_success();
                    request.answer(None);
                    return None;
                }
                Err(next) => error = next,
            }
        }
    }

    fn commit(&mut self, group: &mut [WriteRequest]) -> Result<(), StoreError> {
        let started = self.now();
        // Nothing was sent on an idle connection that died: open a new one.
        let mut writer = match self.writer.take().and_then(Writer::if_alive) {
            Some(writer) => writer,
            None => self.open_writer()?,
        };
        let mut result = catch_unwind(AssertUnwindSafe(|| writer.commit(group)));
        // Nothing reached the database, so the group can run again on a new connection.
        if matches!(result, Ok(Err(_))) && !writer.has_begun() {
            writer = self.open_writer()?;
            result = catch_unwind(AssertUnwindSafe(|| writer.commit(group)));
        }
        let metrics = &self.observers.metrics;
        metrics.commit(
            group.len(),
            self.now().saturating_sub(started).as_secs_f64(),
        );
        match result {
            Ok(Ok(new)) => {
                self.writer = Some(writer);
                self.health.note_commit();
                if !new.is_empty() {
                    (self.observers.on_commit)(new);
                }
                Ok(())
            }
            // SQLite may have rolled back automatically, and diesel does not notice: the next
            // commit needs a new connection.
            Ok(Err(error)) => {
                metrics.commit_failures.inc();
                if matches!(error, StoreError::Unavailable(Unavailable::Busy)) {
                    self.writer = Some(writer);
                }
                Err(error)
            }
            Err(_) => {
                metrics.commit_failures.inc();
                // Dropping a connection in that state may panic again.
                let _ = catch_unwind(AssertUnwindSafe(move || drop(writer)));
                Err(StoreError::Panicked)
            }
        }
    }

    /// Opens a writer. Every failure counts as temporary, so that no known outcome is dropped.
    fn open_writer(&self) -> Result<Writer, StoreError> {
        Writer::open(&self.store).map_err(|error| match error {
            StoreError::Unavailable(why) => why.into(),
            error => Unavailable::Io(error.to_string()).into(),
        })
    }
}

fn publishing_of(request: &WriteRequest) -> Option<Publishing> {
    request
        .publishing()
        .map(|(tenant, cost)| (tenant.clone(), cost))
}
