//! Health of an endpoint: its circuit breaker and the rests that its receiver asked for, and the
//! number of attempts that they allow.
//!
//! ```text
//!            failures in a row                    2xx                  2xx, doubling
//!   closed ────────────────────▶ open ────────────────────▶ half open ──────────────▶ closed
//!                                 ▲ │ probe failed             │ failed
//!                                 └─┘◀───────────────────────────┘
//! ```
//!
//! While it is open, the endpoint gets one probe at a time, its oldest due delivery; the others
//! wait without using up retries. After a success it ramps up: one in flight, then two, then four.

use std::time::Duration;

use super::clock::Timestamp;
use super::words;

/// Wait before the first probe; each failed probe doubles it.
pub const FIRST_PROBE: Duration = Duration::from_secs(30);

/// Maximum wait between two probes.
pub const LONGEST_PROBE: Duration = Duration::from_secs(600);

/// Maximum rest that a receiver may ask for.
pub const LONGEST_HOLD: Duration = Duration::from_secs(24 * 3600);

/// Maximum wait that a rate limit may add before the next attempt. Longer gaps after the end of a
/// wait count as time in which nothing was tried.
const LONGEST_RATE_WAIT: Duration = Duration::from_secs(2 * 3600);

/// Time without a 2xx after which an open or held endpoint is paused.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(5 * 24 * 3600);

words! {
    /// The breaker's state, as named in SQL and JSON.
    BreakerState {
        /// Normal operation.
        Closed = "closed",
        /// Only probes are sent.
        Open = "open",
        /// A probe succeeded; traffic is ramping up.
        HalfOpen = "half_open",
    }
}

/// The breaker with the data of its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breaker {
    /// Normal operation.
    Closed,
    /// Only probes are sent.
    Open {
        /// Earliest start of the next probe.
        probe_at: Timestamp,
        /// Number of failed probes.
        probes: u32,
    },
    /// A probe succeeded; traffic is ramping up.
    HalfOpen {
        /// Maximum attempts in flight for now.
        allowed: u32,
        /// Time of the success that half-opened it.
        since: Timestamp,
    },
}

impl Breaker {
    /// Returns the state that allows `allowed` attempts in flight: closed once that is the
    /// endpoint's own concurrency.
    const fn ramping(allowed: u32, since: Timestamp, limits: &Limits) -> Self {
        if allowed < limits.concurrency {
            Self::HalfOpen { allowed, since }
        } else {
            Self::Closed
        }
    }

    /// Returns the word for its state.
    #[must_use]
    pub const fn state(self) -> BreakerState {
        match self {
            Self::Closed => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// The meaning of an attempt's result for its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A 2xx.
    Accepted,
    /// Any other conclusive result.
    Failed,
    /// 429 without `Retry-After`: the endpoint rests until this delivery's next attempt.
    Throttled,
    /// 429 or 503 with `Retry-After` (RFC 9110, section 10.2.3): the endpoint rests for that time,
    /// and it does not count as a failure.
    RetryAfter(RetryAfter),
    /// 410 Gone: the receiver asks to stop sending.
    Gone,
    /// A lost connection, which says nothing about the endpoint.
    Inconclusive,
}

/// The value of `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// This long after the response.
    Delay(Duration),
    /// At this time.
    Date(Timestamp),
}

impl RetryAfter {
    /// Returns the delay after a response received at `at`, by the wall clock: never negative,
    /// and at most [`LONGEST_HOLD`].
    #[must_use]
    pub fn delay(self, at: Timestamp) -> Duration {
        let asked = match self {
            Self::Delay(delay) => delay,
            Self::Date(date) => date.since(at),
        };
        asked.min(LONGEST_HOLD)
    }
}

/// Health of an endpoint. All of its times except `failing_since` are schedule time
/// ([`Clock::schedule_now`](super::clock::Clock::schedule_now)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Consecutive failed attempts.
    pub consecutive_failures: u32,
    /// State of the circuit breaker.
    pub breaker: Breaker,
    /// End of the rest that the receiver asked for.
    pub hold_until: Option<Timestamp>,
    /// Consecutive rests that the receiver asked for.
    pub rests: u32,
    /// Start of the time without a 2xx although sending was tried, by the wall clock. Time
    /// without attempts does not count.
    pub failing_since: Option<Timestamp>,
    /// End of the wait caused by the last failure; time up to it does not count as untried.
    pub waits_until: Option<Timestamp>,
}

/// An endpoint's health as it is stored. The epoch is raised by each change that the endpoint's
/// supervisor has not made itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredHealth {
    /// Breaker, rests and failures.
    pub health: Health,
    /// Version: of two copies the higher is the newer.
    pub epoch: i64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            consecutive_failures: 0,
            breaker: Breaker::Closed,
            hold_until: None,
            rests: 0,
            failing_since: None,
            waits_until: None,
        }
    }
}

