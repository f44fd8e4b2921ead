//! Time: what is stored ([`Timestamp`]), and where it comes from ([`Clock`]).
//!
//! The only file that asks the operating system for the time of day.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, in microseconds since the Unix epoch. Shown as RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, as signatures carry them.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => write!(f, "{moment:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|moment| Self(moment.as_microsecond()))
            .map_err(|_| {
                "must be an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z".into()
            })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Where the engine's time comes from, so that a test can move it.
///
/// A wall clock steps: people and NTP set it. Two further readings keep steps out of waits and
/// ages: [`schedule_now`](Self::schedule_now) for what is due, [`cutoff`](Self::cutoff) for what is
/// old.
pub trait Clock: Send + Sync + 'static {
    /// The time of day: what is stored, signed and shown.
    fn now(&self) -> Timestamp;

    /// Schedule time: what retries, rests and probes are due by. It follows the time of day, but
    /// never goes back: where the time of day is set back, it continues at the old rate. So a wait
    /// is over when its delay has passed or the time of day has reached its end, whichever comes
    /// first.
    fn schedule_now(&self) -> Timestamp {
        self.now()
    }

    /// Returns the time of day before which everything is older than `age`, both by the time of day
    /// and by the monotonic clock: a time of day that is set forward makes nothing old.
    fn cutoff(&self, age: Duration) -> Timestamp {
        self.now() - age
    }

    /// Time since an origin of its own, which never steps: what rates and time-outs are held by.
    ///
    /// The origin lies at least [`ORIGIN_AGE`] back, so that what the log remembers of the time
    /// before this process has a place on it.
    fn monotonic(&self) -> Duration;

    /// Hears what time the database has told between two moments of the monotonic clock. Only a
    /// clock that is shared with others heeds it.
    fn learn(&self, told: Timestamp, asked: Duration, answered: Duration) {
        let _ = (told, asked, answered);
    }
}

/// How far back a monotonic clock's origin lies when it is made.
pub const ORIGIN_AGE: Duration = Duration::from_secs(24 * 3600);

/// A wall clock's steps, seen against a monotonic clock. Pure but for its lock: both readings are
/// arguments.
#[derive(Debug)]
struct Steps {
    /// The most that the wall clock has been ahead of the monotonic one, in microseconds.
    most_ahead: AtomicI64,
    /// What it was ahead by when it was read last.
    ahead: AtomicI64,
    /// The spans between steps, oldest first, each from a monotonic time on.
    spans: Mutex<Vec<Span>>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: Duration,
    ahead: i64,
}

/// A change of less than this is no step: readings jitter, and clocks are slewed.
const LEAST_STEP: i64 = 250_000;

/// The most spans that are remembered; beyond them the oldest are joined.
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

    /// Notes that the wall clock is `ahead` of the monotonic clock, which shows `monotonic`.
    fn note(&self, ahead: i64, monotonic: Duration) {
        self.most_ahead.fetch_max(ahead, Ordering::Relaxed);
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        let step = ahead.saturating_sub(before);
        if step.abs() < LEAST_STEP {
            return;
        }
        tracing::warn!(
            seconds = step / 1_000_000,
            "the clock was set by {} s; what waits is not held up by it, and nothing expires by it",
            step / 1_000_000
        );
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() >= MAX_SPANS {
            spans.remove(1);
        }
        spans.push(Span {
            from: monotonic,
            ahead,
        });
    }

    /// Forgets all steps: what was shown before was not the clock yet.
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
        Timestamp(
            self.most_ahead
                .load(Ordering::Relaxed)
                .saturating_add(micros(monotonic)),
        )
    }

    /// What the wall clock showed when the monotonic one showed `monotonic`.
    fn wall_at(&self, monotonic: i64) -> Timestamp {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let span = spans
            .iter()
            .rev()
            .find(|span| micros(span.from) <= monotonic)
            .or(spans.first());
        Timestamp(monotonic.saturating_add(span.map_or(0, |span| span.ahead)))
    }

    fn cutoff(&self, now: Timestamp, monotonic: Duration, age: Duration) -> Timestamp {
        let then = micros(monotonic).saturating_sub(micros(age));
        (now - age).min(self.wall_at(then))
    }
}

/// The operating system's clocks. The monotonic one goes on while the machine is suspended, where
/// the system has such a clock (Linux): a lease does not wait for us either.
#[derive(Debug)]
pub struct SystemClock {
    origin: Duration,
    steps: Steps,
}

