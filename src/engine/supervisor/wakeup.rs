//! The one timer of a supervisor: a pure decision.

use std::time::Duration;

/// Everything that the timer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Situation {
    /// Time until its next delivery is due; `None` if nothing is pending, or the endpoint is paused.
    pub(super) until_due: Option<Duration>,
    /// Time until the rate limit has a free slot.
    pub(super) until_slot: Duration,
    /// Time until it may claim again after a failure.
    pub(super) until_retry: Duration,
    /// Time until the breaker lets a probe through, or the receiver's rest is over.
    pub(super) until_open: Duration,
    /// True if nothing is claimed, in flight, being recorded or being read.
    pub(super) is_idle: bool,
    /// True while it waits for one of the engine's permits.
    pub(super) awaiting_permit: bool,
    /// Time after which an idle supervisor stops.
    pub(super) idle_timeout: Duration,
}

/// Next step of the timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wakeup {
    /// Nothing: the answer of work under way advances the supervisor.
    None,
    /// Start what can start, after that time.
    Advance(Duration),
    /// Ask to stop, after that time. The registry starts another one when work is due.
    RequestStop(Duration),
}

impl Situation {
    pub(super) fn next_wakeup(&self) -> Wakeup {
        let due_later = self.until_due.is_none_or(|due| due > self.idle_timeout);
        match self.until_due {
            _ if self.is_idle && due_later => Wakeup::RequestStop(self.idle_timeout),
            None => Wakeup::None,
            Some(due) => {
                let wait = due
                    .max(self.until_slot)
                    .max(self.until_retry)
                    .max(self.until_open);
                if wait.is_zero() && (!self.is_idle || self.awaiting_permit) {
                    Wakeup::None
                } else {
                    // Time has passed since the last reading.
                    Wakeup::Advance(wait)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const IDLE: Situation = Situation {
        until_due: None,
        until_slot: Duration::ZERO,
        until_retry: Duration::ZERO,
        until_open: Duration::ZERO,
        is_idle: true,
        awaiting_permit: false,
        idle_timeout: seconds(60),
    };

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn the_timer_is_set_for_whatever_comes_last() {
        let due = Situation {
            until_due: Some(seconds(5)),
            ..IDLE
        };
        let now = Situation {
            until_due: Some(Duration::ZERO),
            ..IDLE
        };
        let cases = [
            (IDLE, Wakeup::RequestStop(seconds(60)), "nothing to do"),
            (
                Situation {
                    is_idle: false,
                    ..IDLE
                },
                Wakeup::None,
                "an answer is under way",
            ),
            (due, Wakeup::Advance(seconds(5)), "due later"),
            (
                Situation {
                    until_slot: seconds(7),
                    ..due
                },
                Wakeup::Advance(seconds(7)),
                "rate",
            ),
            (
                Situation {
                    until_retry: seconds(8),
                    ..due
                },
                Wakeup::Advance(seconds(8)),
                "failed",
            ),
            (
                Situation {
                    until_open: seconds(9),
                    ..due
                },
                Wakeup::Advance(seconds(9)),
                "breaker",
            ),
            (
                now,
                Wakeup::Advance(Duration::ZERO),
                "due since the last look",
            ),
            (
                Situation {
                    is_idle: false,
                    ..now
                },
                Wakeup::None,
                "due, and all slots are taken",
            ),
            (
                Situation {
                    awaiting_permit: true,
                    ..now
                },
                Wakeup::None,
                "waits for a permit",
            ),
            (
                Situation {
                    until_due: Some(seconds(61)),
                    ..IDLE
                },
                Wakeup::RequestStop(seconds(60)),
                "due after it may stop",
            ),
            (
                Situation {
                    until_due: Some(seconds(61)),
                    is_idle: false,
                    ..IDLE
                },
                Wakeup::Advance(seconds(61)),
                "due later, but busy",
            ),
            (
                Situation {
                    until_due: Some(seconds(5)),
                    until_open: seconds(600),
                    ..IDLE
                },
                Wakeup::Advance(seconds(600)),
                "a breaker that opens late",
            ),
        ];
        for (situation, expected, case) in cases {
            assert_eq!(situation.next_wakeup(), expected, "{case}");
        }
    }

    /// The rule as it was written before it was a match, kept as its specification.
    fn by_specification(of: &Situation) -> Wakeup {
        let due_later = of.until_due.is_none_or(|due| due > of.idle_timeout);
        let stops = of.is_idle && due_later;
        let wait = match of.until_due {
            Some(due) => {
                let waits = [due, of.until_slot, of.until_retry, of.until_open];
                let wait = waits.into_iter().max().unwrap_or_default();
                if wait.is_zero() && (!of.is_idle || of.awaiting_permit) {
                    return Wakeup::None;
                }
                wait
            }
            None if of.is_idle => of.idle_timeout,
            None => return Wakeup::None,
        };
        if stops {
            Wakeup::RequestStop(of.idle_timeout)
        } else {
            Wakeup::Advance(wait)
        }
    }

    #[test]
    fn every_situation_is_decided_as_specified() {
        let waits = [0, 1, 59, 60, 61, 600].map(seconds);
        let dues = waits.map(Some).into_iter().chain([None]);
        let flags = [(false, false), (false, true), (true, false), (true, true)];
        for until_due in dues {
            for until_slot in waits {
                for until_retry in waits {
                    for until_open in waits {
                        for (is_idle, awaiting_permit) in flags {
                            let of = Situation {
                                until_due,
                                until_slot,
                                until_retry,
                                until_open,
                                is_idle,
                                awaiting_permit,
                                idle_timeout: seconds(60),
                            };
                            assert_eq!(of.next_wakeup(), by_specification(&of), "{of:?}");
                        }
                    }
                }
            }
        }
    }
}