impl Health {
    /// Returns the number of attempts that may be in flight at `now`, out of `concurrency`.
    #[must_use]
    pub fn allowance(&self, now: Timestamp, concurrency: u32) -> u32 {
        if self.hold_until.is_some_and(|until| now < until) {
            return 0;
        }
        match self.breaker {
            Breaker::Closed => concurrency,
            Breaker::Open { probe_at, .. } => u32::from(now >= probe_at),
            Breaker::HalfOpen { allowed, .. } => allowed.min(concurrency),
        }
    }

    /// Returns the end of the rest or the time of the next probe, the later of the two.
    #[must_use]
    pub fn opens_at(&self) -> Option<Timestamp> {
        let probe_at = match self.breaker {
            Breaker::Open { probe_at, .. } => Some(probe_at),
            Breaker::Closed | Breaker::HalfOpen { .. } => None,
        };
        self.hold_until.max(probe_at)
    }

    /// Returns whether the endpoint should be paused after `attempt`: no 2xx for days of trying,
    /// and its breaker open or a rest ahead.
    #[must_use]
    pub fn should_pause(&self, attempt: &JudgedAttempt) -> bool {
        if attempt.verdict == Verdict::Inconclusive {
            return false;
        }
        let is_open = self.breaker.state() == BreakerState::Open;
        let is_held = self.hold_until.is_some_and(|until| until > attempt.at);
        let failing = self
            .failing_since
            .is_some_and(|since| attempt.wall.since(since) >= GIVE_UP_AFTER);
        (is_open || is_held) && failing
    }

    /// Returns the end of the rest that `attempt` asks for, if any.
    #[must_use]
    pub fn rest_until(&self, attempt: &JudgedAttempt) -> Option<Timestamp> {
        let rest = match attempt.verdict {
            Verdict::RetryAfter(asked) => asked
                .delay(attempt.wall)
                .max(least_rest(self.rests_after(attempt))),
            Verdict::Throttled => attempt.next_delay?,
            Verdict::Accepted | Verdict::Failed | Verdict::Gone | Verdict::Inconclusive => {
                return None;
            }
        };
        Some(attempt.at + rest)
    }

    /// Returns the number of consecutive rests, including the one that `attempt` asks for.
    /// Attempts that were in flight together ask for the same rest.
    fn rests_after(&self, attempt: &JudgedAttempt) -> u32 {
        let is_new = self
            .hold_until
            .is_none_or(|until| attempt.started_at >= until);
        if is_new {
            self.rests.saturating_add(1)
        } else {
            self.rests.max(1)
        }
    }

    /// Returns the health after `attempt`.
    #[must_use]
    pub fn after(&self, attempt: &JudgedAttempt, limits: &Limits) -> Self {
        let mut after = *self;
        match attempt.verdict {
            Verdict::Inconclusive => return after,
            Verdict::Accepted => {
                after.consecutive_failures = 0;
                after.rests = 0;
                after.failing_since = None;
                after.waits_until = None;
                // A rest that another attempt asked for still applies.
                after.hold_until = self.hold_until.filter(|until| *until > attempt.at);
                after.breaker = match self.breaker {
                    Breaker::Closed => Breaker::Closed,
                    Breaker::Open { .. } => Breaker::ramping(1, attempt.at, limits),
                    Breaker::HalfOpen { allowed, since } => {
                        Breaker::ramping(allowed * 2, since, limits)
                    }
                };
                return after;
            }
            Verdict::Failed | Verdict::Throttled => {
                after.consecutive_failures = self.consecutive_failures.saturating_add(1);
                after.breaker =
                    self.breaker_after_failure(attempt, limits, after.consecutive_failures);
            }
            Verdict::RetryAfter(_) => after.rests = self.rests_after(attempt),
            Verdict::Gone => {}
        }
        after.hold_until = after.hold_until.max(self.rest_until(attempt));
        after.failing_since = Some(self.failing_since_after(attempt));
        let own_delay = attempt.next_delay.map(|delay| attempt.at + delay);
        after.waits_until = self
            .waits_until
            .max(after.opens_at())
            .max(own_delay)
            .max(Some(attempt.at));
        after
    }

    /// Returns the start of the time without success, this failure included.
    fn failing_since_after(&self, attempt: &JudgedAttempt) -> Timestamp {
        let Some(since) = self.failing_since else {
            return attempt.wall;
        };
        let waited_until = self.waits_until.unwrap_or(attempt.started_at);
        let untried = attempt.started_at.since(waited_until);
        if untried > LONGEST_RATE_WAIT {
            // No rate limit causes a gap this long: nothing was tried, so it does not count.
            (since + untried).min(attempt.wall)
        } else {
            since
        }
    }

