//! An attempt's consequences for its endpoint and its delivery.

use super::breaker::{Health, JudgedAttempt, Limits, Verdict};
use super::clock::Timestamp;
use super::endpoint::PauseReason;

/// An attempt's consequences for its endpoint and its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assessment {
    /// The endpoint's health from here on.
    pub health: Health,
    /// The time at which the delivery is due again that the receiver has deferred, in schedule
    /// time.
    pub deferred_until: Option<Timestamp>,
    /// The reason for which the endpoint is to be paused.
    pub pause: Option<PauseReason>,
}

impl Assessment {
    /// Assesses an attempt to an endpoint whose health was `before` it.
    #[must_use]
    pub fn of(attempt: &JudgedAttempt, before: &Health, limits: &Limits) -> Self {
        let health = before.after(attempt, limits);
        let own_delay = attempt.next_delay.map(|delay| attempt.at + delay);
        let pause = match attempt.verdict {
            Verdict::Gone => Some(PauseReason::Gone),
            _ => health.should_pause(attempt).then_some(PauseReason::Failing),
        };
        Self {
            health,
            // A receiver that asks for less than the schedule's own delay gets the delay.
            deferred_until: before
                .rest_until(attempt)
                .map(|until| until.max(own_delay.unwrap_or(until))),
            pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn attempt(verdict: Verdict) -> JudgedAttempt {
        let at = Timestamp::from_micros(60_000_000);
        JudgedAttempt {
            verdict,
            started_at: at,
            at,
            wall: at,
            next_delay: Some(Duration::from_secs(10)),
        }
    }

    const LIMITS: Limits = Limits {
        breaker_after: Some(3),
        concurrency: 3,
    };

    #[test]
    fn a_410_pauses_at_once_and_a_failure_does_not() {
        let before = Health::default();
        let gone = Assessment::of(&attempt(Verdict::Gone), &before, &LIMITS);
        assert_eq!(gone.pause, Some(PauseReason::Gone));
        let failed = Assessment::of(&attempt(Verdict::Failed), &before, &LIMITS);
        assert_eq!(
            (failed.pause, failed.health.consecutive_failures),
            (None, 1)
        );
    }

    #[test]
    fn a_throttled_delivery_waits_as_long_as_its_schedule_says() {
        let throttled = Assessment::of(&attempt(Verdict::Throttled), &Health::default(), &LIMITS);
        assert_eq!(
            throttled.deferred_until,
            Some(Timestamp::from_micros(70_000_000))
        );
        let accepted = Assessment::of(&attempt(Verdict::Accepted), &Health::default(), &LIMITS);
        assert_eq!(accepted.deferred_until, None);
    }
}
