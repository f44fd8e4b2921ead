//! Logging to stderr and, with the feature `otlp`, spans to the collector named by OpenTelemetry's
//! standard variables.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::settings::{LogFormat, ServerSettings};

/// The running log. Keep it until the end: dropping it exports the remaining spans.
pub(crate) struct Logging {
    refilter: Box<dyn Fn(EnvFilter) -> anyhow::Result<()>>,
    #[cfg(feature = "otlp")]
    exporting: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Logging {
    /// Replaces the filter of the log.
    pub(crate) fn refilter(&self, filter: EnvFilter) -> anyhow::Result<()> {
        (self.refilter)(filter)
    }
}

/// Starts logging with the filter and format of the settings.
pub(crate) fn start(settings: &ServerSettings) -> anyhow::Result<Logging> {
    let filter = settings.log_filter()?;
    let format = settings.log_format.unwrap_or(LogFormat::Text);
    #[cfg(feature = "otlp")]
    if let Some(provider) = otlp::provider()? {
        let refilter = otlp::start(filter, format, &provider);
        return Ok(Logging {
            refilter,
            exporting: Some(provider),
        });
    }
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(stderr_layer(format).with_filter(filter))
        .init();
    let refilter = Box::new(move |filter| Ok(handle.reload(filter)?));
    Ok(Logging {
        refilter,
        #[cfg(feature = "otlp")]
        exporting: None,
    })
}

/// Returns the layer that writes the log to stderr.
fn stderr_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let log = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    }
}

#[cfg(feature = "otlp")]
impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.exporting.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "failed to export the last spans");
        }
    }
}

#[cfg(feature = "otlp")]
mod otlp {
    use std::env::var;

    use anyhow::Context as _;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::FilterFn;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, reload};

    use super::stderr_layer;
    use crate::settings::LogFormat;

    /// Variables that enable the export of spans. The exporter itself reads them and the others.
    const ENDPOINTS: [&str; 2] = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];

    /// Returns the exporter of spans, if the variables enable it.
    pub(super) fn provider() -> anyhow::Result<Option<SdkTracerProvider>> {
        let disabled =
            var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || !ENDPOINTS.into_iter().any(is_set) {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .build();
        let exporter = exporter.context("cannot set up the OTLP exporter")?;
        let mut resource = Resource::builder();
        if !is_set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("postrider");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Some(provider.with_resource(resource.build()).build()))
    }

    fn is_set(variable: &str) -> bool {
        var(variable).is_ok_and(|value| !value.is_empty())
    }

    /// Starts the log and, independent of its filter, the export of spans.
    pub(super) fn start(
        filter: EnvFilter,
        format: LogFormat,
        provider: &SdkTracerProvider,
    ) -> Box<dyn Fn(EnvFilter) -> anyhow::Result<()>> {
        let (filter, handle) = reload::Layer::new(filter);
        let exported = FilterFn::new(|metadata| {
            metadata.is_span() && matches!(metadata.name(), "publish" | "attempt")
        });
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("postrider"))
            .with_filter(exported.with_max_level_hint(LevelFilter::DEBUG));
        tracing_subscriber::registry()
            .with(stderr_layer(format).with_filter(filter))
            .with(spans)
            .init();
        Box::new(move |filter| Ok(handle.reload(filter)?))
    }
}
