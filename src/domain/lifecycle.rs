//! Lifecycle of a delivery: four states, and [`next`], the one function that decides every
//! transition between them.
//!
//! ```text
//!             claim committed            2xx
//!  pending ───────────────────▶ sending ───────────────▶ delivered
//!     ▲ ▲ ▲                      │ │ │ │
//!     │ │ └── retry: a delay ────┘ │ │ └── retries used up ──▶ failed
//!     │ └──── released: not sent ──┘ │                           │
//!     └────── interrupted ───────────┘                           │
//!     ▲───────── retry, asked for by a person ───────────────────┘
//! ```
//!
//! Deliveries with the same ordering key are sent one at a time. Only the head may be claimed; the
//! others are blocked ([`HoldReason::Order`]). The next one becomes the head once the head is
//! delivered or cancelled, or fails at an endpoint where failures do not block.
//!
//! The store calls it inside the transaction that writes the result. A crash, a restart or a lost
//! owner is [`Cause::Interrupted`]: it never fails a delivery and never uses up a retry.

use super::clock::Timestamp;
use super::retry::{Jitter, RetrySchedule};
use super::words;

words! {
    /// State of a delivery, as named in SQL and JSON.
    Status {
        /// Waiting; [`State::Pending`] has the condition.
        Pending = "pending",
        /// Claimed by the endpoint's supervisor: a request may be on the wire.
        Sending = "sending",
        /// A receiver answered 2xx.
        Delivered = "delivered",
        /// Failed; [`FailureReason`] has the reason.
        Failed = "failed",
    }
}

words! {
    /// The reason why a delivery failed.
    FailureReason {
        /// All retries of the endpoint's schedule were used.
        RetriesExhausted = "retries_exhausted",
        /// Cancelled manually.
        Cancelled = "cancelled",
        /// Its endpoint was deleted.
        EndpointDeleted = "endpoint_deleted",
        /// It waited longer than the endpoint's `max_age`.
        Expired = "expired",
    }
}

words! {
    /// The reason why a pending delivery waits for something other than time.
    HoldReason {
        /// [`MAX_INTERRUPTIONS`] attempts in a row were cut short, perhaps by a crash it causes.
        Interrupted = "interrupted",
        /// An earlier delivery with the same ordering key is not done. Ends automatically; a
        /// person cannot release it.
        Order = "order",
        /// The database refused its outcome in every reduced form.
        RefusedByDatabase = "refused_by_database",
    }
}

/// Interruptions since the last finished attempt after which a delivery is put on hold.
pub const MAX_INTERRUPTIONS: u32 = 5;

/// State of a delivery, with the data of that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Waiting. Left by a claim, a cancellation, the endpoint's deletion, or age.
    Pending(Wait),
    /// Claimed. Left by the attempt's outcome, a release, or rehydration.
    Sending,
    /// Delivered. Left only by a manual resend.
    Delivered,
    /// Failed. Left only by a manual retry.
    Failed(FailureReason),
}

/// The condition that a pending delivery waits for. Its endpoint may add a further wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// May be claimed from this time on.
    Until(Timestamp),
    /// On hold until it is released or retried manually, or becomes the head of its ordering key.
    Held(HoldReason),
}

impl State {
    /// Returns the word for its state.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Pending(_) => Status::Pending,
            Self::Sending => Status::Sending,
            Self::Delivered => Status::Delivered,
            Self::Failed(_) => Status::Failed,
        }
    }
}

/// The part of a delivery that the lifecycle reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Life {
    /// Current state.
    pub state: State,
    /// Retries used of the endpoint's schedule. A manual retry resets it.
    pub retries_used: u32,
    /// Finished attempts over the whole history.
    pub attempt_count: u32,
    /// Attempts cut short since the last finished one.
    pub interruptions: u32,
    /// Time of the first 2xx.
    pub delivered_at: Option<Timestamp>,
    /// True while it is part of the order of its key: later deliveries with that key stay
    /// blocked until it is false.
    pub in_order: bool,
}

