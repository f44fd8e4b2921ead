//! What people look at: how all of it is doing, and how one endpoint has been doing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{EndpointQuery, EndpointView, Error, Postrider};
use crate::domain::breaker::BreakerState;
use crate::domain::census::Census;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lifecycle::Status;
use crate::domain::recovery::Include;
use crate::store::query::{self, Sample};

/// Into how many spans a series is cut.
const BUCKETS: u32 = 30;
/// How long a span of the overview is.
const OVERVIEW_BUCKET: Duration = Duration::from_secs(10);
/// How many endpoints in trouble an overview names.
const TROUBLED: usize = 20;
/// Of how many tenants overviews are kept.
const MOST_OVERVIEWS: usize = 1000;
/// The most endpoints of one tenant that an overview adds up.
const ADDED_UP: i64 = 250;

/// The attempts that ended within one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// Where it begins.
    pub at: Timestamp,
    /// How many got a 2xx.
    pub delivered: u64,
    /// How many did not.
    pub failed: u64,
}

/// Where the span begins that holds `at`.
fn begin(at: Timestamp, each: Duration) -> Timestamp {
    let span = i64::try_from(each.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(at.as_micros() / span * span)
}

/// Spans up to now, oldest first, without anything in them.
fn buckets(now: Timestamp, each: Duration) -> Vec<Bucket> {
    let last = begin(now, each);
    (0..BUCKETS)
        .rev()
        .map(|back| Bucket {
            at: last - each * back,
            delivered: 0,
            failed: 0,
        })
        .collect()
}

/// Counts an attempt where it belongs, if it is not too old.
fn count(buckets: &mut [Bucket], at: Timestamp, delivered: bool) {
    if let Some(bucket) = buckets.iter_mut().rev().find(|bucket| bucket.at <= at) {
        *(if delivered {
            &mut bucket.delivered
        } else {
            &mut bucket.failed
        }) += 1;
    }
}

/// What this process has sent lately, by the tenth second.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<VecDeque<Bucket>>);

impl Activity {
    pub(super) fn note(&self, at: Timestamp, outcome: Outcome) {
        let start = begin(at, OVERVIEW_BUCKET);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.back().is_none_or(|last| last.at < start) {
            kept.push_back(Bucket {
                at: start,
                delivered: 0,
                failed: 0,
            });
            while kept.len() > BUCKETS as usize {
                kept.pop_front();
            }
        }
        count(kept.make_contiguous(), at, outcome == Outcome::Delivered);
    }

    fn series(&self, now: Timestamp) -> Vec<Bucket> {
        let mut series = buckets(now, OVERVIEW_BUCKET);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in &mut series {
            if let Some(found) = kept.iter().find(|found| found.at == bucket.at) {
                *bucket = *found;
            }
        }
        series
    }
}

/// The overview that was made last, and when.
type LastOverview = Arc<tokio::sync::Mutex<Option<(Duration, Arc<Overview>)>>>;

/// Overviews, each for as long as it is shown to others who ask.
pub(super) type Overviews = Mutex<HashMap<Option<Tenant>, LastOverview>>;

/// How many endpoints there are, and how they are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointCounts {
    /// All of them.
    pub total: u64,
    /// Those that may be sent to and whose breaker is closed.
    pub active: u64,
    /// Those that are paused.
    pub paused: u64,
    /// Those that may be sent to and whose breaker is not closed.
    pub failing: u64,
}

impl EndpointCounts {
    fn of(census: &Census) -> Self {
        let counted = |paused: bool| {
            let matching = census
                .endpoints
                .iter()
                .filter(move |(reason, _)| reason.is_some() == paused);
            matching.map(|(_, count)| count).sum::<u64>()
        };
        let open = census
            .breakers
            .iter()
            .filter(|(state, _)| **state != BreakerState::Closed);
        let failing: u64 = open.map(|(_, count)| count).sum();
        let (paused, running) = (counted(true), counted(false));
        Self {
            total: paused + running,
            active: running.saturating_sub(failing),
            paused,
            failing,
        }
    }
}

