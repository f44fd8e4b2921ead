//! Attempts by time, for charts and statistics.

use std::time::Duration;

use super::clock::Timestamp;

/// Spans of a series.
pub const BUCKETS: u32 = 30;

/// The attempts that ended within one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// Begin of the span.
    pub at: Timestamp,
    /// Attempts with a 2xx response.
    pub delivered: u64,
    /// Attempts without one.
    pub failed: u64,
}

impl Bucket {
    /// The empty span of length `each` that contains `at`.
    #[must_use]
    pub fn around(at: Timestamp, each: Duration) -> Self {
        let span = i64::try_from(each.as_micros()).unwrap_or(i64::MAX).max(1);
        let at = Timestamp::from_micros(at.as_micros() / span * span);
        Self {
            at,
            delivered: 0,
            failed: 0,
        }
    }

    /// Counts an attempt.
    pub fn count(&mut self, delivered: bool) {
        let count = if delivered {
            &mut self.delivered
        } else {
            &mut self.failed
        };
        *count += 1;
    }
}

/// Returns the empty spans up to now, oldest first.
#[must_use]
pub fn buckets(now: Timestamp, each: Duration) -> Vec<Bucket> {
    let last = Bucket::around(now, each);
    let back = |spans: u32| Bucket {
        at: last.at - each * spans,
        ..last
    };
    (0..BUCKETS).rev().map(back).collect()
}

/// Counts an attempt in the span that it ended in, unless it is too old.
pub fn count(buckets: &mut [Bucket], at: Timestamp, delivered: bool) {
    if let Some(bucket) = buckets.iter_mut().rev().find(|bucket| bucket.at <= at) {
        bucket.count(delivered);
    }
}

/// Returns the 50th, 95th and 99th percentile of values in any order; `None` without any.
#[must_use]
pub fn percentiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |part: f64| values[((values.len() as f64 * part) as usize).min(last)];
    Some([at(0.5), at(0.95), at(0.99)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_counts_in_the_span_that_it_ended_in() {
        let each = Duration::from_secs(10);
        let mut series = buckets(Timestamp::from_micros(305_000_000), each);
        assert_eq!((series.len(), series[29].at.as_seconds()), (30, 300));
        count(&mut series, Timestamp::from_micros(299_999_999), true);
        count(&mut series, Timestamp::from_micros(304_000_000), false);
        count(&mut series, Timestamp::from_micros(1), true);
        assert_eq!((series[28].delivered, series[29].failed), (1, 1));
        assert_eq!(
            series.iter().map(|bucket| bucket.delivered).sum::<u64>(),
            1,
            "too old"
        );
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(percentiles(Vec::new()), None);
        assert_eq!(percentiles(vec![7.0]), Some([7.0; 3]));
        let hundred = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentiles(hundred), Some([51.0, 96.0, 100.0]));
    }
}
