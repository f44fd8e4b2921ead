//! What is printed, and what a failure means to a script.

use std::fmt;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer from the server.
    Unreachable(String),
    /// The server answered with a problem.
    Refused(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Other(_) => ExitCode::from(1),
            Self::Unreachable(_) => ExitCode::from(3),
            Self::Refused(_) => ExitCode::from(4),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Refused(text) => f.write_str(text),
            // The whole chain, so that the remedy in its last link is seen.
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Prints JSON as it is, or what `human` makes of it.
pub(crate) fn print(value: &Value, json: bool, human: impl FnOnce(&Value) -> String) {
    let text = if json { format!("{value:#}") } else { human(value) };
    println!("{}", text.trim_end());
}

/// A field as text; nothing for null.
pub(crate) fn text(value: &Value, field: &str) -> String {
    match value.pointer(&format!("/{}", field.replace('.', "/"))) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A table of some fields of a list's rows.
pub(crate) fn table(list: &Value, columns: &[(&str, &str)]) -> String {
    let rows = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "none".into();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|(title, _)| *title));
    for row in rows {
        table.add_row(columns.iter().map(|(_, field)| text(row, field)));
    }
    let more = match list["next_cursor"].as_str() {
        Some(cursor) => format!("\nmore: --cursor {cursor}"),
        None => String::new(),
    };
    format!("{}{more}", table.trim_fmt())
}

/// Lines of `name  value`, with nothing for what is empty.
pub(crate) fn card(value: &Value, fields: &[(&str, &str)]) -> String {
    let width = fields.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
    let lines = fields.iter().filter_map(|(title, field)| {
        let text = text(value, field);
        (!text.is_empty()).then(|| format!("{title:width$}  {text}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}
