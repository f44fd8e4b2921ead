//! The clocks of an engine: the operating system's, and a database's that several nodes share.
//!
//! The only file that reads the operating system's time of day.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::domain::clock::{Clock, ClockReading, ORIGIN_AGE, Timestamp};

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Steps of a wall clock against a monotonic clock. Pure except for its lock: both readings are
/// arguments.
#[derive(Debug)]
struct Steps {
    /// Maximum lead of the wall clock over the monotonic one, in microseconds.
    most_ahead: AtomicI64,
    /// Lead at the last reading.
    ahead: AtomicI64,
    /// Spans between steps, oldest first, each starting at a monotonic time.
    spans: Mutex<Vec<Span>>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: Duration,
    ahead: i64,
}

/// Minimum change that counts as a step, in microseconds: readings jitter, and clocks are slewed.
const LEAST_STEP: i64 = 250_000;

/// Maximum number of spans kept; beyond it the oldest are joined.
const MAX_SPANS: usize = 64;

impl Steps {
    fn new(ahead: i64) -> Self {
        let spans = Mutex::new(vec![Span {
            from: Duration::ZERO,
            ahead,
        }]);
        Self {
            most_ahead: AtomicI64::new(ahead),
            ahead: AtomicI64::new(ahead),
            spans,
        }
    }

    /// Notes that the wall clock is `ahead` of the monotonic clock at `monotonic`.
    fn note(&self, ahead: i64, monotonic: Duration) {
        self.most_ahead.fetch_max(ahead, Ordering::Relaxed);
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        let step = ahead.saturating_sub(before);
        if step.abs() < LEAST_STEP {
            return;
        }
        tracing::warn!(
            seconds = step / 1_000_000,
            "the clock jumped by {} s; no delivery is delayed or expires because of it",
            step / 1_000_000
        );
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() >= MAX_SPANS {
            // The first span starts at the origin and stays; it then covers the removed one.
            spans.remove(1);
        }
        spans.push(Span {
            from: monotonic,
            ahead,
        });
    }

    /// Forgets all steps: the readings so far were not of this clock.
    fn restart(&self, ahead: i64) {
        self.most_ahead.store(ahead, Ordering::Relaxed);
        self.ahead.store(ahead, Ordering::Relaxed);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        *spans = vec![Span {
            from: Duration::ZERO,
            ahead,
        }];
    }

    fn schedule_now(&self, monotonic: Duration) -> Timestamp {
        Timestamp::from_micros(
            self.most_ahead
                .load(Ordering::Relaxed)
                .saturating_add(micros(monotonic)),
        )
    }

    /// Returns the wall clock's reading at a monotonic time.
    fn wall_at(&self, monotonic: i64) -> Timestamp {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let span = spans
            .iter()
            .rev()
            .find(|span| micros(span.from) <= monotonic)
            .or(spans.first());
        Timestamp::from_micros(monotonic.saturating_add(span.map_or(0, |span| span.ahead)))
    }

    fn cutoff(&self, now: Timestamp, monotonic: Duration, age: Duration) -> Timestamp {
        let then = micros(monotonic).saturating_sub(micros(age));
        (now - age).min(self.wall_at(then))
    }
}

/// The operating system's clocks. Where the system supports it (Linux), the monotonic one keeps
/// running while the machine is suspended: leases expire during that time as well.
#[derive(Debug)]
pub struct SystemClock {
    origin: Duration,
    steps: Steps,
}

impl SystemClock {
    /// Creates a clock whose monotonic origin is now.
    #[must_use]
    pub fn new() -> Self {
        let clock = Self {
            origin: since_boot(),
            steps: Steps::new(0),
        };
        clock
            .steps
            .restart(wall_now().as_micros() - micros(clock.monotonic()));
        clock
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where time of day is asked for"
)]
fn wall_now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::from_micros(elapsed.map_or(0, micros))
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.read().wall
    }

    fn schedule_now(&self) -> Timestamp {
        self.read().schedule
    }

    fn read(&self) -> ClockReading {
        let (wall, monotonic) = (wall_now(), self.monotonic());
        let ahead = wall.as_micros().saturating_sub(micros(monotonic));
        self.steps.note(ahead, monotonic);
        ClockReading {
            wall,
            schedule: self.steps.schedule_now(monotonic),
            monotonic,
        }
    }

    fn cutoff(&self, age: Duration) -> Timestamp {
        self.steps.cutoff(self.now(), self.monotonic(), age)
    }

    fn monotonic(&self) -> Duration {
        ORIGIN_AGE + since_boot().saturating_sub(self.origin)
    }
}

#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// A database's time of day, the same for all processes that share it: its last reading, advanced
/// with the local monotonic clock. The local time of day does not matter.
#[derive(Debug)]
pub struct SharedClock<C> {
    local: C,
    /// Lead of the database's time over the monotonic clock, in microseconds.
    ahead: AtomicI64,
    steps: Steps,
    has_learnt: AtomicBool,
}