    fn breaker_after_failure(
        &self,
        attempt: &JudgedAttempt,
        limits: &Limits,
        failures: u32,
    ) -> Breaker {
        let open = |probes: u32| {
            let wait = FIRST_PROBE
                .saturating_mul(2_u32.saturating_pow(probes))
                .min(LONGEST_PROBE);
            Breaker::Open {
                probe_at: attempt.at + wait,
                probes,
            }
        };
        match (self.breaker, limits.breaker_after) {
            (_, None) => Breaker::Closed,
            (Breaker::Closed, Some(after)) if failures >= after => open(0),
            (Breaker::Closed, Some(_)) => Breaker::Closed,
            // It started before the probe that succeeded, so it says nothing new.
            (Breaker::HalfOpen { since, .. }, Some(_)) if attempt.started_at < since => {
                self.breaker
            }
            (Breaker::HalfOpen { .. }, Some(_)) => open(0),
            // It was in flight before the breaker opened, so it is not a probe.
            (Breaker::Open { probe_at, .. }, Some(_)) if attempt.started_at < probe_at => {
                self.breaker
            }
            (Breaker::Open { probes, .. }, Some(_)) => open(probes.saturating_add(1)),
        }
    }

    /// Closes the breaker and resets the failures that would reopen it, for an endpoint whose
    /// breaker was turned off.
    #[must_use]
    pub fn without_breaker(self) -> Self {
        Self {
            breaker: Breaker::Closed,
            consecutive_failures: 0,
            ..self
        }
    }

    /// Limits each time to what a wait that begins at `now` can produce: after a restart with a
    /// clock that was set back, a stored time may be far in the future.
    #[must_use]
    pub fn within_reach(self, now: Timestamp) -> Self {
        let breaker = match self.breaker {
            Breaker::Open { probe_at, probes } => Breaker::Open {
                probe_at: probe_at.min(now + LONGEST_PROBE),
                probes,
            },
            Breaker::HalfOpen { allowed, since } => Breaker::HalfOpen {
                allowed,
                since: since.min(now),
            },
            Breaker::Closed => Breaker::Closed,
        };
        let within = |time: Option<Timestamp>, longest| time.map(|time| time.min(now + longest));
        Self {
            breaker,
            hold_until: within(self.hold_until, LONGEST_HOLD),
            waits_until: within(self.waits_until, LONGEST_HOLD),
            failing_since: within(self.failing_since, Duration::ZERO),
            ..self
        }
    }
}

/// Returns the minimum length of the k-th rest in a row: 2^(k-1) seconds, at most ten minutes.
fn least_rest(rests: u32) -> Duration {
    Duration::from_secs(2_u64.saturating_pow(rests.saturating_sub(1))).min(LONGEST_PROBE)
}

/// The end of one attempt, as far as it concerns the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedAttempt {
    /// Its meaning for the endpoint.
    pub verdict: Verdict,
    /// Start of the attempt, in schedule time.
    pub started_at: Timestamp,
    /// End of the attempt, in schedule time.
    pub at: Timestamp,
    /// End of the attempt, by the wall clock.
    pub wall: Timestamp,
    /// Delay of the delivery's next retry; `None` if there is none left.
    pub next_delay: Option<Duration>,
}

