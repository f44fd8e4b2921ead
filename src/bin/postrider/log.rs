//! What the server tells of itself: a log to stderr and, with the feature `otlp`, spans to where
//! OpenTelemetry's own variables say.

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::settings::Settings;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// To be kept until the end: what is left to be exported is exported when it goes.
pub(crate) struct Logging {
    refilter: Box<dyn Fn(EnvFilter) -> anyhow::Result<()>>,
    #[cfg(feature = "otlp")]
    exporting: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Logging {
    /// Logs what `filter` names from now on.
    pub(crate) fn refilter(&self, filter: EnvFilter) -> anyhow::Result<()> {
        (self.refilter)(filter)
    }
}

/// Starts to log what the settings name.
pub(crate) fn start(settings: &Settings) -> anyhow::Result<Logging> {
    let (filter, format) = (
        settings.log_filter()?,
        settings.log_format.unwrap_or(LogFormat::Text),
    );
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
        .with(written(format).with_filter(filter))
        .init();
    let refilter = Box::new(move |filter| Ok(handle.reload(filter)?));
    Ok(Logging {
        refilter,
        #[cfg(feature = "otlp")]
        exporting: None,
    })
}

/// The log on stderr.
fn written<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
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
            tracing::warn!(%error, "the last spans were not exported");
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

    use super::{LogFormat, written};

    /// Where spans go to, if anywhere. (What is in the variables beyond that, the exporter reads by
    /// itself.)
    const ENDPOINTS: [&str; 2] = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];

    /// What exports spans, where the variables ask for it.
    pub(super) fn provider() -> anyhow::Result<Option<SdkTracerProvider>> {
        let set = |name: &str| var(name).is_ok_and(|value| !value.is_empty());
        let disabled =
            var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || !ENDPOINTS.into_iter().any(set) {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .build();
        let exporter = exporter.context("the OTLP exporter")?;
        let mut resource = Resource::builder();
        if !set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("postrider");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Some(provider.with_resource(resource.build()).build()))
    }

    /// The log as it is without, and beside it the spans, whatever the log shows of them.
    pub(super) fn start(
        filter: EnvFilter,
        format: LogFormat,
        provider: &SdkTracerProvider,
    ) -> Box<dyn Fn(EnvFilter) -> anyhow::Result<()>> {
        let (filter, handle) = reload::Layer::new(filter);
        let ours = FilterFn::new(|of| of.is_span() && matches!(of.name(), "publish" | "attempt"));
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("postrider"))
            .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG));
        tracing_subscriber::registry()
            .with(written(format).with_filter(filter))
            .with(spans)
            .init();
        Box::new(move |filter| Ok(handle.reload(filter)?))
    }
}