impl Life {
    /// Creates a new delivery; `in_order` is true if it has an ordering key.
    #[must_use]
    pub const fn published(at: Timestamp, in_order: bool) -> Self {
        Self {
            state: State::Pending(Wait::Until(at)),
            retries_used: 0,
            attempt_count: 0,
            interruptions: 0,
            delivered_at: None,
            in_order,
        }
    }

    /// Returns whether becoming `next` unblocks the deliveries behind it in its ordering key.
    #[must_use]
    pub const fn leaves_order(&self, next: &Self) -> bool {
        self.in_order && !next.in_order
    }
}

/// A cause of a transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause<'a> {
    /// Claimed by the endpoint's supervisor, to be sent next.
    Claimed,
    /// The receiver answered 2xx.
    Accepted {
        /// End of the attempt.
        at: Timestamp,
    },
    /// The attempt failed: any other response, or none.
    Rejected {
        /// End of the attempt: the retry's delay starts here.
        at: Timestamp,
        /// Current schedule of the endpoint; `None` if it was deleted.
        schedule: Option<&'a RetrySchedule>,
        /// Jitter added to the delay.
        jitter: Jitter,
        /// The endpoint gets nothing before this time, regardless of the schedule.
        not_before: Option<Timestamp>,
        /// True if it keeps blocking its ordering key after failing.
        blocks: bool,
    },
    /// The receiver asked to be sent the request later. Uses up no retry.
    Deferred {
        /// Time of the next attempt.
        until: Timestamp,
    },
    /// A reused connection ended before a response: the receiver may not have seen the request.
    /// Uses up no retry and does not count as an interruption.
    ConnectionLost {
        /// End of the attempt.
        at: Timestamp,
    },
    /// The database refused the attempt's outcome in every form.
    RefusedByDatabase,
    /// The claim was not started: the endpoint was paused, or no file descriptor was left.
    Released {
        /// Time of the release.
        at: Timestamp,
    },
    /// The attempt's result is unknown and will stay so.
    Interrupted {
        /// Time at which this was found.
        at: Timestamp,
        /// False after a clean stop or a hand-over, which say nothing about the delivery.
        counts: bool,
    },
    /// A manual retry or resend.
    RetryAsked {
        /// Time of the request.
        at: Timestamp,
    },
    /// An earlier delivery with the same ordering key is not done.
    BlockedByOrder,
    /// It became the head of its ordering key.
    OrderReached {
        /// Time of the change.
        at: Timestamp,
    },
    /// A manual release: of a hold, or of the deliveries blocked by a failed one.
    HoldLifted {
        /// Time of the request.
        at: Timestamp,
    },
    /// A manual cancellation.
    Cancelled,
    /// Its endpoint was deleted.
    EndpointDeleted,
    /// It waited longer than the endpoint's `max_age`.
    Expired {
        /// True if it keeps blocking its ordering key.
        blocks: bool,
    },
}

/// A transition that the current state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a delivery that is {} cannot be {verb}", state_words(*.state))]
pub struct TransitionError {
    /// Current state.
    pub state: State,
    /// The refused action, as a past participle.
    pub verb: &'static str,
}

fn state_words(state: State) -> String {
    match state {
        State::Pending(Wait::Held(HoldReason::Order)) => {
            "blocked by an earlier one with the same ordering key".to_owned()
        }
        State::Pending(Wait::Held(reason)) => format!("on hold ({reason})"),
        State::Failed(reason) => format!("failed ({reason})"),
        other => other.status().to_string(),
    }
}

