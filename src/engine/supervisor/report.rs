//! Reports of a supervisor: to the log, the metrics, and the embedding program.

use crate::domain::breaker::BreakerState;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::endpoint::PauseReason;
use crate::domain::ids::{DeliveryId, DeliveryKey, EndpointId};
use crate::domain::lifecycle::State;
use crate::engine::context::EngineContext;
use crate::engine::notifications::Notification;
use crate::engine::supervisor::messages::RecordedOutcome;
use crate::store::StoreError;

/// An item to report.
#[derive(Debug)]
pub(super) enum Report {
    HistoryNotRead(StoreError),
    DueNotRead(StoreError),
    ClaimFailed(StoreError),
    NotSent(String),
    AttemptPanicked(DeliveryKey),
    AttemptFinished {
        outcome: Outcome,
        started_at: Timestamp,
        ended_at: Timestamp,
    },
    BreakerChanged {
        state: BreakerState,
        failures: u32,
    },
    EndpointPaused(PauseReason),
    OutcomeRecorded(RecordedOutcome, State),
    OutcomeStale(DeliveryKey),
    OutcomeNotWritten(DeliveryKey, StoreError),
}

/// Reports an item about an endpoint.
pub(super) fn report(report: Report, endpoint: &EndpointId, context: &EngineContext) {
    let metrics = &context.metrics;
    let public = |key: DeliveryKey| context.store.public_ids().delivery(key);
    match report {
        Report::HistoryNotRead(error) => {
            tracing::warn!(%endpoint, %error, "cannot read the attempt log of {endpoint} yet");
        }
        Report::DueNotRead(error) => {
            tracing::warn!(%endpoint, %error, "cannot read the due deliveries of {endpoint}");
        }
        Report::ClaimFailed(error) => {
            tracing::warn!(%endpoint, %error, "a claim of {endpoint} was not committed");
        }
        Report::NotSent(why) => {
            tracing::warn!(%endpoint, "an attempt could not be sent and is repeated in 1 s: {why}");
        }
        Report::AttemptPanicked(key) => {
            let delivery = public(key);
            tracing::error!(%delivery, "attempt of {delivery} panicked: this is a defect, please report it");
        }
        Report::AttemptFinished {
            outcome,
            started_at,
            ended_at,
        } => {
            metrics.attempt(outcome, ended_at, ended_at.since(started_at).as_secs_f64());
        }
        Report::BreakerChanged { state, failures } => {
            tracing::info!(%endpoint, %state, failures, "the breaker of {endpoint} is {state}");
        }
        Report::EndpointPaused(reason) => {
            tracing::warn!(%endpoint, %reason, "endpoint {endpoint} is paused ({reason}) until a person resumes it");
        }
        Report::OutcomeRecorded(recorded, state) => {
            metrics.reached(state);
            let delivery = public(recorded.key);
            log_outcome(&recorded, &delivery, state, endpoint);
            for notification in notifications(recorded, delivery, state, endpoint) {
                // Fails without a subscriber, which is fine.
                let _ = context.notifications.send(notification);
            }
        }
        Report::OutcomeStale(key) => {
            let delivery = public(key);
            metrics.stale_outcomes.inc();
            tracing::warn!(%delivery, "the outcome of {delivery} came after its claim was reclaimed");
        }
        Report::OutcomeNotWritten(key, error) => {
            let delivery = public(key);
            tracing::error!(%delivery, %error, "the outcome of {delivery} could not be written; the poll reclaims it");
        }
    }
}

/// Successes are only counted; failures are also logged.
fn log_outcome(
    recorded: &RecordedOutcome,
    delivery: &DeliveryId,
    state: State,
    endpoint: &EndpointId,
) {
    let outcome = recorded.outcome;
    let status = state.status();
    if outcome == Outcome::Delivered {
        tracing::debug!(%delivery, %endpoint, "{delivery} is delivered");
    } else {
        tracing::info!(%delivery, %endpoint, %outcome, %status, "an attempt of {delivery} ended {outcome}; it is {status}");
    }
}

fn notifications(
    recorded: RecordedOutcome,
    delivery: DeliveryId,
    state: State,
    endpoint: &EndpointId,
) -> impl Iterator<Item = Notification> {
    let event = recorded.event.id.clone();
    let reached = match state {
        State::Delivered => Some(Notification::Delivered {
            event,
            delivery,
            endpoint: endpoint.clone(),
        }),
        State::Failed(reason) => Some(Notification::Failed {
            event,
            delivery,
            endpoint: endpoint.clone(),
            reason,
        }),
        State::Pending(_) | State::Sending => None,
    };
    let paused = recorded.paused.map(|reason| Notification::Paused {
        endpoint: endpoint.clone(),
        reason,
    });
    reached.into_iter().chain(paused)
}
