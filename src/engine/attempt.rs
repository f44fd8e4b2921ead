//! DeliveryAttempt: sends one request, reports one outcome, and is gone.
//!
//! Its report reaches the supervisor in every case, a panic included: whoever drops an attempt
//! that has not reported sends [`Ended::Broken`].

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, Span};

use super::supervisor::EndpointSupervisor;
use super::{Shared, trace};
use crate::domain::breaker::Verdict;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Exchange};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::SealedEvent;
use crate::domain::lease::Lease;
use crate::sender::Sent;

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The receiver answered, or the time was up.
    Finished(Exchange, Verdict),
    /// Nothing was sent, by our own fault.
    NotSent(String),
    /// It was told to stop before it had an outcome.
    Aborted,
    /// It panicked.
    Broken,
}

/// To the supervisor: an attempt has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AttemptEnded {
    pub(super) event: Arc<SealedEvent>,
    pub(super) claimed: Claimed,
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
    /// Start and end once more, in schedule time.
    pub(super) scheduled: (Timestamp, Timestamp),
    pub(super) ended: Ended,
}

/// What one attempt needs.
pub(super) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) supervisor: Addr<EndpointSupervisor>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) event: Arc<SealedEvent>,
    pub(super) claimed: Claimed,
    /// What it was claimed under: nothing goes out once that has ended.
    pub(super) lease: Lease,
    pub(super) started_at: Timestamp,
    /// The same in schedule time.
    pub(super) scheduled_at: Timestamp,
    /// Not over a connection that was used before.
    pub(super) fresh_connection: bool,
    pub(super) abort: CancellationToken,
    /// Its place among all attempts of the engine.
    pub(super) _slot: OwnedSemaphorePermit,
    /// Counted until it is dropped, so that a dead supervisor's attempts are seen to end.
    pub(super) _alive: TaskTrackerToken,
}

pub(super) struct DeliveryAttempt {
    job: Job,
    reported: bool,
}

impl DeliveryAttempt {
    pub(super) fn new(job: Job) -> Self {
        Self {
            job,
            reported: false,
        }
    }

    fn report(&mut self, ended: Ended) {
        self.reported = true;
        self.job.shared.metrics.in_flight.dec();
        let report = AttemptEnded {
            event: Arc::clone(&self.job.event),
            claimed: self.job.claimed.clone(),
            started_at: self.job.started_at,
            ended_at: self.job.shared.clock.now(),
            scheduled: (self.job.scheduled_at, self.job.shared.clock.schedule_now()),
            ended,
        };
        // A supervisor that is gone gets no report, and needs none: its claims are rehydrated.
        self.job.supervisor.do_send(report);
    }
}

impl Actor for DeliveryAttempt {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.job.shared.metrics.in_flight.inc();
        let shared = Arc::clone(&self.job.shared);
        let (endpoint, event) = (Arc::clone(&self.job.endpoint), Arc::clone(&self.job.event));
        let (abort, started_at, lease) =
            (self.job.abort.clone(), self.job.started_at, self.job.lease);
        let fresh = self.job.fresh_connection;
        let span = trace::attempt_span(&self.job);
        let parent = trace::after(&span, event.traceparent);
        let attempt = async move {
            let mut send = pin!(
                shared
                    .sender
                    .send(&endpoint, &event, started_at, parent, fresh)
            );
            // A process that stood still may find its time long over: it is looked at before each
            // step, and not only when the timer gets its turn.
            let while_held = poll_fn(|cx| match shared.leases.may_send(lease) {
                true => send.as_mut().poll(cx).map(Some),
                false => Poll::Ready(None),
            });
            let sent = abort.run_until_cancelled(while_held).await.flatten();
            trace::note_outcome(&Span::current(), sent.as_ref());
            sent
        };
        ctx.spawn(
            attempt
                .instrument(span)
                .into_actor(self)
                .map(|sent, attempt, ctx| {
                    attempt.report(match sent {
                        Some(Sent::Finished { exchange, verdict }) => {
                            Ended::Finished(exchange, verdict)
                        }
                        Some(Sent::NotSent(why)) => Ended::NotSent(why),
                        None => Ended::Aborted,
                    });
                    ctx.stop();
                }),
        );
    }
}

impl Drop for DeliveryAttempt {
    fn drop(&mut self) {
        if !self.reported {
            self.report(Ended::Broken);
        }
    }
}
