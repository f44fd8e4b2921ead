//! The life of a delivery: four states, and [`next`], the one function that decides every
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
//! Deliveries of one ordering key stand in line. Each keeps its place until it has arrived, is
//! cancelled, or fails where that is to block nobody; the first one alone may be claimed, and those
//! behind it are set aside ([`HoldReason::Order`]) until it is their turn.
//!
//! The store calls it inside the transaction that writes what it returns. A crash, a restart or a
//! lost owner is [`Cause::Interrupted`]: it never fails a delivery and never uses up a retry.

use super::clock::Timestamp;
use super::retry::{Jitter, RetrySchedule};
use super::words;

words! {
    /// Where a delivery stands, as SQL and JSON name it.
    Status {
        /// Waits; [`State::Pending`] says for what.
        Pending = "pending",
        /// Claimed by the endpoint's supervisor: a request may be on the wire.
        Sending = "sending",
        /// A receiver answered 2xx.
        Delivered = "delivered",
        /// Given up; [`FailureReason`] says why.
        Failed = "failed",
    }
}

words! {
    /// Why a delivery was given up.
    FailureReason {
        /// Every retry of the endpoint's schedule was used.
        RetriesExhausted = "retries_exhausted",
        /// A person cancelled it.
        Cancelled = "cancelled",
        /// Its endpoint was deleted.
        EndpointDeleted = "endpoint_deleted",
        /// It waited longer than the endpoint's `max_age`.
        Expired = "expired",
    }
}

words! {
    /// Why a pending delivery waits for something else than a time.
    HoldReason {
        /// [`MAX_INTERRUPTIONS`] attempts in a row never finished: sending it may be what kills us.
        Interrupted = "interrupted",
        /// Another delivery of its ordering key comes first. Not a person's to lift: it ends by
        /// itself.
        Order = "order",
        /// The database refused to store its outcome, whatever was left out of it.
        RefusedByDatabase = "refused_by_database",
    }
}

/// After this many interruptions since its last finished attempt a delivery is put on hold.
pub const MAX_INTERRUPTIONS: u32 = 5;

/// Where a delivery stands, with what belongs to that state alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Waits. Left by a claim, a cancellation, its endpoint's deletion, or age.
    Pending(Wait),
    /// Claimed. Left by the attempt's outcome, a release, or rehydration.
    Sending,
    /// Done. Left only by a manual resend.
    Delivered,
    /// Given up. Left only by a manual retry.
    Failed(FailureReason),
}

/// What a pending delivery waits for by itself (its endpoint may make it wait longer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// May be claimed from this time on.
    Until(Timestamp),
    /// On hold: until a person releases or retries it, or until it is its turn.
    Held(HoldReason),
}

impl State {
    /// The word for it.
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

/// All of a delivery that the lifecycle reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Life {
    /// Where it stands.
    pub state: State,
    /// Retries spent of the endpoint's schedule. A manual retry sets it back.
    pub retries_used: u32,
    /// Attempts that finished, over the whole history.
    pub attempt_count: u32,
    /// Attempts since the last finished one that never did.
    pub interruptions: u32,
    /// When a receiver first answered 2xx.
    pub delivered_at: Option<Timestamp>,
    /// Whether it has a place in line: those after it in its ordering key wait until it gives that
    /// up.
    pub in_line: bool,
}

impl Life {
    /// A delivery that was just published; `in_line` where it has an ordering key.
    #[must_use]
    pub const fn published(at: Timestamp, in_line: bool) -> Self {
        Self {
            state: State::Pending(Wait::Until(at)),
            retries_used: 0,
            attempt_count: 0,
            interruptions: 0,
            delivered_at: None,
            in_line,
        }
    }

    /// Whether it gives its place in line up by becoming `next`: the one behind it may go on.
    #[must_use]
    pub const fn leaves_line(&self, next: &Self) -> bool {
        self.in_line && !next.in_line
    }
}

