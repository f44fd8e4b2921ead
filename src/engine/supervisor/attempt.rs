//! An attempt: sends one request, reports one end, and stops.
//!
//! Its report reaches the supervisor in every case, a panic included: dropping an attempt that has
//! not reported sends [`AttemptEnd::Panicked`].

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::actions::Start;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::engine::context::EngineContext;
use crate::engine::messages::{AttemptEnd, AttemptEnded};
use crate::engine::sending::Place;
use crate::engine::trace;
use crate::sender::{Outgoing, SendResult};

/// The attempts of one supervisor: tracked until they end, and aborted together.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttemptTasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) abort: CancellationToken,
}

/// Input of one attempt.
pub(super) struct Job {
    pub(super) context: Arc<EngineContext>,
    pub(super) place: Arc<Place>,
    pub(super) supervisor: Recipient<AttemptEnded>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Nothing is sent once its lease has ended.
    pub(super) start: Start,
    pub(super) started_at: Timestamp,
    /// Start in schedule time.
    pub(super) scheduled_at: Timestamp,
    pub(super) abort: CancellationToken,
    /// One of the permits of the engine.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
    /// Tracked until it is dropped, so that the attempts of a dead supervisor are seen to end.
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

    fn report(&mut self, end: AttemptEnd) {
        self.reported = true;
        let Job { context, start, .. } = &self.job;
        context.metrics.in_flight.dec();
        let now = context.clock.read();
        let report = AttemptEnded {
            event: Arc::clone(&start.event),
            claimed: start.claimed.clone(),
            started_at: self.job.started_at,
            ended_at: now.wall,
            scheduled: (self.job.scheduled_at, now.schedule),
            end,
        };
        // A dead supervisor needs no report: its claims are reclaimed.
        self.job.supervisor.do_send(report);
    }
}

impl Actor for DeliveryAttempt {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Job {
            context,
            place,
            endpoint,
            start,
            ..
        } = &self.job;
        context.metrics.in_flight.inc();
        let place = Arc::clone(place);
        let context = Arc::clone(context);
        let endpoint = Arc::clone(endpoint);
        let event = Arc::clone(&start.event);
        let lease = start.lease;
        let abort = self.job.abort.clone();
        let span = span(&self.job);
        let outgoing = Outgoing {
            started_at: self.job.started_at,
            traceparent: trace::after(&span, event.traceparent, context.random()),
            fresh_connection: start.fresh_connection,
        };
        let attempt = async move {
            let mut send = pin!(place.sender().send(&endpoint, &event, outgoing));
            // A process that was suspended may find its lease long expired: this is checked before
            // each step, not only when a timer fires.
            let while_held = poll_fn(|cx| match context.leases.may_send(lease) {
                true => send.as_mut().poll(cx).map(Some),
                false => Poll::Ready(None),
            });
            let sent = abort.run_until_cancelled(while_held).await.flatten();
            trace::note_outcome(&Span::current(), sent.as_ref());
            sent
        };
        // Boxed, because it is moved into the actor's context and its size is that of all layers below.
        ctx.spawn(
            Box::pin(attempt.instrument(span))
                .into_actor(self)
                .map(|sent, attempt, ctx| {
                    attempt.report(match sent {
                        Some(SendResult::Finished { record, verdict }) => {
                            AttemptEnd::Finished(record, verdict)
                        }
                        Some(SendResult::NotSent(why)) => AttemptEnd::NotSent(why),
                        None => AttemptEnd::Aborted,
                    });
                    ctx.stop();
                }),
        );
    }
}

impl Drop for DeliveryAttempt {
    fn drop(&mut self) {
        if !self.reported {
            self.report(AttemptEnd::Panicked);
        }
    }
}

/// Opens the span around an attempt.
fn span(job: &Job) -> Span {
    let Start { claimed, event, .. } = &job.start;
    let delivery = job.context.store.public_ids().delivery(claimed.key);
    let endpoint = &job.endpoint.id;
    let number = claimed.life.attempt_count + 1;
    let span = tracing::debug_span!(
        parent: None, "attempt", otel.kind = "client",
        %delivery, event = %event.id, %endpoint, number,
        outcome = Empty, status_code = Empty, trace_id = Empty
    );
    trace::continues(&span, event.traceparent);
    span
}
