//! When a failed delivery is tried again.

use std::time::Duration;

/// Jitter adds at most this share of a delay, and never takes any away: no retry comes early.
pub const MAX_JITTER: f64 = 0.10;

/// The longest delay that a schedule may hold, in seconds: seven days.
pub const MAX_DELAY_S: u32 = 7 * 24 * 3600;

/// The most delays that a schedule may hold.
pub const MAX_DELAYS: usize = 30;

/// The delays between attempts: the n-th runs from the end of the n-th failed attempt.
///
/// Empty means one attempt and no retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    delays_s: Vec<u32>,
}

impl RetrySchedule {
    /// A schedule of whole seconds.
    ///
    /// # Errors
    /// Says what is wrong with more than [`MAX_DELAYS`] delays or one above [`MAX_DELAY_S`].
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

    /// The delays, in seconds.
    #[must_use]
    pub fn delays_s(&self) -> &[u32] {
        &self.delays_s
    }

    /// Returns the longest delay that it can ask for, jitter included.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        let longest = self.delays_s.iter().max().copied().unwrap_or(0);
        Duration::from_secs(u64::from(longest)).mul_f64(1.0 + MAX_JITTER)
    }

    /// The delay before the next retry after `retries_used` of them, or `None` when they are used
    /// up.
    #[must_use]
    pub fn delay(&self, retries_used: u32, jitter: Jitter) -> Option<Duration> {
        let delay = self.delays_s.get(usize::try_from(retries_used).ok()?)?;
        Some(Duration::from_secs(u64::from(*delay)).mul_f64(1.0 + MAX_JITTER * jitter.0))
    }
}

impl Default for RetrySchedule {
    /// 10, 20, 40 and 80 seconds: five attempts in all.
    fn default() -> Self {
        Self {
            delays_s: vec![10, 20, 40, 80],
        }
    }
}

/// A number from 0 to 1 that decides how much of [`MAX_JITTER`] a delay gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// No jitter at all.
    pub const NONE: Self = Self(0.0);

    /// Clamps `share` to 0 to 1.
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
