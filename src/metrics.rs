//! The metrics of an engine, with names and help texts in one place. Imports the domain only.
//!
//! Label values are fixed by these sources: none grows with the data.

mod activity;
mod text;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::activity::ACTIVITY_BUCKET;
use self::activity::Activity;
pub use self::text::MetricsFormat;
use crate::domain::breaker::BreakerState;
use crate::domain::census::Census;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::endpoint::PauseReason;
use crate::domain::lifecycle::{FailureReason, State};
use crate::domain::words;

const PREFIX: &str = "postrider";

/// Pause reason of endpoints that are not paused.
const NOT_PAUSED: &str = "none";

words! {
    /// A change of a shard's lease.
    LeaseChange {
        /// This process took it.
        Taken = "taken",
        /// This process released it for another one.
        GivenBack = "given_back",
        /// This process could not renew it.
        Lost = "lost",
    }
}

/// A metric's single label: name and value.
type Label = [(&'static str, &'static str); 1];

/// The metrics of one engine. Nothing is global: two engines count separately.
pub(crate) struct Metrics {
    registry: Registry,
    /// Recent attempts of this process.
    pub(crate) activity: Activity,
    /// One per outcome, in declaration order.
    attempts: Vec<Counter>,
    attempt_seconds: Histogram,
    delivered: Counter,
    /// One per reason, in declaration order.
    failed: Vec<Counter>,
    /// Attempts in flight.
    pub(crate) in_flight: Gauge,
    /// Endpoints with a supervisor.
    pub(crate) supervisors: Gauge,
    /// Shards leased by this process.
    pub(crate) shards: Gauge,
    /// One per kind of change, in declaration order.
    lease_changes: Vec<Counter>,
    /// Supervisors replaced after a panic.
    pub(crate) supervisor_panics: Counter,
    /// Outcomes dropped because their claim had been reclaimed.
    pub(crate) stale_outcomes: Counter,
    /// Stored events, without duplicates.
    pub(crate) events: Counter,
    /// Events that had already been published.
    pub(crate) duplicates: Counter,
    commit_members: Histogram,
    commit_seconds: Histogram,
    /// Failed commits.
    pub(crate) commit_failures: Counter,
    /// Times that the database refused writes.
    pub(crate) refusals: Counter,
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a list of metrics")]
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let all = &mut registry;
        let build = Family::<Label, Gauge>::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        all.register("build_info", "Version of the running release", build);
        let outcomes = Outcome::ALL.iter().map(|word| word.as_str());
        let reasons = FailureReason::ALL.iter().map(|word| word.as_str());
        let changes = LeaseChange::ALL.iter().map(|word| word.as_str());
        let changed = "Shard leases that this node took, gave back or lost";
        let given_up = "Failed deliveries by reason";
        let attempt_buckets = exponential_buckets(0.001, 2.0, 16);
        let commit_buckets = exponential_buckets(0.000_1, 2.0, 16);
        Self {
            attempts: counters(
                all,
                "attempts",
                "Finished attempts by outcome",
                "outcome",
                outcomes,
            ),
            attempt_seconds: seconds(
                all,
                "attempt_duration",
                "Duration of attempts",
                attempt_buckets,
            ),
            delivered: counter(all, "deliveries_delivered", "Successful deliveries"),
            failed: counters(all, "deliveries_failed", given_up, "reason", reasons),
            in_flight: gauge(all, "in_flight", "Attempts in flight"),
            supervisors: gauge(all, "supervisors", "Endpoints with a running supervisor"),
            shards: gauge(
                all,
                "shards",
                "Shards of the endpoints that this node sends for",
            ),
            lease_changes: counters(all, "lease_changes", changed, "change", changes),
            supervisor_panics: counter(
                all,
                "supervisor_panics",
                "Supervisors replaced after a panic",
            ),
            stale_outcomes: counter(
                all,
                "stale_outcomes",
                "Outcomes dropped because their claim was gone",
            ),
            events: counter(all, "events", "Events stored"),
            duplicates: counter(
                all,
                "duplicate_events",
                "Events that had already been published",
            ),
            commit_members: {
                let histogram = Histogram::new(exponential_buckets(1.0, 2.0, 12));
                all.register(
                    "commit_members",
                    "Requests that shared a commit",
                    histogram.clone(),
                );
                histogram
            },
            commit_seconds: seconds(
                all,
                "commit_duration",
                "Duration of commits",
                commit_buckets,
            ),
            commit_failures: counter(all, "commit_failures", "Failed commits"),
            refusals: counter(
                all,
                "database_refusals",
                "Times that the database refused writes",
            ),
            activity: Activity::default(),
            registry,
        }
    }

    pub(crate) fn attempt(&self, outcome: Outcome, ended_at: Timestamp, seconds: f64) {
        if outcome.is_conclusive() {
            self.activity.note(ended_at, outcome);
        }
        raise(&self.attempts, outcome as usize, 1);
        self.attempt_seconds.observe(seconds);
    }

    /// Counts a delivery that reached `state`, by an attempt or manually.
    pub(crate) fn reached(&self, state: State) {
        match state {
            State::Delivered => {
                self.delivered.inc();
            }
            State::Failed(reason) => self.given_up(reason, 1),
            State::Pending(_) | State::Sending => {}
        }
    }

    pub(crate) fn given_up(&self, reason: FailureReason, deliveries: usize) {
        raise(&self.failed, reason as usize, deliveries);
    }

    pub(crate) fn leases(&self, change: LeaseChange, shards: usize) {
        raise(&self.lease_changes, change as usize, shards);
    }

    pub(crate) fn commit(&self, members: usize, seconds: f64) {
        self.commit_members.observe(members as f64);
        self.commit_seconds.observe(seconds);
    }

    /// Encodes all metrics, including the readings in `seen`.
    pub(crate) fn encode(&self, format: MetricsFormat, seen: &ScrapedValues) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &seen.registry()))
            .and_then(|()| encode_eof(&mut text));
        match format {
            MetricsFormat::OpenMetrics => text,
            MetricsFormat::Text => text::classic(&text),
        }
    }
}