impl SystemClock {
    /// A clock whose monotonic origin is now.
    #[must_use]
    pub fn new() -> Self {
        let clock = Self {
            origin: since_boot(),
            steps: Steps::new(0),
        };
        clock
            .steps
            .restart(wall_now().0 - micros(clock.monotonic()));
        clock
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where time of day is asked for"
)]
fn wall_now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(elapsed.map_or(0, micros))
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let (now, monotonic) = (wall_now(), self.monotonic());
        self.steps
            .note(now.0.saturating_sub(micros(monotonic)), monotonic);
        now
    }

    fn schedule_now(&self) -> Timestamp {
        self.now();
        self.steps.schedule_now(self.monotonic())
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

/// A database's time of day, which all processes that share it agree on: the last time that it
/// told, and what a monotonic clock of our own has counted since. What our own clock takes for the
/// time of day does not matter.
#[derive(Debug)]
pub struct SharedClock<C> {
    local: C,
    /// What the database's time is ahead of the monotonic clock, in microseconds.
    ahead: AtomicI64,
    steps: Steps,
    has_learnt: AtomicBool,
}

impl<C: Clock> SharedClock<C> {
    /// Shows the local time of day until the database has told its own.
    #[must_use]
    pub fn new(local: C) -> Self {
        let ahead = local.now().0 - micros(local.monotonic());
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
        Timestamp(
            self.ahead
                .load(Ordering::Relaxed)
                .saturating_add(micros(self.local.monotonic())),
        )
    }

    fn monotonic(&self) -> Duration {
        self.local.monotonic()
    }

    fn schedule_now(&self) -> Timestamp {
        self.steps.schedule_now(self.monotonic())
    }

    fn cutoff(&self, age: Duration) -> Timestamp {
        self.steps.cutoff(self.now(), self.monotonic(), age)
    }

    fn learn(&self, told: Timestamp, asked: Duration, answered: Duration) {
        // It was told somewhere between question and answer. What fits that is left as it is, so
        // that the way there and back does not make the clock jitter.
        let (least, most) = (told.0 - micros(answered), told.0 - micros(asked));
        let present = self.ahead.load(Ordering::Relaxed);
        let ahead = present.clamp(least, most.max(least));
        self.ahead.store(ahead, Ordering::Relaxed);
        if self.has_learnt.swap(true, Ordering::Relaxed) {
            self.steps.note(ahead, answered);
        } else {
            // What the local clock showed until now was never the database's time.
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
            Timestamp(7_200_000_000)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(100)
        }
    }

    #[test]
    fn a_shared_clock_shows_what_the_database_told_and_does_not_jitter() {
        let clock = SharedClock::new(Wrong);
        let at = |seconds: u64| Duration::from_millis(seconds * 1000);
        let told = |seconds: i64| Timestamp(seconds * 1_000_000);
        // Asked at 98 and answered at 100: the database's 3600 lies in between.
        clock.learn(told(3600), at(98), at(100));
        assert_eq!(clock.now(), told(3602), "no earlier than it can be");
        clock.learn(told(3600), at(96), at(99));
        assert_eq!(clock.now(), told(3602), "still possible, so it stays");
        clock.learn(told(3600), at(99), at(100));
        assert_eq!(clock.now(), told(3601), "nearer now");
    }

    #[test]
    fn no_step_prolongs_a_wait_or_makes_something_old() {
        let (second, hour) = (1_000_000, 3_600_000_000);
        let at = |seconds: u64| Duration::from_secs(seconds);
        let steps = Steps::new(10 * hour);
        let due = Timestamp(steps.schedule_now(at(100)).0 + 3 * second);
        steps.note(9 * hour, at(101));
        assert!(
            steps.schedule_now(at(102)) < due && steps.schedule_now(at(103)) >= due,
            "set back"
        );
        steps.note(20 * hour, at(104));
        assert_eq!(
            steps.schedule_now(at(104)),
            Timestamp(20 * hour + 104 * second),
            "set forward"
        );
        steps.note(9 * hour, at(105));
        assert_eq!(
            steps.schedule_now(at(105)),
            Timestamp(20 * hour + 105 * second),
            "never back"
        );

        // A clock that is set forward by a day, and then right again.
        let steps = Steps::new(0);
        let (day, now) = (24 * hour, 7200);
        let made = Timestamp(7000 * second);
        steps.note(day, at(now));
        let wall = Timestamp(day + 7200 * second);
        let cutoff = steps.cutoff(wall, at(now), at(3600));
        assert_eq!(
            cutoff,
            Timestamp(3600 * second),
            "an hour ago by the monotonic clock"
        );
        assert!(made > cutoff, "200 s old");
        let later = at(now + 3600);
        let cutoff = steps.cutoff(Timestamp(day + micros(later)), later, at(3600));
        assert!(made < cutoff, "an hour has passed on both clocks");
        steps.note(0, later);
        let cutoff = steps.cutoff(Timestamp(micros(later)), later, at(3600));
        assert_eq!(cutoff, Timestamp(7200 * second));
    }

    #[test]
    fn is_shown_in_utc_with_microseconds_and_read_back() {
        let moment = Timestamp::from_micros(1_767_225_600_000_001);
        assert_eq!(moment.to_string(), "2026-01-01T00:00:00.000001Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
        assert_eq!(
            "2026-01-01T02:00:00+02:00".parse(),
            Ok(Timestamp::from_micros(1_767_225_600_000_000))
        );
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("2026-01-01T00:00:00".parse::<Timestamp>().is_err());
    }
}