/// The endpoint's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Consecutive failed attempts that open the breaker; `None`: no breaker.
    pub breaker_after: Option<u32>,
    /// Maximum attempts in flight.
    pub concurrency: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        breaker_after: Some(3),
        concurrency: 6,
    };

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(0) + Duration::from_secs(second)
    }

    fn ended(verdict: Verdict, second: u64) -> JudgedAttempt {
        JudgedAttempt {
            verdict,
            started_at: at(second),
            at: at(second),
            wall: at(second),
            next_delay: None,
        }
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
            let failed = ended(Verdict::Failed, probe_at.as_seconds().unsigned_abs());
            health = health.after(&failed, &LIMITS);
            waits.push(health.opens_at().unwrap().since(probe_at).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600, 600]);
    }

    #[test]
    fn what_was_in_flight_when_it_opened_is_no_probe() {
        let health = opened();
        let late = JudgedAttempt {
            started_at: at(2),
            ..ended(Verdict::Failed, 20)
        };
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
        assert_eq!(
            (health.breaker, health.consecutive_failures),
            (Breaker::Closed, 0)
        );
        let ramping = opened().after(&ended(Verdict::Accepted, 40), &LIMITS);
        let failed = ramping.after(&ended(Verdict::Failed, 41), &LIMITS);
        assert_eq!(
            failed.breaker,
            Breaker::Open {
                probe_at: at(71),
                probes: 0
            }
        );
    }

    #[test]
    fn without_a_breaker_nothing_opens() {
        let limits = Limits {
            breaker_after: None,
            ..LIMITS
        };
        let fail = |health: Health, second| health.after(&ended(Verdict::Failed, second), &limits);
        let health = (1..100).fold(Health::default(), fail);
        assert_eq!(
            (health.breaker, health.consecutive_failures),
            (Breaker::Closed, 99)
        );
    }

    #[test]
    fn retry_after_rests_the_endpoint_at_most_a_day_and_counts_no_failure() {
        let asked =
            |asked| Health::default().after(&ended(Verdict::RetryAfter(asked), 10), &LIMITS);
        let rested = asked(RetryAfter::Delay(Duration::from_secs(50)));
        assert_eq!(
            (rested.allowance(at(59), 6), rested.allowance(at(60), 6)),
            (0, 6)
        );
        assert_eq!(rested.consecutive_failures, 0);
        assert_eq!(
            asked(RetryAfter::Date(at(3))).hold_until,
            Some(at(11)),
            "only ever a delay"
        );
        let for_ever = asked(RetryAfter::Delay(Duration::MAX));
        assert_eq!(for_ever.hold_until, Some(at(10) + LONGEST_HOLD));
    }

    #[test]
    fn each_rest_in_a_row_lasts_at_least_twice_as_long() {
        let second = || Verdict::RetryAfter(RetryAfter::Delay(Duration::from_secs(1)));
        let (mut health, mut now, mut rests) = (Health::default(), 0, Vec::new());
        for _ in 0..12 {
            // Two attempts in flight together ask for one rest.
            let twin = ended(second(), now);
            health = health
                .after(&ended(second(), now), &LIMITS)
                .after(&twin, &LIMITS);
            let rest = health.hold_until.unwrap().since(at(now)).as_secs();
            rests.push(rest);
            now += rest;
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        let answered = health.after(&ended(Verdict::Accepted, now), &LIMITS);
        let rested = answered.after(&ended(second(), now + 1), &LIMITS);
        assert_eq!(rested.hold_until, Some(at(now + 2)), "a 2xx ends the row");
    }

    #[test]
    fn an_attempt_from_before_does_not_open_a_half_open_breaker() {
        let half_open = opened().after(&ended(Verdict::Accepted, 40), &LIMITS);
        let late = JudgedAttempt {
            started_at: at(2),
            ..ended(Verdict::Failed, 41)
        };
        assert_eq!(half_open.after(&late, &LIMITS).breaker, half_open.breaker);
        let new = half_open.after(&ended(Verdict::Failed, 41), &LIMITS);
        assert_eq!(new.breaker.state(), BreakerState::Open);
    }

    #[test]
    fn a_lost_connection_changes_nothing() {
        let health = opened();
        assert_eq!(
            health.after(&ended(Verdict::Inconclusive, 60), &LIMITS),
            health
        );
    }

    #[test]
    fn days_of_trying_without_a_success_are_enough() {
        let day = 24 * 3600;
        let rest = || Verdict::RetryAfter(RetryAfter::Delay(LONGEST_HOLD));
        let mut health = Health::default();
        for days in 0..=5 {
            let attempt = ended(rest(), days * day + days);
            health = health.after(&attempt, &LIMITS);
            assert_eq!(
                health.should_pause(&attempt),
                days == 5,
                "after {days} days"
            );
        }
    }

    #[test]
    fn time_in_which_nothing_was_tried_does_not_count() {
        let six_days = 6 * 24 * 3600;
        let failed = ended(Verdict::Failed, six_days);
        let second = Verdict::RetryAfter(RetryAfter::Delay(Duration::from_secs(1)));
        let rested = Health::default().after(&ended(second, 1), &LIMITS);
        assert!(
            !rested.after(&failed, &LIMITS).should_pause(&failed),
            "one rest, six days ago"
        );
        let after = opened().after(&failed, &LIMITS);
        assert!(after.breaker.state() == BreakerState::Open && !after.should_pause(&failed));
        let again = ended(second, six_days);
        assert!(!opened().after(&again, &LIMITS).should_pause(&again));
    }

    #[test]
    fn stored_times_are_brought_within_reach() {
        let far = at(1_000_000_000);
        let open = Breaker::Open {
            probe_at: far,
            probes: 3,
        };
        let health = Health {
            breaker: open,
            hold_until: Some(far),
            ..Health::default()
        };
        let near = health.within_reach(at(10));
        assert_eq!(near.hold_until, Some(at(10) + LONGEST_HOLD));
        assert_eq!(
            near.breaker,
            Breaker::Open {
                probe_at: at(10) + LONGEST_PROBE,
                probes: 3
            }
        );
        assert_eq!(
            opened().within_reach(at(10)),
            opened(),
            "what a wait can have set stays"
        );
    }
}
