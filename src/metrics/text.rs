//! The two text formats of metrics.

use std::collections::HashSet;

/// Text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MetricsFormat {
    /// Prometheus' own format, which every reader supports.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl MetricsFormat {
    /// Returns the format requested by an `Accept` header: OpenMetrics if it is named there.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept
            .to_ascii_lowercase()
            .contains("application/openmetrics-text")
        {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Returns its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics to Prometheus' format, in which a counter's family has the same name as its
/// samples, and which has neither units nor an end marker.
pub(super) fn classic(openmetrics: &str) -> String {
    let of_counter = |line: &str| {
        line.strip_prefix("# TYPE ")?
            .strip_suffix(" counter")
            .map(str::to_owned)
    };
    let counters: HashSet<String> = openmetrics.lines().filter_map(of_counter).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                text.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_called_as_their_samples_are() {
        let openmetrics = "# HELP a How often.\n# TYPE a counter\n# UNIT a seconds\na_total{b=\"# c\"} 1\n# EOF\n";
        let text = "# HELP a_total How often.\n# TYPE a_total counter\na_total{b=\"# c\"} 1\n";
        assert_eq!(classic(openmetrics), text);
    }

    #[test]
    fn openmetrics_is_for_those_who_name_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(
            MetricsFormat::accepted(prometheus),
            MetricsFormat::OpenMetrics
        );
        assert_eq!(MetricsFormat::accepted("*/*"), MetricsFormat::Text);
        assert_eq!(MetricsFormat::accepted(""), MetricsFormat::Text);
    }
}
