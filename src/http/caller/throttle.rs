//! A limit on wrong credentials per network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::rate_limit::{Period, RateLimit, SlidingWindow};

/// Wrong credentials that a network may send per minute.
const MAX_FAILURES: u32 = 100;

/// Networks whose failures are remembered.
const MAX_NETWORKS: usize = 4096;

type Windows = HashMap<IpAddr, SlidingWindow>;

/// Wrong credentials by network. Valid ones are always accepted: a flood of wrong tokens through a
/// proxy locks nobody out, and 32 random bytes cannot be guessed at any rate.
#[derive(Debug)]
pub(super) struct Throttle {
    origin: Instant,
    by_network: Mutex<Windows>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            by_network: Mutex::default(),
        }
    }
}

impl Throttle {
    // A panic in here leaves at worst one window out of date, so a poisoned lock still serves.
    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.by_network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true while the address's network is below the limit.
    pub(super) fn has_room(&self, address: IpAddr) -> bool {
        let now = self.origin.elapsed();
        let mut windows = self.windows();
        let window = windows.get_mut(&network(address));
        window.is_none_or(|window| window.available(now) > 0)
    }

    /// Counts one wrong credential, or returns the time to wait.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), Duration> {
        let now = self.origin.elapsed();
        let mut windows = self.windows();
        if windows.len() >= MAX_NETWORKS {
            windows.retain(|_, window| window.available(now) < MAX_FAILURES);
            if windows.len() >= MAX_NETWORKS {
                windows.clear();
            }
        }
        let limit = RateLimit::Sliding {
            starts: MAX_FAILURES,
            period: Period::Minute,
        };
        let window = windows
            .entry(network(address))
            .or_insert_with(|| SlidingWindow::seeded(limit, []));
        if let Some(wait) = window.wait(now) {
            return Err(wait);
        }
        window.start(now);
        if window.available(now) == 0 {
            tracing::warn!(%address, "{MAX_FAILURES} wrong tokens from {address} within a minute");
        }
        Ok(())
    }
}

/// Returns the network of an address: one IPv6 subscriber has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}