/// How all of it is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Overview {
    /// The time that `series` tells of.
    pub window: Duration,
    /// The attempts of that time: of this process, or of one tenant's endpoints.
    pub series: Vec<Bucket>,
    /// Deliveries that wait. The count stops at a million.
    pub waiting: u64,
    /// Attempts on the wire, of this process.
    pub in_flight: u64,
    /// Deliveries that wait for a person.
    pub held: u64,
    /// When the oldest of those that wait was published.
    pub oldest_waiting_at: Option<Timestamp>,
    /// The endpoints.
    pub endpoints: EndpointCounts,
    /// Those that a person should look at.
    pub troubled: Vec<EndpointView>,
}

/// How an endpoint has been doing within a window of time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Deliveries by state: what waits and is sent now, what ended within the window.
    pub deliveries: BTreeMap<Status, u64>,
    /// Attempts that ended within the window, by outcome. The latest 100,000.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// How long the half, 95 and 99 of a hundred of them took at most, in milliseconds.
    pub duration_ms: Option<[f64; 3]>,
    /// The attempts by time.
    pub series: Vec<Bucket>,
}

/// What a recovery would bring back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryPreview {
    /// Deliveries that were given up.
    pub failed: u64,
    /// Events that the endpoint never got.
    pub missing: u64,
    /// There may be more: counting stops at 100,000.
    pub capped: bool,
}

