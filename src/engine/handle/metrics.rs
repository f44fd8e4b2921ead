//! Metrics. Counts are read from the database on request, cached for some seconds, and never delay
//! deliveries.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::Postrider;
use crate::domain::census::Census;
use crate::metrics::{MetricsFormat, ScrapedValues};

/// Minimum time for which a count is cached.
const CENSUS_MIN_AGE: Duration = Duration::from_secs(5);

/// A count is cached for this many times its duration: counting takes at most a twentieth of the
/// time.
const CENSUS_MIN_REST_FACTOR: u32 = 20;

/// Maximum wait of metrics for a count: less than Prometheus' scrape timeout.
const CENSUS_TIMEOUT: Duration = Duration::from_secs(4);

impl Postrider {
    /// Returns the engine's metrics, as text.
    ///
    /// Some metrics are counted in the database, at most once in five seconds. If it does not
    /// respond, they are missing, and `postrider_database_up` is 0.
    pub async fn metrics(&self, format: MetricsFormat) -> String {
        let census = self.census().await;
        let refused = self.context().committer.recent_refusal().is_some();
        let database_up = census.is_some() && !refused;
        let seen = ScrapedValues {
            database_up,
            census,
            lags: self.context().threads.lags(),
            now: self.now(),
        };
        self.context().metrics.encode(format, &seen)
    }

    /// Returns the database counts; `None` if it does not respond.
    pub(super) async fn census(&self) -> Option<Arc<Census>> {
        let max_age = |took: Duration| CENSUS_MIN_AGE.max(took * CENSUS_MIN_REST_FACTOR);
        let count = async { Ok::<_, Infallible>(self.count().await) };
        let clock = &*self.context().clock;
        let Ok(census) = self.inner.census.get(clock, max_age, count).await;
        census
    }

    async fn count(&self) -> Option<Arc<Census>> {
        match tokio::time::timeout(CENSUS_TIMEOUT, self.store().census()).await {
            Ok(Ok(census)) => Some(Arc::new(census)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "pending deliveries could not be counted");
                None
            }
            Err(_) => {
                tracing::debug!("pending deliveries could not be counted in time");
                None
            }
        }
    }
}
