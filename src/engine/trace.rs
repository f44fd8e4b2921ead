//! Spans around publishing and around attempts, and how a publisher's trace goes on to the
//! receiver.
//!
//! They are at level `debug`: where nobody listens at it, one costs a comparison. With the feature
//! `otlp`, and where spans are exported, the spans are themselves parts of the trace; else only its
//! ids are handed on.

use tracing::Span;
use tracing::field::{Empty, display};

use super::attempt::Job;
use crate::domain::event::NewEvent;
use crate::domain::trace::TraceParent;
use crate::sender::Sent;

/// Around the publishing of one event.
pub(super) fn publish_span(event: &NewEvent) -> Span {
    let (id, tenant, event_type) = (&event.id, &event.tenant, &event.event_type);
    let span = tracing::debug_span!("publish", event = %id, %tenant, r#type = %event_type, trace_id = Empty);
    continues(&span, event.traceparent);
    span
}

/// Around the publishing of many.
pub(super) fn publish_batch_span(events: &[NewEvent]) -> Span {
    let span = tracing::debug_span!("publish", events = events.len(), trace_id = Empty);
    continues(&span, events.first().and_then(|event| event.traceparent));
    span
}

/// Around one attempt.
pub(super) fn attempt_span(job: &Job) -> Span {
    let (delivery, event, endpoint) = (&job.claimed.id, &job.event.id, &job.endpoint.id);
    let number = job.claimed.life.attempt_count + 1;
    let span = tracing::debug_span!(
        parent: None, "attempt", otel.kind = "client",
        %delivery, %event, %endpoint, number, outcome = Empty, status_code = Empty, trace_id = Empty
    );
    continues(&span, job.event.traceparent);
    span
}

/// How the attempt ended that `span` is around.
pub(super) fn note_outcome(span: &Span, sent: Option<&Sent>) {
    let Some(Sent::Finished { exchange, .. }) = sent else {
        return;
    };
    span.record("outcome", display(exchange.outcome));
    if let Some(code) = exchange.status_code {
        span.record("status_code", code);
    }
}

/// Makes `span` a part of the trace of `parent`.
fn continues(span: &Span, parent: Option<TraceParent>) {
    if let Some(parent) = parent.filter(|_| !span.is_disabled()) {
        span.record(
            "trace_id",
            display(format_args!("{:032x}", parent.trace_id())),
        );
        #[cfg(feature = "otlp")]
        exported::set_parent(span, parent);
    }
}

/// What comes after `span`: the span itself where it is exported, and else a fresh id in the same
/// trace.
pub(super) fn after(span: &Span, parent: Option<TraceParent>) -> Option<TraceParent> {
    #[cfg(feature = "otlp")]
    if let Some(own) = exported::traceparent(span) {
        return Some(own);
    }
    let _ = span;
    parent.map(|parent| parent.child(rand::random()))
}

/// What is stored with an event that is published within `span`: its publisher's, where the span
/// itself is not exported.
pub(super) fn stored(span: &Span, parent: Option<TraceParent>) -> Option<TraceParent> {
    #[cfg(feature = "otlp")]
    if let Some(own) = exported::traceparent(span) {
        return Some(own);
    }
    let _ = span;
    parent
}

/// Spans as OpenTelemetry has them.
#[cfg(feature = "otlp")]
mod exported {
    use opentelemetry::trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    };
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use crate::domain::trace::TraceParent;

    pub(super) fn set_parent(span: &Span, parent: TraceParent) {
        let context = SpanContext::new(
            TraceId::from(parent.trace_id()),
            SpanId::from(parent.span_id()),
            TraceFlags::new(parent.flags()),
            true,
            TraceState::default(),
        );
        // It fails where nobody exports.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
    }

    pub(super) fn traceparent(span: &Span) -> Option<TraceParent> {
        if span.is_disabled() {
            return None;
        }
        let context = span.context();
        let context = context.span().span_context().clone();
        let trace_id = u128::from_be_bytes(context.trace_id().to_bytes());
        let span_id = u64::from_be_bytes(context.span_id().to_bytes());
        TraceParent::new(trace_id, span_id, context.trace_flags().to_u8())
    }
}
