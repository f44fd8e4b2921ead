//! Spans around publishing and attempts, and the continuation of a publisher's trace to the
//! receiver.
//!
//! They have level `debug`: when it is disabled, a span costs a comparison. With the feature `otlp`
//! and an exporter, the spans are themselves part of the trace; otherwise only its ids are passed
//! on.

use tracing::Span;
use tracing::field::{Empty, display};

use crate::domain::event::NewEvent;
use crate::domain::random::{self, Random};
use crate::domain::trace::TraceParent;
use crate::sender::SendResult;

/// Opens the span of publishing one event.
pub(crate) fn publish_span(event: &NewEvent) -> Span {
    let (id, tenant, event_type) = (&event.id, &event.tenant, &event.event_type);
    let span = tracing::debug_span!("publish", event = %id, %tenant, r#type = %event_type, trace_id = Empty);
    continues(&span, event.traceparent);
    span
}

/// Opens the span of publishing a batch.
pub(crate) fn publish_batch_span(events: &[NewEvent]) -> Span {
    let span = tracing::debug_span!("publish", events = events.len(), trace_id = Empty);
    continues(&span, events.first().and_then(|event| event.traceparent));
    span
}

/// Records the end of an attempt in its span.
pub(crate) fn note_outcome(span: &Span, sent: Option<&SendResult>) {
    let Some(SendResult::Finished { record, .. }) = sent else {
        return;
    };
    span.record("outcome", display(record.outcome));
    if let Some(code) = record.status_code {
        span.record("status_code", code);
    }
}

/// Makes `span` part of the trace of `parent`.
pub(crate) fn continues(span: &Span, parent: Option<TraceParent>) {
    if let Some(parent) = parent.filter(|_| !span.is_disabled()) {
        span.record(
            "trace_id",
            display(format_args!("{:032x}", parent.trace_id())),
        );
        #[cfg(feature = "otlp")]
        exported::set_parent(span, parent);
    }
}

/// Returns the parent of what follows `span`: the span itself if it is exported, else a new id in
/// the same trace.
pub(crate) fn after(
    span: &Span,
    parent: Option<TraceParent>,
    random: &dyn Random,
) -> Option<TraceParent> {
    #[cfg(feature = "otlp")]
    if let Some(own) = exported::traceparent(span) {
        return Some(own);
    }
    let _ = span;
    parent.map(|parent| parent.child(u64::from_be_bytes(random::bytes(random))))
}

/// Returns the parent to store with an event published within `span`: its publisher's if the span
/// is not exported.
pub(crate) fn stored(span: &Span, parent: Option<TraceParent>) -> Option<TraceParent> {
    #[cfg(feature = "otlp")]
    if let Some(own) = exported::traceparent(span) {
        return Some(own);
    }
    let _ = span;
    parent
}

/// Spans in OpenTelemetry.
#[cfg(feature = "otlp")]
mod exported {
    use opentelemetry::trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    };
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use crate::domain::trace::TraceParent;

    pub(crate) fn set_parent(span: &Span, parent: TraceParent) {
        let context = SpanContext::new(
            TraceId::from(parent.trace_id()),
            SpanId::from(parent.span_id()),
            TraceFlags::new(parent.flags()),
            true,
            TraceState::default(),
        );
        // Fails without an exporter, which is fine.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
    }

    pub(crate) fn traceparent(span: &Span) -> Option<TraceParent> {
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
