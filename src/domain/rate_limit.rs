//! Strict rate limits: never more than N starts in *any* window of length P.
//!
//! [`SlidingWindow`] keeps the last N start times, so it is exact; a token bucket would allow up to
//! 2 N starts around a refill. The time is an argument.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Maximum number of starts in a window.
pub const MAX_STARTS: u32 = 10_000;

/// Maximum rate of attempt starts. Written `"10/min"`, `"N/s"`, `"N/h"` or `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RateLimit {
    /// Limited by the concurrency only.
    Unlimited,
    /// At most `starts` in any window of `period`.
    Sliding {
        /// From 1 to [`MAX_STARTS`].
        starts: u32,
        /// One second, minute or hour.
        period: Period,
    },
}

/// The length of a rate limit's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// `s`
    Second,
    /// `min`
    Minute,
    /// `h`
    Hour,
}

impl Period {
    /// The longest period: no attempt younger than this may be forgotten.
    pub const LONGEST: Duration = Duration::from_secs(3600);

    /// Returns its length.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }
}

impl Default for RateLimit {
    /// Returns ten per minute.
    fn default() -> Self {
        Self::Sliding {
            starts: 10,
            period: Period::Minute,
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Sliding { starts, period } => {
                let unit = match period {
                    Period::Second => "s",
                    Period::Minute => "min",
                    Period::Hour => "h",
                };
                write!(f, "{starts}/{unit}")
            }
        }
    }
}

impl From<RateLimit> for String {
    fn from(limit: RateLimit) -> Self {
        limit.to_string()
    }
}

impl TryFrom<String> for RateLimit {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for RateLimit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "must be \"N/s\", \"N/min\" or \"N/h\" with N from 1 to {MAX_STARTS}, or \"unlimited\""
            )
        };
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (starts, unit) = text.split_once('/').ok_or_else(wrong)?;
        let period = match unit {
            "s" => Period::Second,
            "min" => Period::Minute,
            "h" => Period::Hour,
            _ => return Err(wrong()),
        };
        let digits = !starts.is_empty() && starts.bytes().all(|b| b.is_ascii_digit());
        match starts.parse() {
            Ok(starts @ 1..=MAX_STARTS) if digits => Ok(Self::Sliding { starts, period }),
            _ => Err(wrong()),
        }
    }
}

impl RateLimit {
    /// Returns the time in which `waiting` deliveries start at this rate; `None` if unlimited.
    #[must_use]
    pub fn drain_time(self, waiting: u64) -> Option<Duration> {
        match self {
            Self::Unlimited => None,
            Self::Sliding { starts, period } => Some(
                period
                    .duration()
                    .mul_f64(waiting as f64 / f64::from(starts.max(1))),
            ),
        }
    }
}

/// The start times within the window, on a monotonic clock.
///
/// A slot goes from free to *reserved* (being claimed) to *started*, or back to free if the claim
/// was not started. A reserved slot counts until it is started or released.
#[derive(Debug)]
pub struct SlidingWindow {
    limit: RateLimit,
    starts: VecDeque<Duration>,
    reserved: u32,
}

impl SlidingWindow {
    /// Creates a window that contains `starts`, monotonic times in any order.
    #[must_use]
    pub fn seeded(limit: RateLimit, starts: impl IntoIterator<Item = Duration>) -> Self {
        let mut starts: Vec<_> = starts.into_iter().collect();
        starts.sort_unstable();
        Self {
            limit,
            starts: starts.into(),
            reserved: 0,
        }
    }

    /// Returns its limit.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Returns the number of attempts that may start now; `u32::MAX` if there is no limit.
    pub fn available(&mut self, now: Duration) -> u32 {
        let RateLimit::Sliding { starts: max, .. } = self.limit else {
            return u32::MAX;
        };
        self.forget(now);
        let used = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
        max.saturating_sub(used.saturating_add(self.reserved))
    }

    /// Reserves `slots` of those that [`available`](Self::available) just returned.
    pub fn reserve(&mut self, slots: u32) {
        self.reserved += slots;
    }

    /// Releases a reserved slot whose attempt was not started.
    pub fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Turns a reserved slot into a start at `now`.
    pub fn start(&mut self, now: Duration) {
        self.release();
        if self.limit != RateLimit::Unlimited {
            self.starts.push_back(now);
        }
    }

    /// Forgets the start at `at`, because nothing was sent.
    pub fn forget_start(&mut self, at: Duration) {
        if let Some(index) = self.starts.iter().rposition(|start| *start == at) {
            self.starts.remove(index);
        }
    }

    /// Returns the time until a slot becomes free; `None` if one is free now, or if only the
    /// outcome of a reservation can free one.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        if self.available(now) > 0 {
            return None;
        }
        self.starts
            .front()
            .map(|oldest| (*oldest + self.span()).saturating_sub(now))
    }

    /// Returns the period plus a thousandth: the log's wall clock may be slewed by up to 500 ppm
    /// against the monotonic clock used here, and the limit has to hold in the log as well.
    fn span(&self) -> Duration {
        match self.limit {
            RateLimit::Unlimited => Duration::ZERO,
            RateLimit::Sliding { period, .. } => period.duration() + period.duration() / 1000,
        }
    }

    fn forget(&mut self, now: Duration) {
        let span = self.span();
        while self
            .starts
            .front()
            .is_some_and(|oldest| *oldest + span <= now)
        {
            self.starts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn reads_what_it_writes() {
        for text in ["10/min", "1/s", "10000/h", "unlimited"] {
            assert_eq!(text.parse::<RateLimit>().unwrap().to_string(), text);
        }
        for bad in [
            "", "10", "0/s", "10001/h", "10/day", "-1/s", "+1/s", "1.5/s", "10 /min",
        ] {
            assert!(bad.parse::<RateLimit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_window_opens_when_its_oldest_start_has_passed() {
        let mut window = SlidingWindow::seeded("2/min".parse().unwrap(), [S(0), S(30)]);
        assert_eq!(window.available(S(59)), 0);
        assert_eq!(window.wait(S(59)), Some(Duration::from_millis(1060)));
        assert_eq!(window.available(S(61)), 1);
        assert_eq!(window.available(S(91)), 2);
    }

    #[test]
    fn a_released_reservation_is_free_again_and_a_started_one_is_not() {
        let mut window = SlidingWindow::seeded("2/min".parse().unwrap(), []);
        window.reserve(2);
        assert_eq!(window.available(S(1)), 0);
        assert_eq!(window.wait(S(1)), None, "no start to wait for");
        window.release();
        window.start(S(1));
        assert_eq!(window.available(S(2)), 1);
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_the_limit(
            max in 1_u32..20,
            steps in prop::collection::vec((0_u64..20_000, 1_u32..6, any::<bool>()), 1..200),
        ) {
            let limit = RateLimit::Sliding { starts: max, period: Period::Minute };
            let mut window = SlidingWindow::seeded(limit, []);
            let (mut now, mut log) = (Duration::ZERO, Vec::new());
            for (step, wanted, started) in steps {
                now += Duration::from_millis(step);
                let slots = wanted.min(window.available(now));
                window.reserve(slots);
                for _ in 0..slots {
                    if started { window.start(now); log.push(now); } else { window.release(); }
                }
            }
            for from in &log {
                let inside = log.iter().filter(|at| *at >= from && **at <= *from + S(60)).count();
                prop_assert!(inside <= max as usize, "{inside} starts within 60 s of {from:?}");
            }
        }
    }
}