/// Values that are read for each scrape instead of being counted.
pub(crate) struct ScrapedValues {
    /// `None` if the database did not answer: a missing value is better than a stale one.
    pub(crate) census: Option<Arc<Census>>,
    pub(crate) database_up: bool,
    /// The largest recent lag of each sending thread, with its number.
    pub(crate) lags: Vec<(usize, Duration)>,
    pub(crate) now: Timestamp,
}

impl ScrapedValues {
    fn register_lags(&self, registry: &mut Registry) {
        let lags = Family::<[(&str, String); 1], Gauge<f64, AtomicU64>>::default();
        for (thread, lag) in &self.lags {
            lags.get_or_create(&[("thread", thread.to_string())])
                .set(lag.as_secs_f64());
        }
        let help = "Largest lag of a sending thread in the last seconds";
        registry.register_with_unit("sending_lag", help, Unit::Seconds, lags);
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        let up = gauge(
            &mut registry,
            "database_up",
            "1 if the database answers and accepts writes",
        );
        up.set(self.database_up.into());
        self.register_lags(&mut registry);
        let Some(census) = &self.census else {
            return registry;
        };
        let set = |gauge: Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(
            gauge(
                &mut registry,
                "waiting",
                "Pending deliveries, counted up to a million",
            ),
            census.waiting,
        );
        set(
            gauge(&mut registry, "held", "Deliveries on hold until released"),
            census.held,
        );
        let age = Gauge::<f64, AtomicU64>::default();
        age.set(
            census
                .oldest_waiting_at
                .map_or(0.0, |at| self.now.since(at).as_secs_f64()),
        );
        let oldest = "Age of the oldest pending delivery";
        registry.register_with_unit("oldest_waiting", oldest, Unit::Seconds, age);

        let endpoints = Family::<Label, Gauge>::default();
        let reasons = PauseReason::ALL.iter().copied().map(Some).chain([None]);
        for reason in reasons {
            let count = census.endpoints.get(&reason).copied().unwrap_or_default();
            let word = reason.map_or(NOT_PAUSED, PauseReason::as_str);
            set(
                endpoints.get_or_create_owned(&[("pause_reason", word)]),
                count,
            );
        }
        registry.register("endpoints", "Endpoints by pause reason", endpoints);
        let breakers = Family::<Label, Gauge>::default();
        for state in BreakerState::ALL {
            let count = census.breakers.get(state).copied().unwrap_or_default();
            set(
                breakers.get_or_create_owned(&[("state", state.as_str())]),
                count,
            );
        }
        registry.register(
            "breakers",
            "Endpoints that are not paused, by breaker state",
            breakers,
        );
        registry
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn seconds(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: impl Iterator<Item = f64>,
) -> Histogram {
    let histogram = Histogram::new(buckets);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

/// Registers one counter per word. All start at zero, so that a rate can be computed from the
/// first event.
fn counters(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    words: impl Iterator<Item = &'static str>,
) -> Vec<Counter> {
    let family = Family::<Label, Counter>::default();
    let each = words
        .map(|word| family.get_or_create_owned(&[(label, word)]))
        .collect();
    registry.register(name, help, family);
    each
}

fn raise(counters: &[Counter], index: usize, by: usize) {
    if let Some(counter) = counters.get(index) {
        counter.inc_by(u64::try_from(by).unwrap_or(u64::MAX));
    }
}
