//! What metrics need of the database: looked up when they are read, kept for some seconds, and
//! never in the way of deliveries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::Postrider;
use crate::domain::census::Census;
use crate::metrics::{MetricsFormat, Seen};
use crate::store::query;

/// How long a count is shown, at least.
const KEPT: Duration = Duration::from_secs(5);

/// It is shown as much longer than it took: counting takes a twentieth of the time at most.
const REST: u32 = 20;

/// How long metrics wait for it: less than Prometheus waits for metrics.
const PATIENCE: Duration = Duration::from_secs(4);

/// The last count, and until when it is shown. `None`: the database did not answer.
pub(super) type LastCensus = Mutex<Option<(Duration, Option<Arc<Census>>)>>;

impl Postrider {
    /// The engine's metrics, as text.
    ///
    /// Some of it is looked up in the database, at most once in five seconds. Where that does not
    /// answer, those are missing, and `postrider_database_up` is 0.
    pub async fn metrics(&self, format: MetricsFormat) -> String {
        let census = self.census().await;
        let refused = self.shared.committer.recent_refusal().is_some();
        let seen = Seen {
            database_up: census.is_some() && !refused,
            census,
            now: self.now(),
        };
        self.shared.metrics.encode(format, &seen)
    }

    /// Whoever asks meanwhile waits for the same count.
    pub(super) async fn census(&self) -> Option<Arc<Census>> {
        let clock = &self.shared.clock;
        let mut last = self.shared.census.lock().await;
        let asked = clock.monotonic();
        if let Some((until, census)) = &*last
            && asked < *until
        {
            return census.clone();
        }
        let read = self.read("census", |conn, _| query::census(conn));
        let census = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(census)) => Some(Arc::new(census)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "what waits could not be counted");
                None
            }
            Err(_) => {
                tracing::debug!("what waits could not be counted in time");
                None
            }
        };
        let now = clock.monotonic();
        *last = Some((
            now + KEPT.max(now.saturating_sub(asked) * REST),
            census.clone(),
        ));
        census
    }
}
