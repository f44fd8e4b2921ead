//! What a supervisor starts from: the attempts that its endpoint's rate limit still remembers, whoever made
//! them, and the endpoint's health.

use std::time::Duration;

use crate::domain::breaker::Health;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::EndpointId;
use crate::domain::rate_limit::{RateLimit, SlidingWindow};
use crate::store::{AnyConnection, StoreError, query};

/// More rows than the limit of starts, because attempts end in another order than they start: at
/// most this many can be in flight.
const MOST_IN_FLIGHT: i64 = 1000;

/// What the log says of an endpoint.
pub(super) struct Seed {
    /// The limit that `starts` were read for.
    limit: RateLimit,
    starts: Vec<Timestamp>,
    pub(super) health: Health,
}

impl Seed {
    /// Reads it.
    pub(super) fn read(
        conn: &mut AnyConnection,
        id: &EndpointId,
        limit: RateLimit,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let starts = match limit {
            RateLimit::Unlimited => Vec::new(),
            RateLimit::Sliding { starts, period } => {
                // Twice the period: what the window's margin still remembers is in it.
                let since = now - 2 * period.duration();
                query::recent_starts(conn, id, since, i64::from(starts) + MOST_IN_FLIGHT)?
            }
        };
        Ok(Self { limit, starts, health: query::health(conn, id)? })
    }

    /// The limiter that remembers it, and these starts that the log does not hold yet (on the monotonic
    /// clock).
    pub(super) fn limiter(&self, clock: &dyn Clock, unlogged: Vec<Duration>) -> SlidingWindow {
        let (mono, now) = (clock.monotonic(), clock.now());
        // A start in the future, by a stepped clock, counts as now; one before this clock's
        // origin is as far back as it can tell, which only ever waits longer.
        let logged = self.starts.iter().map(|at| mono.saturating_sub(now.since(*at)));
        SlidingWindow::seeded(self.limit, logged.chain(unlogged))
    }
}
