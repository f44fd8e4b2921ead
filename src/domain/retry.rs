//! Retry schedules: the delays between a delivery's attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Maximum jitter as a share of the delay. It only adds to a delay: no retry is early.
pub const MAX_JITTER: f64 = 0.10;

/// Maximum delay in a schedule, in seconds: seven days.
pub const MAX_DELAY_S: u32 = 7 * 24 * 3600;

/// Maximum number of delays in a schedule.
pub const MAX_DELAYS: usize = 30;

/// The delays between attempts: the n-th starts at the end of the n-th failed attempt.
///
/// Empty means a single attempt without retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u32>", try_from = "Vec<u32>")]
pub struct RetrySchedule {
    delays_s: Vec<u32>,
}

impl TryFrom<Vec<u32>> for RetrySchedule {
    type Error = String;
    fn try_from(delays_s: Vec<u32>) -> Result<Self, Self::Error> {
        Self::new(delays_s)
    }
}

impl From<RetrySchedule> for Vec<u32> {
    fn from(schedule: RetrySchedule) -> Self {
        schedule.delays_s
    }
}

impl RetrySchedule {
    /// Creates a schedule of whole seconds.
    ///
    /// # Errors
    /// Describes the problem if there are more than [`MAX_DELAYS`] delays or one exceeds
    /// [`MAX_DELAY_S`].
    pub fn new(delays_s: Vec<u32>) -> Result<Self, String> {
        if delays_s.len() > MAX_DELAYS {
            return Err(format!(
                "at most {MAX_DELAYS} delays, not {}",
                delays_s.len()
            ));
        }
        if let Some(delay) = delays_s.iter().find(|delay| **delay > MAX_DELAY_S) {
            return Err(format!(
                "each delay is at most {MAX_DELAY_S} seconds (7 days), not {delay}"
            ));
        }
        Ok(Self { delays_s })
    }

    /// Returns the delays in seconds.
    #[must_use]
    pub fn delays_s(&self) -> &[u32] {
        &self.delays_s
    }

    /// Returns the longest possible delay, jitter included.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        let longest = self.delays_s.iter().max().copied().unwrap_or(0);
        Duration::from_secs(u64::from(longest)).mul_f64(1.0 + MAX_JITTER)
    }

    /// Returns the delay before the next retry after `retries_used`; `None` if all are used.
    #[must_use]
    pub fn delay(&self, retries_used: u32, jitter: Jitter) -> Option<Duration> {
        let delay = self.delays_s.get(usize::try_from(retries_used).ok()?)?;
        Some(Duration::from_secs(u64::from(*delay)).mul_f64(1.0 + MAX_JITTER * jitter.0))
    }
}

impl Default for RetrySchedule {
    /// Returns 10, 20, 40 and 80 seconds: five attempts in total.
    fn default() -> Self {
        Self {
            delays_s: vec![10, 20, 40, 80],
        }
    }
}

/// The share of [`MAX_JITTER`] that a delay gets, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// No jitter.
    pub const NONE: Self = Self(0.0);

    /// Creates a jitter of `share`, limited to 0 to 1.
    #[must_use]
    pub fn new(share: f64) -> Self {
        Self(if share.is_nan() {
            0.0
        } else {
            share.clamp(0.0, 1.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_four_retries_doubling_from_ten_seconds() {
        let schedule = RetrySchedule::default();
        let delays: Vec<_> = (0..5)
            .map(|used| schedule.delay(used, Jitter::NONE).map(|d| d.as_secs()))
            .collect();
        assert_eq!(delays, [Some(10), Some(20), Some(40), Some(80), None]);
    }

    #[test]
    fn jitter_only_ever_adds_and_at_most_a_tenth() {
        let schedule = RetrySchedule::default();
        for share in [-1.0, 0.0, 0.3, 1.0, 7.0, f64::NAN] {
            let delay = schedule.delay(0, Jitter::new(share)).unwrap().as_secs_f64();
            assert!((10.0..=11.0).contains(&delay), "{share}: {delay}");
        }
    }

    #[test]
    fn an_empty_schedule_means_one_attempt() {
        assert_eq!(
            RetrySchedule::new(vec![]).unwrap().delay(0, Jitter::NONE),
            None
        );
    }

    #[test]
    fn limits_are_named() {
        assert!(
            RetrySchedule::new(vec![1; 31])
                .unwrap_err()
                .contains("at most 30")
        );
        assert!(
            RetrySchedule::new(vec![MAX_DELAY_S + 1])
                .unwrap_err()
                .contains("7 days")
        );
    }
}
