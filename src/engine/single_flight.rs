//! An expensive value that concurrent callers share, with a cache.

use std::time::Duration;

use tokio::sync::Mutex;

use crate::domain::clock::Clock;

/// A value, with the monotonic times of its request and its completion.
struct Made<T> {
    value: T,
    asked: Duration,
    made: Duration,
}

/// A value that is computed once for all concurrent callers.
pub(crate) struct SingleFlight<T> {
    last: Mutex<Option<Made<T>>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self {
            last: Mutex::new(None),
        }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// Returns the last value while `max_age`, given the duration of its computation, allows its
    /// age; else a new one. Errors are not cached.
    pub(crate) async fn get<E>(
        &self,
        clock: &dyn Clock,
        max_age: impl Fn(Duration) -> Duration,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut last = self.last.lock().await;
        let asked = clock.monotonic();
        if let Some(last) = &*last {
            let took = last.made.saturating_sub(last.asked);
            if asked.saturating_sub(last.made) < max_age(took) {
                return Ok(last.value.clone());
            }
        }
        let value = make.await?;
        *last = Some(Made {
            value: value.clone(),
            asked,
            made: clock.monotonic(),
        });
        Ok(value)
    }
}
