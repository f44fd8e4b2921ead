//! Results of checks.

use serde::Serialize;

/// The result of one check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    name: &'static str,
    pub(super) state: CheckState,
    found: String,
    /// Suggested fix, if one is needed.
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckState {
    Ok,
    /// Not a failure, but worth knowing.
    Note,
    Wrong,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl ToString) -> Self {
        Self {
            name,
            state: CheckState::Ok,
            found: found.to_string(),
            remedy: None,
        }
    }

    pub(super) fn note(name: &'static str, found: impl ToString) -> Self {
        Self {
            state: CheckState::Note,
            ..Self::ok(name, found)
        }
    }

    pub(super) fn wrong(name: &'static str, found: impl ToString, remedy: impl ToString) -> Self {
        Self {
            state: CheckState::Wrong,
            remedy: Some(remedy.to_string()),
            ..Self::ok(name, found)
        }
    }
}

pub(super) fn format_check(check: &Check) -> String {
    let state = match check.state {
        CheckState::Ok => "ok",
        CheckState::Note => "note",
        CheckState::Wrong => "WRONG",
    };
    let remedy = check
        .remedy
        .as_ref()
        .map_or(String::new(), |remedy| format!("\n       -> {remedy}"));
    format!("{state:5}  {}: {}{remedy}", check.name, check.found)
}
