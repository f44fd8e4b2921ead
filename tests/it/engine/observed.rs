//! What can be seen of it from outside: metrics that follow what happens, and traces that go on to
//! the receiver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use postrider::domain::event::NewEvent;
use postrider::domain::lifecycle::Status;
use postrider::domain::trace::TraceParent;
use postrider::testing::{Reply, on_virtual_time, pass};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::engine::{TestEngine, event, secs};

#[test]
fn metrics_follow_what_becomes_of_deliveries() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"event_types": ["good"]}"#).await;
        engine
            .endpoint(2, r#"{"event_types": ["bad"], "retry_delays_s": [10]}"#)
            .await;
        engine.always(2, Reply::status(500));
        let good = event("good", "1");
        engine.postrider().publish(good.clone()).await.unwrap();
        engine.postrider().publish(good).await.unwrap();
        let bad = engine.publish_one("bad").await;
        pass(secs(6)).await;
        assert_eq!(engine.metric("postrider_events_total").await, 2.0);
        assert_eq!(engine.metric("postrider_duplicate_events_total").await, 1.0);
        assert_eq!(
            engine.metric("postrider_deliveries_delivered_total").await,
            1.0
        );
        assert_eq!(engine.metric("postrider_waiting").await, 1.0);
        let age = engine.metric("postrider_oldest_waiting_seconds").await;
        assert!((6.0..7.0).contains(&age), "{age}");

        engine.until(&bad, Status::Failed, secs(20)).await;
        pass(secs(6)).await;
        let failed = "postrider_deliveries_failed_total";
        assert_eq!(
            engine
                .metric(&format!(r#"{failed}{{reason="retries_exhausted"}}"#))
                .await,
            1.0
        );
        assert_eq!(
            engine
                .metric(&format!(r#"{failed}{{reason="cancelled"}}"#))
                .await,
            0.0
        );
        assert_eq!(
            engine
                .metric(r#"postrider_attempts_total{outcome="rejected"}"#)
                .await,
            2.0
        );
        assert_eq!(
            engine
                .metric(r#"postrider_attempts_total{outcome="delivered"}"#)
                .await,
            1.0
        );
        assert_eq!(
            engine
                .metric("postrider_attempt_duration_seconds_count")
                .await,
            3.0
        );
        assert_eq!(engine.metric("postrider_waiting").await, 0.0);
        assert_eq!(engine.metric("postrider_oldest_waiting_seconds").await, 0.0);
        assert_eq!(engine.metric("postrider_database_up").await, 1.0);
        assert_eq!(
            engine
                .metric(r#"postrider_lease_changes_total{change="taken"}"#)
                .await,
            64.0
        );
    });
}

#[test]
fn metrics_follow_pauses_breakers_holds_and_what_a_person_gives_up() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let paused = engine.endpoint(1, r#"{"event_types": ["paused"]}"#).await;
        engine
            .endpoint(2, r#"{"event_types": ["broken"], "breaker_after": 1}"#)
            .await;
        engine.endpoint(3, r#"{"event_types": ["fatal"]}"#).await;
        let ordered = r#"{"event_types": ["ordered"], "ordering": "key"}"#;
        let ordered = engine.endpoint(4, ordered).await;
        let endpoints = |reason: &str| format!(r#"postrider_endpoints{{pause_reason="{reason}"}}"#);
        let breakers = |state: &str| format!(r#"postrider_breakers{{state="{state}"}}"#);
        assert_eq!(engine.metric(&endpoints("none")).await, 4.0);
        assert_eq!(engine.metric(&breakers("closed")).await, 4.0);

        engine.postrider().pause_endpoint(&paused).await.unwrap();
        engine.always(2, Reply::status(500));
        engine.replies(3, std::iter::repeat_n(Reply::Panic, 5));
        engine.always(4, Reply::Hang);
        let waits = engine.publish_one("paused").await;
        engine.publish_one("broken").await;
        engine.publish_one("fatal").await;
        for _ in 0..3 {
            let keyed = NewEvent {
                ordering_key: Some("k".into()),
                ..event("ordered", "1")
            };
            engine.postrider().publish(keyed).await.unwrap();
        }
        pass(secs(90)).await;
        assert_eq!(engine.metric(&endpoints("operator")).await, 1.0);
        assert_eq!(engine.metric(&endpoints("none")).await, 3.0);
        assert_eq!(engine.metric(&breakers("open")).await, 1.0);
        assert_eq!(engine.metric(&breakers("closed")).await, 2.0);
        assert_eq!(
            engine.metric("postrider_held").await,
            1.0,
            "what waits for its turn is not held"
        );
        assert!(engine.metric("postrider_waiting").await >= 5.0);

        engine.postrider().cancel_delivery(&waits).await.unwrap();
        let cancelled = r#"postrider_deliveries_failed_total{reason="cancelled"}"#;
        assert_eq!(engine.metric(cancelled).await, 1.0);
        engine.postrider().delete_endpoint(&ordered).await.unwrap();
        pass(secs(120)).await;
        let deleted = r#"postrider_deliveries_failed_total{reason="endpoint_deleted"}"#;
        assert_eq!(engine.metric(deleted).await, 3.0);
        assert_eq!(engine.metric(&endpoints("none")).await, 2.0);
    });
}

#[test]
fn what_is_looked_up_for_metrics_is_kept_for_some_seconds() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        assert_eq!(engine.metric("postrider_waiting").await, 0.0);
        engine.publish_one("a.b").await;
        assert_eq!(engine.metric("postrider_waiting").await, 0.0);
        pass(secs(6)).await;
        assert_eq!(engine.metric("postrider_waiting").await, 1.0);
    });
}

const PUBLISHERS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traced(event_type: &str) -> NewEvent {
    NewEvent {
        traceparent: Some(TraceParent::parse(PUBLISHERS).unwrap()),
        ..event(event_type, "1")
    }
}

#[test]
fn a_publishers_trace_goes_on_to_the_receiver_with_each_retry_and_after_a_restart() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint(1, r#"{"retry_delays_s": [10, 20, 40]}"#)
            .await;
        engine.replies(1, [Reply::status(500), Reply::status(500)]);
        let receipt = engine.postrider().publish(traced("a.b")).await.unwrap();
        pass(secs(1)).await;
        let engine = engine.restart().await;
        engine
            .until(&receipt.deliveries[0].0, Status::Delivered, secs(60))
            .await;

        let received = engine.received(1);
        let of_publisher = TraceParent::parse(PUBLISHERS).unwrap();
        let sent: Vec<TraceParent> = received
            .iter()
            .map(|one| TraceParent::parse(one.header("traceparent").unwrap()).unwrap())
            .collect();
        assert_eq!(sent.len(), 3);
        let mut spans = vec![of_publisher.span_id()];
        for one in sent {
            assert_eq!(
                (one.trace_id(), one.flags()),
                (of_publisher.trace_id(), of_publisher.flags())
            );
            assert!(
                !spans.contains(&one.span_id()),
                "each attempt is a span of its own"
            );
            spans.push(one.span_id());
        }
    });
}

#[test]
fn without_a_trace_none_is_sent_and_it_is_no_part_of_what_tells_duplicates() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine.endpoint(1, r#"{"headers": {"x-own": "1"}}"#).await;
        let plain = event("a.b", "1");
        engine.postrider().publish(plain.clone()).await.unwrap();
        pass(secs(1)).await;
        assert_eq!(engine.received(1)[0].header("traceparent"), None);
        let again = NewEvent {
            traceparent: traced("a.b").traceparent,
            ..plain
        };
        assert!(engine.postrider().publish(again).await.unwrap().duplicate);
    });
}

