//! How an endpoint is doing, and how much may be sent to it for that: the breaker, and the pauses
//! that a receiver asked for.
//!
//! ```text
//!            failures in a row                    2xx                  2xx, doubling
//!   closed ────────────────────▶ open ────────────────────▶ half open ──────────────▶ closed
//!                                 ▲ │ probe failed             │ failed
//!                                 └─┘◀───────────────────────────┘
//! ```
//!
//! While it is open the endpoint gets one probe at a time, its oldest due delivery; the rest waits
//! and uses up nothing. After a success it is ramped up: one in flight, then two, four, and so on.

use std::time::Duration;

use super::clock::Timestamp;
use super::words;

/// Until the first probe; each further one waits twice as long.
pub const FIRST_PROBE: Duration = Duration::from_secs(30);

/// The longest wait between two probes.
pub const LONGEST_PROBE: Duration = Duration::from_secs(600);

/// The longest that a receiver may ask us to wait.
pub const LONGEST_HOLD: Duration = Duration::from_secs(24 * 3600);

/// After so long without a 2xx an endpoint that is open or held is paused.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(5 * 24 * 3600);

words! {
    /// The breaker's state, as SQL and JSON name it.
    BreakerState {
        /// Nothing is wrong.
        Closed = "closed",
        /// Only probes are sent.
        Open = "open",
        /// It answered again, and is ramped up.
        HalfOpen = "half_open",
    }
}

/// The breaker with what belongs to its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breaker {
    /// Nothing is wrong.
    Closed,
    /// Only probes are sent.
    Open {
        /// When the next one may start.
        probe_at: Timestamp,
        /// How many have failed.
        probes: u32,
    },
    /// It answered again.
    HalfOpen {
        /// How many may be in flight for now.
        allowed: u32,
    },
}

impl Breaker {
    /// With that many in flight allowed: closed once those are as many as the endpoint itself allows.
    const fn ramping(allowed: u32, limits: &Limits) -> Self {
        if allowed < limits.concurrency { Self::HalfOpen { allowed } } else { Self::Closed }
    }

    /// The word for it.
    #[must_use]
    pub const fn state(self) -> BreakerState {
        match self {
            Self::Closed => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// What an attempt's answer says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A 2xx.
    Accepted,
    /// Anything else that counts.
    Failed,
    /// 429 without `Retry-After`: the endpoint rests until this delivery's next attempt.
    Throttled,
    /// 429 or 503 with `Retry-After` (RFC 9110, section 10.2.3): the endpoint rests until then, and
    /// nobody is to blame.
    RetryAfter(RetryAfter),
    /// 410: nothing is to be sent here any more.
    Gone,
}

/// When a receiver wants to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So long after its answer.
    Delay(Duration),
    /// At that time.
    Date(Timestamp),
}

impl RetryAfter {
    /// The time that is meant by an answer that came at `at`: never before it, and at most
    /// [`LONGEST_HOLD`] after it.
    #[must_use]
    pub fn until(self, at: Timestamp) -> Timestamp {
        let asked = match self {
            Self::Delay(delay) => at + delay.min(LONGEST_HOLD),
            Self::Date(date) => date,
        };
        asked.clamp(at, at + LONGEST_HOLD)
    }
}

/// How an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Failed attempts in a row.
    pub consecutive_failures: u32,
    /// Whether it is worth sending.
    pub breaker: Breaker,
    /// The receiver asked for rest until then.
    pub hold_until: Option<Timestamp>,
    /// Since when there has been no 2xx although there were attempts.
    pub failing_since: Option<Timestamp>,
}

impl Default for Health {
    fn default() -> Self {
        Self { consecutive_failures: 0, breaker: Breaker::Closed, hold_until: None, failing_since: None }
    }
}

impl Health {
    /// How many attempts may be in flight at `now`, of `concurrency`.
    #[must_use]
    pub fn allowance(&self, now: Timestamp, concurrency: u32) -> u32 {
        if self.hold_until.is_some_and(|until| now < until) {
            return 0;
        }
        match self.breaker {
            Breaker::Closed => concurrency,
            Breaker::Open { probe_at, .. } => u32::from(now >= probe_at),
            Breaker::HalfOpen { allowed } => allowed.min(concurrency),
        }
    }

    /// When a closed allowance opens again.
    #[must_use]
    pub fn opens_at(&self) -> Option<Timestamp> {
        let probe_at = match self.breaker {
            Breaker::Open { probe_at, .. } => Some(probe_at),
            Breaker::Closed | Breaker::HalfOpen { .. } => None,
        };
        self.hold_until.max(probe_at)
    }

    /// Whether the endpoint should be paused: no 2xx for days, and none in sight.
    #[must_use]
    pub fn has_given_up(&self, now: Timestamp) -> bool {
        let troubled = self.breaker.state() == BreakerState::Open || self.hold_until.is_some();
        troubled && self.failing_since.is_some_and(|since| now.since(since) >= GIVE_UP_AFTER)
    }

    /// What one attempt's end makes of it. `rest_until` is the end of a rest that the verdict asks for.
    #[must_use]
    pub fn after(&self, attempt: &Ended, limits: &Limits) -> Self {
        let mut after = *self;
        match attempt.verdict {
            Verdict::Accepted => {
                after.consecutive_failures = 0;
                after.failing_since = None;
                after.hold_until = self.hold_until.filter(|until| *until > attempt.at);
                after.breaker = match self.breaker {
                    Breaker::Closed => Breaker::Closed,
                    Breaker::Open { .. } => Breaker::ramping(1, limits),
                    Breaker::HalfOpen { allowed } => Breaker::ramping(allowed * 2, limits),
                };
            }
            Verdict::Failed | Verdict::Throttled => {
                after.consecutive_failures = self.consecutive_failures.saturating_add(1);
                after.failing_since = self.failing_since.or(Some(attempt.at));
                after.breaker = self.breaker_after_failure(attempt, limits, after.consecutive_failures);
            }
            Verdict::RetryAfter(_) | Verdict::Gone => {
                after.failing_since = self.failing_since.or(Some(attempt.at));
            }
        }
        if attempt.rest_until.is_some() {
            after.hold_until = after.hold_until.max(attempt.rest_until);
        }
        after
    }

