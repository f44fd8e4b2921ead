//! What a supervisor starts from: the attempts that its endpoint's rate limit still remembers,
//! whoever made them, and the endpoint's health.

use std::time::Duration;

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::EndpointId;
use crate::domain::rate_limit::{RateLimit, SlidingWindow};
use crate::store::query::StoredHealth;
use crate::store::{AnyConnection, StoreError, query};

/// More rows than the limit of starts, because attempts end in another order than they start: at
/// most this many can be in flight.
const MOST_IN_FLIGHT: i64 = 1000;

/// What the log says of an endpoint.
pub(super) struct Seed {
    /// The limit that `starts` were read for.
    limit: RateLimit,
    starts: Vec<Timestamp>,
    pub(super) health: StoredHealth,
}

impl Seed {
    /// Reads it.
    pub(super) fn read(
        conn: &mut AnyConnection,
        id: &EndpointId,
        limit: RateLimit,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let now = clock.now();
        let starts = match limit {
            RateLimit::Unlimited => Vec::new(),
            RateLimit::Sliding { starts, period } => {
                // Twice the period: what the window's margin still remembers is in it.
                let since = now - 2 * period.duration();
                query::recent_starts(conn, id, since, i64::from(starts) + MOST_IN_FLIGHT)?
            }
        };
        let stored = query::health(conn, id)?;
        let health = stored.health.within_reach(clock.schedule_now());
        if health != stored.health {
            tracing::warn!(endpoint = %id, "a rest or probe of {id} was stored for a time beyond reach: was the clock set back?");
        }
        Ok(Self {
            limit,
            starts,
            health: StoredHealth { health, ..stored },
        })
    }

    /// The limiter that remembers it, and these starts that the log does not hold yet (on the
    /// monotonic clock).
    pub(super) fn limiter(&self, clock: &dyn Clock, unlogged: Vec<Duration>) -> SlidingWindow {
        let (mono, now) = (clock.monotonic(), clock.now());
        // A start in the future, by a stepped clock, counts as now; one before this clock's
        // origin is as far back as it can tell, which only ever waits longer.
        let logged = self
            .starts
            .iter()
            .map(|at| mono.saturating_sub(now.since(*at)));
        SlidingWindow::seeded(self.limit, logged.chain(unlogged))
    }
}