impl<C: Clock> SharedClock<C> {
    /// Creates a clock that shows the local time of day until the database's is known.
    #[must_use]
    pub fn new(local: C) -> Self {
        let ahead = local.now().as_micros() - micros(local.monotonic());
        let steps = Steps::new(ahead);
        Self {
            local,
            ahead: AtomicI64::new(ahead),
            steps,
            has_learnt: AtomicBool::new(false),
        }
    }
}

impl<C: Clock> Clock for SharedClock<C> {
    fn now(&self) -> Timestamp {
        self.read().wall
    }

    fn monotonic(&self) -> Duration {
        self.local.monotonic()
    }

    fn schedule_now(&self) -> Timestamp {
        self.read().schedule
    }

    fn read(&self) -> ClockReading {
        let monotonic = self.local.monotonic();
        let ahead = self.ahead.load(Ordering::Relaxed);
        ClockReading {
            wall: Timestamp::from_micros(ahead.saturating_add(micros(monotonic))),
            schedule: self.steps.schedule_now(monotonic),
            monotonic,
        }
    }

    fn cutoff(&self, age: Duration) -> Timestamp {
        self.steps.cutoff(self.now(), self.monotonic(), age)
    }

    fn learn(&self, reported: Timestamp, asked: Duration, answered: Duration) {
        // The database read its clock between question and answer. A lead that fits stays, so that
        // the round trip does not make the clock jitter.
        let (least, most) = (
            reported.as_micros() - micros(answered),
            reported.as_micros() - micros(asked),
        );
        let present = self.ahead.load(Ordering::Relaxed);
        let ahead = present.clamp(least, most.max(least));
        self.ahead.store(ahead, Ordering::Relaxed);
        if self.has_learnt.swap(true, Ordering::Relaxed) {
            self.steps.note(ahead, answered);
        } else {
            // The readings so far were of the local clock, not of the database's.
            self.steps.restart(ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Wrong;

    impl Clock for Wrong {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(7_200_000_000)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(100)
        }
    }

    #[test]
    fn a_shared_clock_shows_what_the_database_told_and_does_not_jitter() {
        let clock = SharedClock::new(Wrong);
        let at = |seconds: u64| Duration::from_millis(seconds * 1000);
        let reported = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        // Asked at 98 and answered at 100: the database's 3600 lies in between.
        clock.learn(reported(3600), at(98), at(100));
        assert_eq!(clock.now(), reported(3602), "no earlier than it can be");
        clock.learn(reported(3600), at(96), at(99));
        assert_eq!(clock.now(), reported(3602), "still possible, so it stays");
        clock.learn(reported(3600), at(99), at(100));
        assert_eq!(clock.now(), reported(3601), "nearer now");
    }

    #[test]
    fn no_step_prolongs_a_wait_or_makes_something_old() {
        let (second, hour) = (1_000_000, 3_600_000_000);
        let at = |seconds: u64| Duration::from_secs(seconds);
        let steps = Steps::new(10 * hour);
        let due = Timestamp::from_micros(steps.schedule_now(at(100)).as_micros() + 3 * second);
        steps.note(9 * hour, at(101));
        assert!(
            steps.schedule_now(at(102)) < due && steps.schedule_now(at(103)) >= due,
            "set back"
        );
        steps.note(20 * hour, at(104));
        assert_eq!(
            steps.schedule_now(at(104)),
            Timestamp::from_micros(20 * hour + 104 * second),
            "set forward"
        );
        steps.note(9 * hour, at(105));
        assert_eq!(
            steps.schedule_now(at(105)),
            Timestamp::from_micros(20 * hour + 105 * second),
            "never back"
        );

        // A clock that is set forward by a day, and then right again.
        let steps = Steps::new(0);
        let (day, now) = (24 * hour, 7200);
        let made = Timestamp::from_micros(7000 * second);
        steps.note(day, at(now));
        let wall = Timestamp::from_micros(day + 7200 * second);
        let cutoff = steps.cutoff(wall, at(now), at(3600));
        assert_eq!(
            cutoff,
            Timestamp::from_micros(3600 * second),
            "an hour ago by the monotonic clock"
        );
        assert!(made > cutoff, "200 s old");
        let later = at(now + 3600);
        let cutoff = steps.cutoff(Timestamp::from_micros(day + micros(later)), later, at(3600));
        assert!(made < cutoff, "an hour has passed on both clocks");
        steps.note(0, later);
        let cutoff = steps.cutoff(Timestamp::from_micros(micros(later)), later, at(3600));
        assert_eq!(cutoff, Timestamp::from_micros(7200 * second));
    }
}
