//! The lag of a thread: how late it does what is due.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Interval at which a thread shows that it works.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// Lag from which a thread is reported, and gets no new supervisor while others have less.
pub(super) const LAGGING: Duration = Duration::from_millis(100);

/// Time for which the largest lag is kept, at least.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The lag of one thread, measured on the thread and read on any.
#[derive(Debug)]
pub(super) struct Lag(Mutex<Beats>);

#[derive(Debug, Clone, Copy)]
struct Beats {
    last: Duration,
    /// The largest lag since this time, and the largest in the span before.
    since: Duration,
    worst: Duration,
    worst_before: Duration,
}

impl Lag {
    pub(super) fn new(now: Duration) -> Self {
        Self(Mutex::new(Beats {
            last: now,
            since: now,
            worst: Duration::ZERO,
            worst_before: Duration::ZERO,
        }))
    }

    /// Notes that the thread works. Returns how late this is.
    pub(super) fn beat(&self, now: Duration) -> Duration {
        let mut beats = self.beats();
        let late = beats.late(now);
        if now.saturating_sub(beats.since) >= KEPT_FOR {
            (beats.worst_before, beats.worst) = (beats.worst, Duration::ZERO);
            beats.since = now;
        }
        beats.worst = beats.worst.max(late);
        beats.last = now;
        late
    }

    /// Returns the largest recent lag, including one that has not ended.
    pub(super) fn recent(&self, now: Duration) -> Duration {
        let beats = self.beats();
        beats.late(now).max(beats.worst).max(beats.worst_before)
    }

    /// Returns the lag of this moment.
    pub(super) fn present(&self, now: Duration) -> Duration {
        self.beats().late(now)
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Beats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beats {
    fn late(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last + INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_shows_while_it_lasts_and_for_some_seconds_after() {
        let at = Duration::from_millis;
        let lag = Lag::new(at(0));
        assert_eq!(lag.beat(at(100)), at(0));
        assert_eq!(lag.present(at(900)), at(700), "it has not ended");
        assert_eq!(lag.beat(at(1000)), at(800));
        assert_eq!(
            (lag.present(at(1050)), lag.recent(at(1050))),
            (at(0), at(800))
        );
        for tick in 11..=110 {
            lag.beat(at(tick * 100));
        }
        assert_eq!(lag.recent(at(11_000)), at(800));
        for tick in 111..=220 {
            lag.beat(at(tick * 100));
        }
        assert_eq!(lag.recent(at(22_000)), at(0), "it is forgotten");
    }
}