/// What may happen to a delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause<'a> {
    /// Its endpoint's supervisor claims it, to send it next.
    Claimed,
    /// The receiver answered 2xx.
    Accepted {
        /// When the attempt ended.
        at: Timestamp,
    },
    /// The attempt ended in anything else.
    Rejected {
        /// When the attempt ended: a delay runs from here.
        at: Timestamp,
        /// What the endpoint allows now, or `None` when it has been deleted.
        schedule: Option<&'a RetrySchedule>,
        /// What the delay gets on top.
        jitter: Jitter,
        /// The endpoint gets nothing before this, whatever the schedule says.
        not_before: Option<Timestamp>,
        /// Whether it keeps its place in line if it is given up.
        blocks: bool,
    },
    /// The receiver answered, and asked for another time. It uses up no retry.
    Deferred {
        /// When to ask again.
        until: Timestamp,
    },
    /// A reused connection ended before a response: the receiver may not have seen the request. It
    /// uses up no retry and is no interruption.
    ConnectionLost {
        /// When the attempt ended.
        at: Timestamp,
    },
    /// The database took the attempt's outcome in no form.
    RefusedByDatabase,
    /// The claim was not started (paused in between, out of file descriptors).
    Released {
        /// When it was let go.
        at: Timestamp,
    },
    /// The attempt's end is not known and never will be.
    Interrupted {
        /// When that was found.
        at: Timestamp,
        /// False after a clean stop or a hand-over, which are nobody's fault.
        counts: bool,
    },
    /// A person asks for it to be sent (again).
    RetryAsked {
        /// When.
        at: Timestamp,
    },
    /// Another delivery of its ordering key comes first.
    SetAside,
    /// It is the first one of its ordering key now.
    TurnCame {
        /// When.
        at: Timestamp,
    },
    /// A person lifts a hold, or lets those behind a failed one go on.
    HoldLifted {
        /// When.
        at: Timestamp,
    },
    /// A person gives it up.
    Cancelled,
    /// Its endpoint is gone.
    EndpointDeleted,
    /// It waited longer than the endpoint's `max_age`.
    Expired {
        /// Whether it keeps its place in line.
        blocks: bool,
    },
}

/// The state does not allow that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a delivery that is {} cannot be {verb}", state_words(*.state))]
pub struct Refused {
    /// Where the delivery stands.
    pub state: State,
    /// What was asked of it.
    pub verb: &'static str,
}

fn state_words(state: State) -> String {
    match state {
        State::Pending(Wait::Held(HoldReason::Order)) => {
            "waiting for its turn in its ordering key".to_owned()
        }
        State::Pending(Wait::Held(reason)) => format!("on hold ({reason})"),
        State::Failed(reason) => format!("failed ({reason})"),
        other => other.status().to_string(),
    }
}

/// Decides what becomes of `life` by `cause`. Pure: the only place where a transition is decided.
///
/// # Errors
/// When the state does not allow it; nothing may be written then.
pub fn next(life: &Life, cause: &Cause<'_>) -> Result<Life, Refused> {
    use HoldReason::{Interrupted, Order, RefusedByDatabase};
    use State::{Delivered, Failed, Pending, Sending};
    let refused = Err(Refused {
        state: life.state,
        verb: cause.verb(),
    });
    let to = |state| Ok(Life { state, ..*life });
    let due = |at| Pending(Wait::Until(at));
    let failed = |reason, blocks| Life {
        state: Failed(reason),
        in_line: life.in_line && blocks,
        ..*life
    };

    match (life.state, *cause) {
        (Pending(Wait::Until(_)), Cause::Claimed) => to(Sending),

        (Sending, Cause::Accepted { at }) => {
            let delivered_at = life.delivered_at.or(Some(at));
            Ok(Life {
                delivered_at,
                in_line: false,
                ..finished(life, Delivered)
            })
        }
        (Sending, Cause::Rejected { schedule: None, .. }) => Ok(Life {
            in_line: false,
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
                in_line: life.in_line && blocks,
                ..finished(life, Failed(FailureReason::RetriesExhausted))
            },
        }),
        (Sending, Cause::Deferred { until }) => Ok(finished(life, due(until))),
        (Sending, Cause::Released { at } | Cause::ConnectionLost { at }) => to(due(at)),
        (Sending, Cause::RefusedByDatabase) => to(Pending(Wait::Held(RefusedByDatabase))),
        (Sending, Cause::Interrupted { at, counts }) => {
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
        (Failed(_), Cause::HoldLifted { .. }) if life.in_line => Ok(Life {
            in_line: false,
            ..*life
        }),

        (Pending(Wait::Until(_)), Cause::SetAside) if life.in_line => {
            to(Pending(Wait::Held(Order)))
        }
        (Pending(Wait::Held(Order)), Cause::TurnCame { at }) => to(due(at)),

        (Pending(_), Cause::Cancelled) => Ok(failed(FailureReason::Cancelled, false)),
        (Pending(_), Cause::EndpointDeleted) => Ok(failed(FailureReason::EndpointDeleted, false)),
        (Pending(_), Cause::Expired { blocks }) => Ok(failed(FailureReason::Expired, blocks)),

        _ => refused,
    }
}

/// An attempt ended with a known outcome.
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
            Self::SetAside | Self::TurnCame { .. } => "put in order",
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

    /// Every (state, cause) pair: what comes of it, or `None` where it is refused.
    #[test]
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

        // Columns: due, held, set aside, sending, delivered, then failed by each reason:
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
            (Cause::SetAside, [s(ASIDE), no, no, no, no, no, no, no, no]),
            (
                Cause::TurnCame { at: AT },
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

    /// What gives its place in line up, and what keeps it.
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
            .in_line
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
        assert!(next(&Life::published(AT, false), &Cause::SetAside).is_err());
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