/// Decides the state after `cause`. Pure: no transition is decided anywhere else.
///
/// # Errors
/// Returns an error if the state does not allow it; nothing may be written then.
#[expect(
    clippy::too_many_lines,
    reason = "the whole life of a delivery on one page"
)]
pub fn next(life: &Life, cause: &Cause<'_>) -> Result<Life, TransitionError> {
    use HoldReason::{Interrupted, Order, RefusedByDatabase};
    use State::{Delivered, Failed, Pending, Sending};
    let refused = Err(TransitionError {
        state: life.state,
        verb: cause.verb(),
    });
    let to = |state| Ok(Life { state, ..*life });
    let due = |at| Pending(Wait::Until(at));
    let failed = |reason, blocks| Life {
        state: Failed(reason),
        in_order: life.in_order && blocks,
        ..*life
    };

    match (life.state, *cause) {
        (Pending(Wait::Until(_)), Cause::Claimed) => to(Sending),

        (Sending, Cause::Accepted { at }) => {
            // A resend keeps the time of the first 2xx.
            let delivered_at = life.delivered_at.or(Some(at));
            Ok(Life {
                delivered_at,
                in_order: false,
                ..finished(life, Delivered)
            })
        }
        (Sending, Cause::Rejected { schedule: None, .. }) => Ok(Life {
            in_order: false,
            ..finished(life, Failed(FailureReason::EndpointDeleted))
        }),
        (
            Sending,
            Cause::Rejected {
                at,
                schedule: Some(schedule),
                jitter,
                not_before,
                blocks,
            },
        ) => Ok(match schedule.delay(life.retries_used, jitter) {
            Some(delay) => Life {
                retries_used: life.retries_used + 1,
                ..finished(life, due((at + delay).max(not_before.unwrap_or(at))))
            },
            None => Life {
                in_order: life.in_order && blocks,
                ..finished(life, Failed(FailureReason::RetriesExhausted))
            },
        }),
        (Sending, Cause::Deferred { until }) => Ok(finished(life, due(until))),
        (Sending, Cause::Released { at } | Cause::ConnectionLost { at }) => to(due(at)),
        (Sending, Cause::RefusedByDatabase) => to(Pending(Wait::Held(RefusedByDatabase))),
        (Sending, Cause::Interrupted { at, counts }) => {
            // A clean stop does not count, so rolling restarts put no delivery on hold.
            let interruptions = life.interruptions + u32::from(counts);
            let state = if interruptions >= MAX_INTERRUPTIONS {
                Pending(Wait::Held(Interrupted))
            } else {
                due(at)
            };
            Ok(Life {
                state,
                interruptions,
                ..*life
            })
        }

        // There is no endpoint left to send to.
        (Failed(FailureReason::EndpointDeleted), Cause::RetryAsked { .. }) => refused,
        (
            Failed(_) | Delivered | Pending(Wait::Held(Interrupted | RefusedByDatabase)),
            Cause::RetryAsked { at },
        ) => Ok(Life {
            state: due(at),
            retries_used: 0,
            interruptions: 0,
            ..*life
        }),
        (Pending(Wait::Held(Interrupted | RefusedByDatabase)), Cause::HoldLifted { at }) => {
            Ok(Life {
                state: due(at),
                interruptions: 0,
                ..*life
            })
        }
        // A failed delivery can only be released while it blocks its ordering key.
        (Failed(_), Cause::HoldLifted { .. }) if life.in_order => Ok(Life {
            in_order: false,
            ..*life
        }),

        (Pending(Wait::Until(_)), Cause::BlockedByOrder) if life.in_order => {
            to(Pending(Wait::Held(Order)))
        }
        (Pending(Wait::Held(Order)), Cause::OrderReached { at }) => to(due(at)),

        (Pending(_), Cause::Cancelled) => Ok(failed(FailureReason::Cancelled, false)),
        (Pending(_), Cause::EndpointDeleted) => Ok(failed(FailureReason::EndpointDeleted, false)),
        (Pending(_), Cause::Expired { blocks }) => Ok(failed(FailureReason::Expired, blocks)),

        _ => refused,
    }
}

