//! What the server tells of itself: a log to stderr and, with the feature `otlp`, spans to where OpenTelemetry's
//! own variables say.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
pub(crate) struct Log {
    /// What to log, such as info or postrider=debug
    #[arg(long, env = "POSTRIDER_LOG", value_name = "FILTER", default_value = "info,actix_server=warn")]
    log: String,

    /// How to log it
    #[arg(long, env = "POSTRIDER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// To be kept until the end: what is left to be exported is exported when it goes.
pub(crate) struct Logging {
    #[cfg(feature = "otlp")]
    exporting: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Log {
    pub(crate) fn start(&self) -> anyhow::Result<Logging> {
        let filter = EnvFilter::try_new(&self.log).context("--log")?;
        #[cfg(feature = "otlp")]
        if let Some(provider) = otlp::provider()? {
            otlp::start(filter, self.log_format, &provider);
            return Ok(Logging { exporting: Some(provider) });
        }
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
        Ok(Logging {
            #[cfg(feature = "otlp")]
            exporting: None,
        })
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
    use std::io::IsTerminal as _;

    use anyhow::Context as _;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::FilterFn;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, fmt};

    use super::LogFormat;

    /// Where spans go to, if anywhere. (What is in the variables beyond that, the exporter reads by itself.)
    const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

    /// What exports spans, where the variables ask for it.
    pub(super) fn provider() -> anyhow::Result<Option<SdkTracerProvider>> {
        let set = |name: &str| var(name).is_ok_and(|value| !value.is_empty());
        let disabled = var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || !ENDPOINTS.into_iter().any(set) {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
        let exporter = exporter.context("the OTLP exporter")?;
        let mut resource = Resource::builder();
        if !set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("postrider");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Some(provider.with_resource(resource.build()).build()))
    }

    /// The log as it is without, and beside it the spans, whatever the log shows of them.
    pub(super) fn start(filter: EnvFilter, format: LogFormat, provider: &SdkTracerProvider) {
        let log = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        let log = match format {
            LogFormat::Text => log.boxed(),
            LogFormat::Json => log.json().boxed(),
        };
        let ours = FilterFn::new(|of| of.is_span() && matches!(of.name(), "publish" | "attempt"));
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("postrider"))
            .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG));
        tracing_subscriber::registry().with(log.with_filter(filter)).with(spans).init();
    }
}