    fn breaker_after_failure(&self, attempt: &Ended, limits: &Limits, failures: u32) -> Breaker {
        let open = |probes: u32| {
            let wait = FIRST_PROBE.saturating_mul(2_u32.saturating_pow(probes)).min(LONGEST_PROBE);
            Breaker::Open { probe_at: attempt.at + wait, probes }
        };
        match (self.breaker, limits.breaker_after) {
            (_, None) => Breaker::Closed,
            (Breaker::Closed, Some(after)) if failures >= after => open(0),
            (Breaker::Closed, Some(_)) => Breaker::Closed,
            (Breaker::HalfOpen { .. }, Some(_)) => open(0),
            // What was in flight when it opened is no probe.
            (Breaker::Open { probe_at, .. }, Some(_)) if attempt.started_at < probe_at => self.breaker,
            (Breaker::Open { probes, .. }, Some(_)) => open(probes.saturating_add(1)),
        }
    }
}

/// The end of one attempt, as far as it tells of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What it says.
    pub verdict: Verdict,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// Until when the endpoint is to rest for it.
    pub rest_until: Option<Timestamp>,
}

/// What an endpoint allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Failed attempts in a row that open the breaker; `None`: no breaker.
    pub breaker_after: Option<u32>,
    /// Attempts in flight.
    pub concurrency: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { breaker_after: Some(3), concurrency: 6 };

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(0) + Duration::from_secs(second)
    }

    fn ended(verdict: Verdict, second: u64) -> Ended {
        let rest_until = match verdict {
            Verdict::RetryAfter(asked) => Some(asked.until(at(second))),
            _ => None,
        };
        Ended { verdict, started_at: at(second), at: at(second), rest_until }
    }

    fn opened() -> Health {
        let fail = |health: Health, second| health.after(&ended(Verdict::Failed, second), &LIMITS);
        (1..=3).fold(Health::default(), fail)
    }

    #[test]
    fn failures_in_a_row_open_it_and_each_failed_probe_doubles_the_wait() {
        let mut health = opened();
        assert_eq!(health.allowance(at(32), 6), 0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let probe_at = health.opens_at().unwrap();
            assert_eq!(health.allowance(probe_at, 6), 1, "one probe alone");
            let failed =
                Ended { verdict: Verdict::Failed, started_at: probe_at, at: probe_at, rest_until: None };
            health = health.after(&failed, &LIMITS);
            waits.push(health.opens_at().unwrap().since(probe_at).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600, 600]);
    }

    #[test]
    fn what_was_in_flight_when_it_opened_is_no_probe() {
        let health = opened();
        let late = Ended { started_at: at(2), ..ended(Verdict::Failed, 20) };
        assert_eq!(health.after(&late, &LIMITS).breaker, health.breaker);
    }

    #[test]
    fn a_success_ramps_up_from_one_at_a_time() {
        let mut health = opened();
        let mut allowed = Vec::new();
        for second in 40..44 {
            health = health.after(&ended(Verdict::Accepted, second), &LIMITS);
            allowed.push(health.allowance(at(second), 6));
        }
        assert_eq!(allowed, [1, 2, 4, 6]);
        assert_eq!((health.breaker, health.consecutive_failures), (Breaker::Closed, 0));
        let ramping = opened().after(&ended(Verdict::Accepted, 40), &LIMITS);
        let failed = ramping.after(&ended(Verdict::Failed, 41), &LIMITS);
        assert_eq!(failed.breaker, Breaker::Open { probe_at: at(71), probes: 0 });
    }

    #[test]
    fn without_a_breaker_nothing_opens() {
        let limits = Limits { breaker_after: None, ..LIMITS };
        let fail = |health: Health, second| health.after(&ended(Verdict::Failed, second), &limits);
        let health = (1..100).fold(Health::default(), fail);
        assert_eq!((health.breaker, health.consecutive_failures), (Breaker::Closed, 99));
    }

    #[test]
    fn retry_after_rests_the_endpoint_at_most_a_day_and_counts_no_failure() {
        let asked = |asked| Health::default().after(&ended(Verdict::RetryAfter(asked), 10), &LIMITS);
        let rested = asked(RetryAfter::Delay(Duration::from_secs(50)));
        assert_eq!((rested.allowance(at(59), 6), rested.allowance(at(60), 6)), (0, 6));
        assert_eq!(rested.consecutive_failures, 0);
        assert_eq!(asked(RetryAfter::Date(at(3))).hold_until, Some(at(10)), "only ever a delay");
        let for_ever = asked(RetryAfter::Delay(Duration::MAX));
        assert_eq!(for_ever.hold_until, Some(at(10) + LONGEST_HOLD));
    }

    #[test]
    fn five_days_without_a_success_are_enough() {
        let health = opened();
        let days = |days: u64| at(days * 24 * 3600 + 10);
        assert!(!health.has_given_up(days(4)) && health.has_given_up(days(5)));
        assert!(!Health::default().has_given_up(days(99)));
        let quiet = Health { breaker: Breaker::Closed, ..health };
        assert!(!quiet.has_given_up(days(9)), "closed and not held: it may be fine by now");
    }
}
