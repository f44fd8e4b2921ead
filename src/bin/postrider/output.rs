//! Output formatting, and the exit code of each kind of failure.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table};
use console::Term;
use serde_json::Value;

/// The error of a failed command.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The server did not answer.
    Unreachable(String),
    /// The server answered with a problem document (RFC 9457).
    Refused { status: u16, text: String },
    /// Any other error.
    Other(anyhow::Error),
}

impl CommandError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Other(_) => ExitCode::from(1),
            Self::Unreachable(_) => ExitCode::from(3),
            Self::Refused { .. } => ExitCode::from(4),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Refused { text, .. } => f.write_str(text),
            // The whole chain: the remedy is often in its last link.
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Prints a value as JSON, or as the text that `human` returns.
pub(crate) fn print(value: &Value, json: bool, human: impl FnOnce(&Value) -> String) {
    emit(&if json {
        format!("{value:#}")
    } else {
        human(value)
    });
}

/// Writes to standard output, and exits if the reader has closed the pipe (`| head`).
pub(crate) fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Returns a field as text; null is empty.
pub(crate) fn text(value: &Value, field: &str) -> String {
    value
        .pointer(&format!("/{}", field.replace('.', "/")))
        .map(plain)
        .unwrap_or_default()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // Three decimals are enough for rates and milliseconds.
        Value::Number(number) if number.is_f64() => {
            let short = format!("{:.3}", number.as_f64().unwrap_or_default());
            short.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

/// Returns the items of an array field; none if it is missing.
pub(crate) fn items<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Returns the rows of a list.
pub(crate) fn rows(list: &Value) -> &[Value] {
    items(list, "data")
}

/// Formats the given columns of a list as a table, fitted to the terminal if there is one, and the
/// cursor of the next page.
pub(crate) fn table(list: &Value, columns: &[(&str, &str)]) -> String {
    if rows(list).is_empty() {
        return "none".into();
    }
    let more = match list["next_cursor"].as_str() {
        Some(cursor) => format!("\nnext page: --cursor {cursor}"),
        None => String::new(),
    };
    format!("{}{more}", tabulated(rows(list), columns))
}

/// Formats rows as a table, fitted to the terminal if there is one.
pub(crate) fn tabulated(rows: &[Value], columns: &[(&str, &str)]) -> String {
    tabulate(rows, columns, terminal_width())
}

/// Width of the terminal; `None` if standard output is not a terminal.
fn terminal_width() -> Option<u16> {
    let term = Term::stdout();
    if !term.is_term() {
        return None;
    }
    term.size_checked().map(|(_, columns)| columns)
}

/// Characters of a cell that are enough to recognise its value.
const LEGIBLE_CHARS: usize = 12;

/// Returns the columns that fit a width: the first two, the last, and as many of the others as stay
/// legible.
fn fitting<'c>(
    rows: &[Value],
    columns: &[(&'c str, &'c str)],
    width: u16,
) -> Vec<(&'c str, &'c str)> {
    let mut shown = columns.to_vec();
    let room = usize::from(width);
    while shown.len() > 3 && legible_width(rows, &shown) > room {
        shown.remove(shown.len() - 2);
    }
    shown
}

/// Width at which the first column is whole and the others are legible.
fn legible_width(rows: &[Value], columns: &[(&str, &str)]) -> usize {
    let widths = columns
        .iter()
        .enumerate()
        .map(|(position, (title, field))| {
            let cells = rows
                .iter()
                .map(|row| cell(row, field, true).chars().count());
            let widest = cells.max().unwrap_or(0).max(title.chars().count());
            2 + if position == 0 {
                widest
            } else {
                widest.min(LEGIBLE_CHARS)
            }
        });
    widths.sum()
}

/// Formats a table with one line per row. The first column is never truncated; with a width, the
/// others are if necessary.
fn tabulate(rows: &[Value], columns: &[(&str, &str)], width: Option<u16>) -> String {
    let columns = match width {
        Some(width) => &fitting(rows, columns, width)[..],
        None => columns,
    };
    let mut table = Table::new();
    table.load_style(NOTHING).set_truncation_indicator("…");
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    let in_one_line = |mut row: Row| {
        if width.is_some() {
            row.max_height(1);
        }
        row
    };
    table.set_header(in_one_line(
        columns
            .iter()
            .map(|(title, _)| *title)
            .collect::<Vec<_>>()
            .into(),
    ));
    for row in rows {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, field)| cell(row, field, width.is_some()))
            .collect();
        table.add_row(in_one_line(cells.into()));
    }
    if let Some(name) = table.column_mut(0) {
        name.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.trim_fmt()
}

/// Returns a field as a table cell; `short` drops the fraction of seconds.
fn cell(row: &Value, field: &str, short: bool) -> String {
    let text = text(row, field);
    match text.split_once('.') {
        Some((seconds, fraction)) if short && field.ends_with("_at") && fraction.ends_with('Z') => {
            format!("{seconds}Z")
        }
        _ => text,
    }
}

/// Formats fields as lines of `name  value`; empty fields are left out.
pub(crate) fn key_value_lines(value: &Value, fields: &[(&str, &str)]) -> String {
    let width = fields
        .iter()
        .map(|(title, _)| title.len())
        .max()
        .unwrap_or(0);
    let lines = fields.iter().filter_map(|(title, field)| {
        let text = text(value, field);
        (!text.is_empty()).then(|| format!("{title:width$}  {text}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [(&str, &str); 4] = [
        ("ID", "id"),
        ("STATUS", "status"),
        ("CREATED", "created_at"),
        ("URL", "url"),
    ];

    fn list() -> Vec<Value> {
        let url = format!("https://example.com/{}", "long/".repeat(40));
        let created_at = "2026-01-31T12:00:00.123456Z";
        vec![
            json!({"id": "ep_0123456789abcdef", "status": "active", "created_at": created_at, "url": url}),
            json!({"id": "ep_fedcba9876543210", "status": "paused", "created_at": created_at, "url": "https://b.example"}),
        ]
    }

    #[test]
    fn a_table_fits_the_terminal_and_its_first_column_is_whole() {
        for width in [60, 80, 120] {
            let shown = tabulate(&list(), &COLUMNS, Some(width));
            assert_eq!(shown.lines().count(), 3, "{shown}");
            assert!(
                shown
                    .lines()
                    .all(|line| line.chars().count() <= usize::from(width)),
                "{shown}"
            );
            assert!(
                shown.contains("ep_0123456789abcdef") && shown.contains('…'),
                "{shown}"
            );
        }
    }

    #[test]
    fn columns_that_would_be_illegible_are_left_out() {
        let columns = [
            ("ID", "id"),
            ("STATUS", "status"),
            ("ONE", "created_at"),
            ("TWO", "created_at"),
            ("URL", "url"),
        ];
        let shown = tabulate(&list(), &columns, Some(60));
        let head: Vec<&str> = shown.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["ID", "STATUS", "ONE", "URL"], "{shown}");
        assert!(
            shown.contains("active") && shown.contains("https://exa"),
            "{shown}"
        );
    }

    #[test]
    fn a_piped_table_is_not_truncated() {
        let shown = tabulate(&list(), &COLUMNS, None);
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(
            shown.contains(&"long/".repeat(40)) && shown.contains(".123456Z"),
            "{shown}"
        );
    }
}