/// Returns the delivery after an attempt that ended with a known outcome.
fn finished(life: &Life, state: State) -> Life {
    Life {
        state,
        attempt_count: life.attempt_count + 1,
        interruptions: 0,
        ..*life
    }
}

impl Cause<'_> {
    fn verb(&self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Accepted { .. }
            | Self::Rejected { .. }
            | Self::Deferred { .. }
            | Self::ConnectionLost { .. }
            | Self::RefusedByDatabase => "given an outcome",
            Self::Released { .. } | Self::HoldLifted { .. } => "released",
            Self::Interrupted { .. } => "interrupted",
            Self::RetryAsked { .. } => "retried",
            Self::Cancelled => "cancelled",
            Self::BlockedByOrder | Self::OrderReached { .. } => "put in order",
            Self::EndpointDeleted => "failed with its endpoint",
            Self::Expired { .. } => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_micros(1_000_000);
    const HELD: State = State::Pending(Wait::Held(HoldReason::Interrupted));
    const REFUSED: State = State::Pending(Wait::Held(HoldReason::RefusedByDatabase));
    const ASIDE: State = State::Pending(Wait::Held(HoldReason::Order));
    const NOW: State = State::Pending(Wait::Until(AT));

    fn states() -> Vec<State> {
        let mut all = vec![
            State::Pending(Wait::Until(Timestamp::from_micros(0))),
            HELD,
            ASIDE,
        ];
        all.extend([State::Sending, State::Delivered]);
        all.extend(
            FailureReason::ALL
                .iter()
                .map(|reason| State::Failed(*reason)),
        );
        all
    }

    /// All (state, cause) pairs: the next state, or `None` if the transition is refused.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn the_whole_table() {
        use FailureReason::{Cancelled, EndpointDeleted, Expired, RetriesExhausted};
        use State::{Delivered, Failed, Sending};
        let schedule = RetrySchedule::default();
        let none = RetrySchedule::new(vec![]).unwrap();
        let rejected = |schedule| Cause::Rejected {
            at: AT,
            schedule,
            jitter: Jitter::NONE,
            not_before: None,
            blocks: true,
        };
        let later = State::Pending(Wait::Until(Timestamp::from_micros(11_000_000)));
        let of_pending = |to| {
            [
                Some(to),
                Some(to),
                Some(to),
                None,
                None,
                None,
                None,
                None,
                None,
            ]
        };

        // Columns: due, held, blocked by order, sending, delivered, then failed by each reason:
        // retries_exhausted, cancelled, endpoint_deleted, expired.
        let no = None;
        let s = Some;
        let table: Vec<(Cause<'_>, [Option<State>; 9])> = vec![
            (Cause::Claimed, [s(Sending), no, no, no, no, no, no, no, no]),
            (
                Cause::Accepted { at: AT },
                [no, no, no, s(Delivered), no, no, no, no, no],
            ),
            (
                rejected(Some(&schedule)),
                [no, no, no, s(later), no, no, no, no, no],
            ),
            (
                rejected(Some(&none)),
                [no, no, no, s(Failed(RetriesExhausted)), no, no, no, no, no],
            ),
            (
                rejected(None),
                [no, no, no, s(Failed(EndpointDeleted)), no, no, no, no, no],
            ),
            (
                Cause::Deferred { until: AT },
                [no, no, no, s(NOW), no, no, no, no, no],
            ),
            (
                Cause::ConnectionLost { at: AT },
                [no, no, no, s(NOW), no, no, no, no, no],
            ),
            (
                Cause::RefusedByDatabase,
                [no, no, no, s(REFUSED), no, no, no, no, no],
            ),
            (
                Cause::Released { at: AT },
                [no, no, no, s(NOW), no, no, no, no, no],
            ),
            (
                Cause::Interrupted {
                    at: AT,
                    counts: true,
                },
                [no, no, no, s(NOW), no, no, no, no, no],
            ),
            (
                Cause::Interrupted {
                    at: AT,
                    counts: false,
                },
                [no, no, no, s(NOW), no, no, no, no, no],
            ),
            (
                Cause::RetryAsked { at: AT },
                [no, s(NOW), no, no, s(NOW), s(NOW), s(NOW), no, s(NOW)],
            ),
            (
                Cause::BlockedByOrder,
                [s(ASIDE), no, no, no, no, no, no, no, no],
            ),
            (
                Cause::OrderReached { at: AT },
                [no, no, s(NOW), no, no, no, no, no, no],
            ),
            (
                Cause::HoldLifted { at: AT },
                [
                    no,
                    s(NOW),
                    no,
                    no,
                    no,
                    s(Failed(RetriesExhausted)),
                    s(Failed(Cancelled)),
                    s(Failed(EndpointDeleted)),
                    s(Failed(Expired)),
                ],
            ),
            (Cause::Cancelled, of_pending(Failed(Cancelled))),
            (Cause::EndpointDeleted, of_pending(Failed(EndpointDeleted))),
            (Cause::Expired { blocks: true }, of_pending(Failed(Expired))),
        ];
        for (cause, row) in table {
            for (state, expected) in states().into_iter().zip(row) {
                let life = Life {
                    state,
                    ..Life::published(AT, true)
                };
                let actual = next(&life, &cause).map(|life| life.state);
                assert_eq!(actual.ok(), expected, "{state:?} by {cause:?}");
            }
        }
    }

    #[test]
    fn a_crash_uses_up_nothing_and_the_fifth_in_a_row_holds() {
        let mut life = Life {
            state: State::Sending,
            retries_used: 2,
            attempt_count: 2,
            ..Life::published(AT, false)
        };
        for crash in 1..=MAX_INTERRUPTIONS {
            life = next(
                &life,
                &Cause::Interrupted {
                    at: AT,
                    counts: true,
                },
            )
            .unwrap();
            assert_eq!((life.retries_used, life.attempt_count), (2, 2));
            assert_eq!(
                life.state,
                if crash < MAX_INTERRUPTIONS { NOW } else { HELD }
            );
            life.state = State::Sending;
        }
        let clean = next(
            &Life {
                interruptions: 4,
                ..life
            },
            &Cause::Interrupted {
                at: AT,
                counts: false,
            },
        );
        assert_eq!(clean.unwrap().state, NOW, "a clean stop does not count");
        let finished = next(&life, &Cause::Accepted { at: AT }).unwrap();
        assert_eq!(
            finished.interruptions, 0,
            "a finished attempt starts the count again"
        );
    }

    #[test]
    fn a_lost_connection_costs_nothing_and_a_refused_outcome_waits_for_a_person() {
        let life = Life {
            state: State::Sending,
            retries_used: 2,
            interruptions: 1,
            ..Life::published(AT, true)
        };
        let lost = next(&life, &Cause::ConnectionLost { at: AT }).unwrap();
        assert_eq!(lost, Life { state: NOW, ..life });
        let refused = Life {
            state: REFUSED,
            ..life
        };
        assert_eq!(
            next(&refused, &Cause::HoldLifted { at: AT }).unwrap().state,
            NOW
        );
        assert_eq!(
            next(&refused, &Cause::RetryAsked { at: AT }).unwrap().state,
            NOW
        );
        assert!(next(&refused, &Cause::Claimed).is_err());
    }

    #[test]
    fn a_probe_comes_no_earlier_than_the_breaker_lets_it_and_a_deferral_costs_no_retry() {
        let life = Life {
            state: State::Sending,
            ..Life::published(AT, false)
        };
        let (schedule, probe_at) = (RetrySchedule::default(), Timestamp::from_micros(31_000_000));
        let not_before = Some(probe_at);
        let cause = Cause::Rejected {
            at: AT,
            schedule: Some(&schedule),
            jitter: Jitter::NONE,
            not_before,
            blocks: true,
        };
        let probed = next(&life, &cause).unwrap();
        assert_eq!(
            (probed.state, probed.retries_used),
            (State::Pending(Wait::Until(probe_at)), 1)
        );
        let deferred = next(&life, &Cause::Deferred { until: probe_at }).unwrap();
        assert_eq!(
            (deferred.state, deferred.retries_used),
            (State::Pending(Wait::Until(probe_at)), 0)
        );
        assert_eq!(deferred.attempt_count, 1);
    }

    #[test]
    fn a_manual_retry_brings_a_fresh_set_of_retries_and_keeps_the_history() {
        let schedule = RetrySchedule::default();
        let mut life = Life::published(AT, false);
        for _ in 0..5 {
            life = next(&life, &Cause::Claimed).unwrap();
            let cause = Cause::Rejected {
                at: AT,
                schedule: Some(&schedule),
                jitter: Jitter::NONE,
                not_before: None,
                blocks: true,
            };
            life = next(&life, &cause).unwrap();
        }
        assert_eq!(life.state, State::Failed(FailureReason::RetriesExhausted));
        assert_eq!((life.attempt_count, life.retries_used), (5, 4));
        life = next(&life, &Cause::RetryAsked { at: AT }).unwrap();
        assert_eq!(
            (life.state, life.attempt_count, life.retries_used),
            (NOW, 5, 0)
        );
    }

    /// The transitions that stop blocking the ordering key, and those that do not.
    #[test]
    fn a_place_in_line_is_kept_until_it_is_of_no_use() {
        let none = RetrySchedule::new(vec![]).unwrap();
        let some = RetrySchedule::default();
        let after = |state, cause: &Cause<'_>| {
            next(
                &Life {
                    state,
                    ..Life::published(AT, true)
                },
                cause,
            )
            .unwrap()
            .in_order
        };
        let rejected = |schedule, blocks| Cause::Rejected {
            at: AT,
            schedule: Some(schedule),
            jitter: Jitter::NONE,
            not_before: None,
            blocks,
        };
        assert!(!after(State::Sending, &Cause::Accepted { at: AT }));
        assert!(
            after(State::Sending, &rejected(&some, false)),
            "it will be tried again"
        );
        assert!(after(State::Sending, &rejected(&none, true)));
        assert!(!after(State::Sending, &rejected(&none, false)));
        assert!(after(
            State::Sending,
            &Cause::Interrupted {
                at: AT,
                counts: true
            }
        ));
        for pending in [NOW, HELD, ASIDE] {
            assert!(!after(pending, &Cause::Cancelled));
            assert!(after(pending, &Cause::Expired { blocks: true }));
            assert!(!after(pending, &Cause::Expired { blocks: false }));
        }
        let failed = State::Failed(FailureReason::RetriesExhausted);
        assert!(after(failed, &Cause::RetryAsked { at: AT }));
        assert!(!after(failed, &Cause::HoldLifted { at: AT }));
        let out_of_line = Life {
            state: failed,
            ..Life::published(AT, false)
        };
        assert!(
            next(&out_of_line, &Cause::HoldLifted { at: AT }).is_err(),
            "nothing waits for it"
        );
        assert!(next(&Life::published(AT, false), &Cause::BlockedByOrder).is_err());
    }

    #[test]
    fn a_resend_keeps_the_first_delivery_time() {
        let first = Some(Timestamp::from_micros(5));
        let life = Life {
            state: State::Sending,
            delivered_at: first,
            ..Life::published(AT, false)
        };
        assert_eq!(
            next(&life, &Cause::Accepted { at: AT })
                .unwrap()
                .delivered_at,
            first
        );
    }

    #[test]
    fn a_refusal_names_state_and_wish() {
        let life = Life {
            state: State::Failed(FailureReason::EndpointDeleted),
            ..Life::published(AT, false)
        };
        let refused = next(&life, &Cause::RetryAsked { at: AT }).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "a delivery that is failed (endpoint_deleted) cannot be retried"
        );
    }
}