impl Postrider {
    /// As [`overview`](Self::overview), or one that was made for somebody else within that time:
    /// many who look cost no more than one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn recent_overview(
        &self,
        tenant: &Option<Tenant>,
        within: Duration,
    ) -> Result<Arc<Overview>, Error> {
        let last = {
            let mut all = self
                .shared
                .overviews
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MOST_OVERVIEWS {
                all.clear();
            }
            Arc::clone(all.entry(tenant.clone()).or_default())
        };
        // Who comes while it is being made waits for that one.
        let mut last = last.lock().await;
        let now = self.shared.clock.monotonic();
        if let Some((at, overview)) = &*last
            && now.saturating_sub(*at) < within
        {
            return Ok(Arc::clone(overview));
        }
        let overview = Arc::new(self.overview(tenant.clone()).await?);
        *last = Some((self.shared.clock.monotonic(), Arc::clone(&overview)));
        Ok(overview)
    }

    /// How all of it is doing; with `tenant`, all of that tenant's.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn overview(&self, tenant: Option<Tenant>) -> Result<Overview, Error> {
        let now = self.now();
        let (limit, of) = (TROUBLED as i64, tenant.clone());
        let ids = self
            .read("endpoints in trouble", move |conn, _| {
                query::troubled(conn, of.as_ref(), now, limit)
            })
            .await?;
        let mut troubled = Vec::new();
        for id in ids {
            match self.endpoint(&id).await {
                Ok(view) => troubled.push(view),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        troubled.truncate(TROUBLED);
        match tenant {
            None => self.overview_of_all(troubled).await,
            Some(tenant) => self.overview_of_tenant(tenant, troubled).await,
        }
    }

    async fn overview_of_all(&self, troubled: Vec<EndpointView>) -> Result<Overview, Error> {
        let census = self
            .census()
            .await
            .ok_or(crate::store::Unavailable::Silent)?;
        Ok(Overview {
            window: OVERVIEW_BUCKET * BUCKETS,
            series: self.shared.activity.series(self.now()),
            waiting: census.waiting,
            in_flight: self.shared.metrics.in_flight.get().unsigned_abs(),
            held: census.held,
            oldest_waiting_at: census.oldest_waiting_at,
            endpoints: EndpointCounts::of(&census),
            troubled,
        })
    }

    async fn overview_of_tenant(
        &self,
        tenant: Tenant,
        troubled: Vec<EndpointView>,
    ) -> Result<Overview, Error> {
        let of = tenant.clone();
        let census = self
            .read("endpoints", move |conn, _| {
                query::endpoint_census(conn, &of)
            })
            .await?;
        let list = EndpointQuery {
            tenant: Some(tenant),
            limit: ADDED_UP,
            ..EndpointQuery::default()
        };
        let (views, _) = self.endpoints(list).await?;
        let now = self.now();
        let mut series = buckets(now, OVERVIEW_BUCKET);
        let since = series.first().map_or(now, |bucket| bucket.at);
        let (mut waiting, mut in_flight, mut held, mut oldest) = (0, 0, 0, None::<Timestamp>);
        for view in views {
            let backlog = view.health.backlog;
            waiting += backlog.pending;
            in_flight += backlog.sending;
            held += backlog.held;
            oldest = [oldest, backlog.oldest_pending_at]
                .into_iter()
                .flatten()
                .min();
            let samples = self.samples(&view.endpoint.id, since).await?;
            for sample in samples
                .into_iter()
                .filter(|sample| sample.outcome.is_conclusive())
            {
                count(
                    &mut series,
                    sample.ended_at,
                    sample.outcome == Outcome::Delivered,
                );
            }
        }
        Ok(Overview {
            window: OVERVIEW_BUCKET * BUCKETS,
            series,
            waiting,
            in_flight,
            held,
            oldest_waiting_at: oldest,
            endpoints: EndpointCounts::of(&census),
            troubled,
        })
    }

    async fn samples(&self, id: &EndpointId, since: Timestamp) -> Result<Vec<Sample>, Error> {
        let id = id.clone();
        Ok(self
            .read("attempts", move |conn, _| query::samples(conn, &id, since))
            .await?)
    }

    /// How an endpoint has been doing for that long.
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
        let since = now - window;
        let of = endpoint.id.clone();
        let (samples, failed, backlog) = self
            .read("statistics", move |conn, _| {
                let failed = query::failed_since(conn, &of, since)?;
                Ok((
                    query::samples(conn, &of, since)?,
                    failed,
                    query::backlog(conn, &of)?,
                ))
            })
            .await?;
        let mut stats = EndpointStats {
            deliveries: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            duration_ms: None,
            series: buckets(now, window / BUCKETS),
        };
        let mut took = Vec::with_capacity(samples.len());
        for Sample {
            started_at,
            ended_at,
            outcome,
        } in samples
        {
            *stats.outcomes.entry(outcome).or_default() += 1;
            if outcome.is_conclusive() {
                count(&mut stats.series, ended_at, outcome == Outcome::Delivered);
                took.push(ended_at.since(started_at).as_secs_f64() * 1000.0);
            }
        }
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)];
        stats.duration_ms = (!took.is_empty()).then(|| [at(0.5), at(0.95), at(0.99)]);
        let delivered = stats
            .outcomes
            .get(&Outcome::Delivered)
            .copied()
            .unwrap_or(0);
        stats.deliveries = BTreeMap::from([
            (Status::Pending, backlog.pending),
            (Status::Sending, backlog.sending),
            (Status::Delivered, delivered),
            (Status::Failed, failed),
        ]);
        Ok(stats)
    }

    /// What [`recover_endpoint`](Self::recover_endpoint) would bring back. Changes nothing.
    ///
    /// # Errors
    /// As that.
    pub async fn preview_recovery(
        &self,
        id: &EndpointId,
        include: Include,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<RecoveryPreview, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let recovery = super::recovery::asked_for(&endpoint, include, since, until, self.now())?;
        let wants = endpoint.settings.event_types;
        let (failed, missing, capped) = self
            .read("recoverable", move |conn, _| {
                query::recoverable(conn, &recovery, &wants)
            })
            .await?;
        Ok(RecoveryPreview {
            failed,
            missing,
            capped,
        })
    }
}
