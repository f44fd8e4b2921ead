//! The overview, and the statistics of an endpoint.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Postrider;
use super::views::{EndpointCounts, EndpointStats, EndpointView, Overview};
use crate::domain::delivery::Outcome;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lifecycle::Status;
use crate::domain::series::{self, BUCKETS, Bucket, buckets, percentiles};
use crate::engine::error::Error;
use crate::metrics::ACTIVITY_BUCKET;
use crate::store::{AttemptSample, Unavailable};

/// Maximum number of endpoints in trouble in an overview.
const MAX_TROUBLED: usize = 20;

/// Maximum number of tenants whose overviews are cached.
const MAX_OVERVIEWS: usize = 1000;

impl Postrider {
    /// Returns the overview, or a cached one of at most that age: many viewers cost no more than
    /// one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn recent_overview(
        &self,
        tenant: &Option<Tenant>,
        within: Duration,
    ) -> Result<Arc<Overview>, Error> {
        let overview = {
            let mut all = self
                .inner
                .overviews
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MAX_OVERVIEWS {
                all.clear();
            }
            Arc::clone(all.entry(tenant.clone()).or_default())
        };
        let make = async { self.overview(tenant.clone()).await.map(Arc::new) };
        overview.get(&*self.context().clock, |_| within, make).await
    }

    /// Returns the overview of everything, or of one tenant.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn overview(&self, tenant: Option<Tenant>) -> Result<Overview, Error> {
        let limit = MAX_TROUBLED as i64;
        let troubled = self
            .store()
            .troubled(tenant.clone(), self.now(), limit)
            .await?;
        let mut troubled = self.endpoints_of(troubled).await?;
        troubled.truncate(MAX_TROUBLED);
        match tenant {
            None => self.overview_of_all(troubled).await,
            Some(tenant) => self.overview_of_tenant(&tenant, troubled).await,
        }
    }

    async fn overview_of_all(&self, troubled: Vec<EndpointView>) -> Result<Overview, Error> {
        let census = self.census().await.ok_or(Unavailable::Silent)?;
        let metrics = &self.context().metrics;
        Ok(Overview {
            window: ACTIVITY_BUCKET * BUCKETS,
            series: metrics.activity.series(self.now()),
            waiting: census.waiting,
            in_flight: metrics.in_flight.get().unsigned_abs(),
            held: census.held,
            oldest_waiting_at: census.oldest_waiting_at,
            endpoints: EndpointCounts::of(&census),
            troubled,
        })
    }

    async fn overview_of_tenant(
        &self,
        tenant: &Tenant,
        troubled: Vec<EndpointView>,
    ) -> Result<Overview, Error> {
        let now = self.now();
        let mut series = buckets(now, ACTIVITY_BUCKET);
        let since = series.first().map_or(now, |bucket| bucket.at);
        let activity = self.store().tenant_activity(tenant, since).await?;
        count_conclusive(&mut series, &activity.samples);
        Ok(Overview {
            window: ACTIVITY_BUCKET * BUCKETS,
            series,
            waiting: activity.backlog.pending,
            in_flight: activity.backlog.sending,
            held: activity.backlog.held,
            oldest_waiting_at: activity.backlog.oldest_pending_at,
            endpoints: EndpointCounts::of(&activity.endpoints),
            troubled,
        })
    }

    /// Returns the statistics of an endpoint within a window.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint_stats(
        &self,
        id: &EndpointId,
        window: Duration,
    ) -> Result<EndpointStats, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let now = self.now();
        let history = self
            .store()
            .endpoint_history(&endpoint.id, now - window)
            .await?;
        let mut series = buckets(now, window / BUCKETS);
        count_conclusive(&mut series, &history.samples);
        let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
        let mut took = Vec::with_capacity(history.samples.len());
        for sample in &history.samples {
            *outcomes.entry(sample.outcome).or_default() += 1;
            if sample.outcome.is_conclusive() {
                took.push(sample.ended_at.since(sample.started_at).as_secs_f64() * 1000.0);
            }
        }
        let delivered = outcomes.get(&Outcome::Delivered).copied().unwrap_or(0);
        let deliveries = BTreeMap::from([
            (Status::Pending, history.backlog.pending),
            (Status::Sending, history.backlog.sending),
            (Status::Delivered, delivered),
            (Status::Failed, history.failed),
        ]);
        Ok(EndpointStats {
            deliveries,
            outcomes,
            duration_ms: percentiles(took),
            series,
        })
    }
}

/// Counts the attempts that had an outcome.
fn count_conclusive(series: &mut [Bucket], samples: &[AttemptSample]) {
    for sample in samples
        .iter()
        .filter(|sample| sample.outcome.is_conclusive())
    {
        series::count(
            series,
            sample.ended_at,
            sample.outcome == Outcome::Delivered,
        );
    }
}
