//! Decides for each origin if its connections are reused. Pure: the time is an argument.
//!
//! A receiver that closes connections right after its responses, unannounced, loses requests that
//! are sent at the same moment. Such an origin gets a new connection per request for a while.

use std::collections::HashMap;
use std::time::Duration;

/// Two lost connections within this time stop the reuse.
const LOSSES_WITHIN: Duration = Duration::from_secs(60);

/// Time for which an origin's connections are then not reused.
const NO_REUSE_FOR: Duration = Duration::from_secs(600);

/// Maximum number of origins remembered; beyond it the oldest are forgotten.
const MAX_ORIGINS: usize = 10_000;

/// Remembers lost connections by origin.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    origins: HashMap<String, Lost>,
}

#[derive(Debug, Clone, Copy)]
struct Lost {
    at: Duration,
    no_reuse_until: Option<Duration>,
}

impl Lost {
    fn end(&self) -> Duration {
        self.no_reuse_until.unwrap_or(self.at + LOSSES_WITHIN)
    }
}

impl Reuse {
    /// Returns whether an origin's connections may be reused at `now`.
    pub(super) fn is_allowed(&self, origin: &str, now: Duration) -> bool {
        let until = self
            .origins
            .get(origin)
            .and_then(|lost| lost.no_reuse_until);
        until.is_none_or(|until| until <= now)
    }

    /// Returns whether no lost connection is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Notes a reused connection that ended before a response. Returns whether this stops the
    /// reuse.
    pub(super) fn note_lost(&mut self, origin: &str, now: Duration) -> bool {
        self.origins.retain(|_, lost| lost.end() > now);
        if self.origins.len() >= MAX_ORIGINS && !self.origins.contains_key(origin) {
            let oldest = self
                .origins
                .iter()
                .min_by_key(|(_, lost)| lost.at)
                .map(|(origin, _)| origin.clone());
            oldest.and_then(|oldest| self.origins.remove(&oldest));
        }
        let again = self.origins.contains_key(origin);
        let no_reuse_until = again.then(|| now + NO_REUSE_FOR);
        self.origins.insert(
            origin.to_owned(),
            Lost {
                at: now,
                no_reuse_until,
            },
        );
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lost_connections_within_a_minute_stop_the_reuse_for_ten() {
        let at = Duration::from_secs;
        let mut reuse = Reuse::default();
        assert!(!reuse.note_lost("http://a", at(0)));
        assert!(reuse.is_allowed("http://a", at(1)));
        assert!(
            !reuse.note_lost("http://a", at(61)),
            "more than a minute later"
        );
        assert!(reuse.note_lost("http://a", at(100)));
        assert!(!reuse.is_allowed("http://a", at(699)) && reuse.is_allowed("http://a", at(700)));
        assert!(reuse.is_allowed("http://b", at(200)));
        reuse.note_lost("http://b", at(701));
        assert_eq!(reuse.origins.len(), 1, "what has passed is forgotten");
    }

    #[test]
    fn beyond_the_limit_the_oldest_origin_is_forgotten_and_no_other() {
        let mut reuse = Reuse::default();
        for number in 0..=MAX_ORIGINS {
            let now = Duration::from_micros(number.try_into().unwrap());
            reuse.note_lost(&format!("http://{number}"), now);
        }
        assert_eq!(reuse.origins.len(), MAX_ORIGINS);
        assert!(!reuse.origins.contains_key("http://0") && reuse.origins.contains_key("http://1"));
    }
}
