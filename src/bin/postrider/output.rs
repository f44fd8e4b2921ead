//! What is printed, and what a failure means to a script.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table};
use console::Term;
use serde_json::Value;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer from the server.
    Unreachable(String),
    /// The server answered with a problem.
    Refused { status: u16, text: String },
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Other(_) => ExitCode::from(1),
            Self::Unreachable(_) => ExitCode::from(3),
            Self::Refused { .. } => ExitCode::from(4),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Refused { text, .. } => f.write_str(text),
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
    emit(&if json {
        format!("{value:#}")
    } else {
        human(value)
    });
}

/// Writes to standard output. Who reads it may have had enough (`| head`): then there is nothing
/// left to do.
pub(crate) fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// A field as text; nothing for null.
pub(crate) fn text(value: &Value, field: &str) -> String {
    value
        .pointer(&format!("/{}", field.replace('.', "/")))
        .map(plain)
        .unwrap_or_default()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // As many digits as say something.
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

/// The rows of a list.
pub(crate) fn rows(list: &Value) -> &[Value] {
    list["data"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A table of some fields of a list's rows: as wide as the terminal, or as it needs where there is
/// none.
pub(crate) fn table(list: &Value, columns: &[(&str, &str)]) -> String {
    if rows(list).is_empty() {
        return "none".into();
    }
    let more = match list["next_cursor"].as_str() {
        Some(cursor) => format!("\nmore: --cursor {cursor}"),
        None => String::new(),
    };
    format!("{}{more}", tabulated(rows(list), columns))
}

/// The same of rows that are no page of a list.
pub(crate) fn tabulated(rows: &[Value], columns: &[(&str, &str)]) -> String {
    tabulate(rows, columns, terminal_width())
}

/// How wide the terminal is that standard output goes to, if it goes to one.
fn terminal_width() -> Option<u16> {
    let term = Term::stdout();
    if !term.is_term() {
        return None;
    }
    term.size_checked().map(|(_, columns)| columns)
}

/// So many characters of a cell say something.
const LEGIBLE: usize = 12;

/// The columns that a width has room for: the first two, the last, and as many between as can be
/// read.
fn fitting<'c>(
    rows: &[Value],
    columns: &[(&'c str, &'c str)],
    width: u16,
) -> Vec<(&'c str, &'c str)> {
    let needs = |place: usize, (title, field): &(&str, &str)| {
        let widest = rows
            .iter()
            .map(|row| cell(row, field, true).chars().count())
            .max()
            .unwrap_or(0);
        let widest = widest.max(title.chars().count());
        2 + if place == 0 {
            widest
        } else {
            widest.min(LEGIBLE)
        }
    };
    let mut shown = columns.to_vec();
    let room = usize::from(width);
    while shown.len() > 3
        && shown
            .iter()
            .enumerate()
            .map(|(i, one)| needs(i, one))
            .sum::<usize>()
            > room
    {
        shown.remove(shown.len() - 2);
    }
    shown
}

/// One line a row. What names a row is never cut; the rest is where there is too little room.
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

/// A field in a table. People need no microseconds.
fn cell(row: &Value, field: &str, short: bool) -> String {
    let text = text(row, field);
    match text.split_once('.') {
        Some((seconds, fraction)) if short && field.ends_with("_at") && fraction.ends_with('Z') => {
            format!("{seconds}Z")
        }
        _ => text,
    }
}

/// Lines of `name  value`, with nothing for what is empty.
pub(crate) fn card(value: &Value, fields: &[(&str, &str)]) -> String {
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
        ("MADE", "created_at"),
        ("URL", "url"),
    ];

    fn list() -> Vec<Value> {
        let url = format!("https://example.com/{}", "long/".repeat(40));
        let made = "2026-01-31T12:00:00.123456Z";
        vec![
            json!({"id": "ep_0123456789abcdef", "status": "active", "created_at": made, "url": url}),
            json!({"id": "ep_fedcba9876543210", "status": "paused", "created_at": made, "url": "https://b.example"}),
        ]
    }

    #[test]
    fn a_table_fits_the_terminal_and_names_are_whole() {
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
    fn what_could_not_be_read_is_left_out() {
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
    fn a_table_that_is_piped_is_whole() {
        let shown = tabulate(&list(), &COLUMNS, None);
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(
            shown.contains(&"long/".repeat(40)) && shown.contains(".123456Z"),
            "{shown}"
        );
    }
}
