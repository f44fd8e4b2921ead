//! Virtual time.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::clock::{Clock, ORIGIN_AGE, Timestamp};

/// A clock that follows tokio's: it pauses and jumps with it.
#[derive(Debug)]
pub struct TokioClock {
    base: Timestamp,
    origin: Instant,
}

impl TokioClock {
    /// Creates a clock that shows `base` now. Must be called inside the runtime that it follows.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Self {
        Self {
            base,
            origin: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.base + self.origin.elapsed()
    }

    fn monotonic(&self) -> Duration {
        ORIGIN_AGE + self.origin.elapsed()
    }
}

/// Lets `duration` pass on tokio's clock, immediately if that is paused.
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs `test` in an actix `System` with a paused clock, which jumps whenever nothing else is left
/// to do: an hour takes only as long as the work in it.
///
/// # Panics
/// Panics if the runtime cannot be built.
pub fn on_virtual_time<F: Future>(test: F) -> F::Output {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder
            .enable_all()
            .start_paused(true)
            .build()
            .expect("an I/O driver")
    };
    actix::System::with_tokio_rt(runtime).block_on(test)
}
