//! What the demo shows: a line for each thing that happens, as text or as JSON.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::output::emit;

#[derive(Clone, Copy)]
pub(super) struct Stage {
    began: Instant,
    json: bool,
}

impl Stage {
    pub(super) fn new(json: bool) -> Self {
        Self {
            began: Instant::now(),
            json,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Says what comes next, for people.
    pub(super) fn say(&self, text: &str) {
        if !self.json {
            emit(&format!("\n{text}"));
        }
    }

    /// Something has happened.
    pub(super) fn happened(&self, what: &str, text: &str, mut fields: Value) {
        let seconds = self.elapsed().as_secs_f64();
        if self.json {
            fields["what"] = json!(what);
            fields["at_s"] = json!((seconds * 1000.0).round() / 1000.0);
            emit(&fields.to_string());
        } else {
            emit(&format!("{seconds:6.2} s  {what:9} {text}"));
        }
    }

    /// A request has reached the receiver.
    pub(super) fn received(&self, endpoint: &str, event: &str, attempt: u32, works: bool) {
        let answer = if works { 200 } else { 500 };
        let what = if attempt == 1 { "attempt" } else { "retry" };
        self.happened(
            what,
            &format!("{event} to {endpoint:5} -> {answer}"),
            json!({"endpoint": endpoint, "event": event, "attempt": attempt, "answer": answer}),
        );
    }
}
