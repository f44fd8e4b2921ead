//! The attempts that this process has recently made, by time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::series::{BUCKETS, Bucket, buckets, count};

/// Length of one span.
pub(crate) const ACTIVITY_BUCKET: Duration = Duration::from_secs(10);

/// The attempts that this process has recently made, by time.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<VecDeque<Bucket>>);

impl Activity {
    /// Counts an attempt that ended at `at`.
    pub(super) fn note(&self, at: Timestamp, outcome: Outcome) {
        let new = Bucket::around(at, ACTIVITY_BUCKET);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.back().is_none_or(|last| last.at < new.at) {
            kept.push_back(new);
            while kept.len() > BUCKETS as usize {
                kept.pop_front();
            }
        }
        count(kept.make_contiguous(), at, outcome == Outcome::Delivered);
    }

    /// Returns the spans up to now, oldest first.
    pub(crate) fn series(&self, now: Timestamp) -> Vec<Bucket> {
        let mut series = buckets(now, ACTIVITY_BUCKET);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in &mut series {
            if let Some(found) = kept.iter().find(|found| found.at == bucket.at) {
                *bucket = *found;
            }
        }
        series
    }
}