/// The spans of a run, each with its fields.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, BTreeMap<String, String>>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        let fields = spans.entry(id.into_u64()).or_default();
        fields.insert("span".into(), attributes.metadata().name().into());
        attributes.record(&mut Fields(fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        values.record(&mut Fields(spans.entry(id.into_u64()).or_default()));
    }
}

impl Spans {
    fn named(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let spans = self.0.lock().unwrap();
        spans
            .values()
            .filter(|fields| fields["span"] == name)
            .cloned()
            .collect()
    }
}

#[test]
fn spans_tell_of_publishing_and_of_each_attempt() {
    let spans = Spans::default();
    // While there is one subscriber alone, tracing asks the thread that comes to a span first,
    // which may be another test's, whether anybody wants it; of two it asks both.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    on_virtual_time(async {
        let engine = TestEngine::start();
        let endpoint = engine.endpoint(1, "{}").await;
        engine.replies(1, [Reply::status(500)]);
        let receipt = engine.postrider().publish(traced("a.b")).await.unwrap();
        let delivery = receipt.deliveries[0].0.clone();
        engine.until(&delivery, Status::Delivered, secs(30)).await;

        let published = &spans.named("publish")[0];
        assert_eq!(published["event"], receipt.id.to_string());
        assert_eq!(
            (published["tenant"].as_str(), published["type"].as_str()),
            ("default", "a.b")
        );
        let attempts = spans.named("attempt");
        let told: Vec<_> = attempts
            .iter()
            .map(|one| {
                (
                    one["number"].as_str(),
                    one["outcome"].as_str(),
                    one["status_code"].as_str(),
                )
            })
            .collect();
        assert_eq!(told, [("1", "rejected", "500"), ("2", "delivered", "200")]);
        for one in &attempts {
            assert_eq!(one["delivery"], delivery.to_string());
            assert_eq!(
                (&one["event"], &one["endpoint"]),
                (&receipt.id.to_string(), &endpoint.to_string())
            );
            assert_eq!(one["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        }
    });
}
