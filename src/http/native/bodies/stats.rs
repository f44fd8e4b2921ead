//! Bodies of statistics: the overview, and one endpoint's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::endpoint::EndpointBody;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::lifecycle::Status;
use crate::engine::{Bucket, EndpointStats, Overview};

/// Attempts within one interval.
#[derive(Serialize, ToSchema)]
#[schema(as = Bucket)]
pub(crate) struct BucketBody {
    pub(crate) at: Timestamp,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
}

impl BucketBody {
    pub(crate) fn all(series: &[Bucket]) -> Vec<Self> {
        let body = |Bucket {
                        at,
                        delivered,
                        failed,
                    }: &Bucket| Self {
            at: *at,
            delivered: *delivered,
            failed: *failed,
        };
        series.iter().map(body).collect()
    }
}

/// `None` without attempts.
fn success_rate(delivered: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| delivered as f64 / total as f64)
}

#[derive(Serialize, ToSchema)]
#[schema(as = AttemptCounts)]
pub(crate) struct AttemptsBody {
    pub(crate) total: u64,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = EndpointCounts)]
pub(crate) struct EndpointsBody {
    pub(crate) total: u64,
    pub(crate) active: u64,
    pub(crate) paused: u64,
    pub(crate) failing: u64,
}

/// A summary of traffic and of endpoints in trouble.
#[derive(Serialize, ToSchema)]
#[schema(as = Overview)]
pub(crate) struct OverviewBody {
    pub(crate) window_s: u64,
    pub(crate) attempts: AttemptsBody,
    pub(crate) success_rate: Option<f64>,
    pub(crate) throughput_per_s: f64,
    pub(crate) series: Vec<BucketBody>,
    pub(crate) waiting: u64,
    pub(crate) in_flight: u64,
    pub(crate) held: u64,
    pub(crate) oldest_waiting_at: Option<Timestamp>,
    pub(crate) endpoints: EndpointsBody,
    pub(crate) troubled: Vec<EndpointBody>,
}

impl OverviewBody {
    pub(crate) fn new(overview: &Overview) -> Self {
        let (delivered, failed) = overview.series.iter().fold((0, 0), |(good, bad), one| {
            (good + one.delivered, bad + one.failed)
        });
        let window_s = overview.window.as_secs();
        let counts = overview.endpoints;
        Self {
            window_s,
            attempts: AttemptsBody {
                total: delivered + failed,
                delivered,
                failed,
            },
            success_rate: success_rate(delivered, delivered + failed),
            throughput_per_s: (delivered + failed) as f64 / window_s.max(1) as f64,
            series: BucketBody::all(&overview.series),
            waiting: overview.waiting,
            in_flight: overview.in_flight,
            held: overview.held,
            oldest_waiting_at: overview.oldest_waiting_at,
            endpoints: EndpointsBody {
                total: counts.total,
                active: counts.active,
                paused: counts.paused,
                failing: counts.failing,
            },
            troubled: overview
                .troubled
                .iter()
                .cloned()
                .map(EndpointBody::new)
                .collect(),
        }
    }
}

/// Durations in milliseconds.
#[derive(Serialize, ToSchema)]
#[schema(as = Percentiles)]
pub(crate) struct DurationBody {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

/// Recent statistics of an endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointStats)]
pub(crate) struct StatsBody {
    pub(crate) window_s: u64,
    /// Deliveries by status.
    #[schema(value_type = BTreeMap<String, u64>)]
    deliveries: BTreeMap<Status, u64>,
    /// Attempts by outcome.
    #[schema(value_type = BTreeMap<String, u64>)]
    outcomes: BTreeMap<Outcome, u64>,
    pub(crate) attempts: u64,
    pub(crate) success_rate: Option<f64>,
    pub(crate) duration_ms: Option<DurationBody>,
    pub(crate) series: Vec<BucketBody>,
}

impl StatsBody {
    pub(crate) fn new(stats: EndpointStats, window: Duration) -> Self {
        let counted = stats
            .outcomes
            .iter()
            .filter(|(outcome, _)| outcome.is_conclusive());
        let attempts = counted.map(|(_, count)| count).sum();
        let delivered = stats
            .outcomes
            .get(&Outcome::Delivered)
            .copied()
            .unwrap_or(0);
        Self {
            window_s: window.as_secs(),
            deliveries: stats.deliveries,
            outcomes: stats.outcomes,
            attempts,
            success_rate: success_rate(delivered, attempts),
            duration_ms: stats
                .duration_ms
                .map(|[p50, p95, p99]| DurationBody { p50, p95, p99 }),
            series: BucketBody::all(&stats.series),
        }
    }
}
