//! The writer horizon: a time by which all transactions that had begun to write have ended. A
//! delivery that one of them makes pending may be due from an earlier time on.
//!
//! Each reading tells which transactions are open; a reading is the horizon once all transactions
//! that were open or earlier at that time have ended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::clock::Timestamp;
use crate::store::OpenWriters;

/// Readings that are kept. Beyond that the horizon gets coarser, not wrong.
const MAX_READINGS: usize = 600;

/// Finds the horizon.
#[derive(Debug, Default)]
pub(crate) struct WriterHorizon {
    /// Times, and the number of the transaction that was next.
    readings: VecDeque<(Timestamp, i64)>,
}

impl WriterHorizon {
    /// Notes a reading that began at `now`. Returns the horizon, if it is known.
    pub(crate) fn note(&mut self, now: Timestamp, open: OpenWriters) -> Option<Timestamp> {
        if self.readings.len() < MAX_READINGS {
            self.readings.push_back((now, open.last));
        }
        // Only the latest of the readings that qualify is of use.
        let is_over = |reading: &&(Timestamp, i64)| reading.1 <= open.first;
        let over = self.readings.iter().take_while(is_over).count();
        self.readings.drain(..over.saturating_sub(1));
        self.readings.front().filter(is_over).map(|(at, _)| *at)
    }
}

/// The horizon as the supervisors see it.
#[derive(Debug, Default)]
pub(crate) struct SharedHorizon(AtomicI64);

impl SharedHorizon {
    pub(crate) fn set(&self, at: Timestamp) {
        self.0.store(at.as_micros(), Ordering::Relaxed);
    }

    /// Returns the horizon; the earliest of all times if it is not known.
    pub(crate) fn get(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_before_the_oldest_open_transaction() {
        let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
        let open = |first, last| OpenWriters { first, last };
        let mut horizon = WriterHorizon::default();
        assert_eq!(horizon.note(at(1), open(5, 5)), Some(at(1)), "none is open");
        assert_eq!(
            horizon.note(at(2), open(5, 8)),
            Some(at(1)),
            "5 began since"
        );
        assert_eq!(horizon.note(at(3), open(5, 9)), Some(at(1)));
        assert_eq!(
            horizon.note(at(4), open(8, 12)),
            Some(at(2)),
            "8 was next then"
        );
        assert_eq!(horizon.note(at(5), open(12, 12)), Some(at(5)));
    }

    #[test]
    fn a_transaction_that_was_open_from_the_beginning_leaves_it_unknown() {
        let mut horizon = WriterHorizon::default();
        for second in 0..2_000 {
            let now = Timestamp::from_micros(second);
            let open = OpenWriters {
                first: 3,
                last: 10 + second,
            };
            assert_eq!(horizon.note(now, open), None);
        }
        assert!(horizon.readings.len() <= MAX_READINGS);
    }
}
