//! What is counted, with names and help texts in one place. Imports the domain only.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::domain::delivery::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: OutcomeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OutcomeLabel(Outcome);

impl EncodeLabelValue for OutcomeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

/// The counters of one engine. Nothing here is global: two engines count apart.
pub(crate) struct Metrics {
    registry: Registry,
    attempts: Family<ByOutcome, Counter>,
    attempt_seconds: Histogram,
    /// Attempts on the wire.
    pub(crate) in_flight: Gauge,
    /// Endpoints that have a supervisor.
    pub(crate) supervisors: Gauge,
    /// Shards of the endpoints that this process sends for.
    pub(crate) shards: Gauge,
    /// Supervisors that were replaced after a panic.
    pub(crate) supervisor_panics: Counter,
    /// Outcomes that came after their claim had been taken away.
    pub(crate) stale_outcomes: Counter,
    /// Events that were stored, duplicates not counted.
    pub(crate) events: Counter,
    commit_members: Histogram,
    commit_seconds: Histogram,
    /// Commits that failed.
    pub(crate) commit_failures: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("postrider");
        let metrics = Self {
            attempts: Family::default(),
            attempt_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            in_flight: Gauge::default(),
            supervisors: Gauge::default(),
            shards: Gauge::default(),
            supervisor_panics: Counter::default(),
            stale_outcomes: Counter::default(),
            events: Counter::default(),
            commit_members: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            commit_failures: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("attempts", "Finished attempts by outcome", metrics.attempts.clone());
        let seconds = |registry: &mut Registry, name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds(&mut registry, "attempt_duration", "How long attempts took", &metrics.attempt_seconds);
        seconds(&mut registry, "commit_duration", "How long commits took", &metrics.commit_seconds);
        registry.register("commit_members", "Requests that shared a commit", metrics.commit_members.clone());
        registry.register("commit_failures", "Commits that failed", metrics.commit_failures.clone());
        registry.register("in_flight", "Attempts on the wire", metrics.in_flight.clone());
        registry.register("supervisors", "Endpoints with live work", metrics.supervisors.clone());
        let shards = metrics.shards.clone();
        registry.register("shards", "Shards of the endpoints that this node sends for", shards);
        let panics = metrics.supervisor_panics.clone();
        registry.register("supervisor_panics", "Supervisors replaced after a panic", panics);
        let stale = metrics.stale_outcomes.clone();
        registry.register("stale_outcomes", "Outcomes dropped because their claim was gone", stale);
        registry.register("events", "Events stored", metrics.events.clone());
        Self { registry, ..metrics }
    }

    pub(crate) fn attempt(&self, outcome: Outcome, seconds: f64) {
        self.attempts.get_or_create(&ByOutcome { outcome: OutcomeLabel(outcome) }).inc();
        self.attempt_seconds.observe(seconds);
    }

    pub(crate) fn commit(&self, members: usize, seconds: f64) {
        self.commit_members.observe(members as f64);
        self.commit_seconds.observe(seconds);
    }

    /// The OpenMetrics text of all of them.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
