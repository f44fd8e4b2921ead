//! Time: the stored form ([`Timestamp`]) and its source ([`Clock`]).
//!
//! Its implementations, which ask the operating system or a database, are in `ports::clock`.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in microseconds since the Unix epoch. Shown as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Converts microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns whole seconds since the Unix epoch, as used in signatures.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
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

/// All readings of a clock at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Time of day, as of [`Clock::now`].
    pub wall: Timestamp,
    /// Schedule time, as of [`Clock::schedule_now`].
    pub schedule: Timestamp,
    /// Monotonic time, as of [`Clock::monotonic`].
    pub monotonic: Duration,
}

/// The engine's source of time, which tests can replace.
///
/// A wall clock can jump, set by a person or NTP. Two further readings keep these steps out of
/// waits and ages: [`schedule_now`](Self::schedule_now) for due times, [`cutoff`](Self::cutoff)
/// for ages.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time of day, which is stored, signed and shown.
    fn now(&self) -> Timestamp;

    /// Returns schedule time, which retries, rests and probes are due by. It follows the time of
    /// day but never goes back: if the time of day is set back, it continues at the old rate. So a
    /// wait is over after its delay or at its end by the time of day, whichever comes first.
    fn schedule_now(&self) -> Timestamp {
        self.now()
    }

    /// Returns all readings of one moment, for less than the cost of each.
    fn read(&self) -> ClockReading {
        ClockReading {
            wall: self.now(),
            schedule: self.schedule_now(),
            monotonic: self.monotonic(),
        }
    }

    /// Returns the time of day before which everything is older than `age`, by the time of day and
    /// by the monotonic clock: setting the time of day forward makes nothing old.
    fn cutoff(&self, age: Duration) -> Timestamp {
        self.now() - age
    }

    /// Returns the time since an arbitrary origin. It never jumps; rates and timeouts use it.
    ///
    /// The origin is at least [`ORIGIN_AGE`] in the past, so that attempts logged before this
    /// process started can be placed on it.
    fn monotonic(&self) -> Duration;

    /// Learns the database's time, read between two moments of the monotonic clock. Only a clock
    /// that is shared with others uses it.
    fn learn(&self, told: Timestamp, asked: Duration, answered: Duration) {
        let _ = (told, asked, answered);
    }
}

/// Age of a monotonic clock's origin when the clock is created.
pub const ORIGIN_AGE: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

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
