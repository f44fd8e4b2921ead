//! The demo's output: one line per step, as text or as JSON.

use std::time::Instant;

use serde_json::{Value, json};

use crate::output::emit;

#[derive(Clone, Copy)]
pub(super) struct Timeline {
    began: Instant,
    json: bool,
}

impl Timeline {
    pub(super) fn new(json: bool) -> Self {
        Self {
            began: Instant::now(),
            json,
        }
    }

    /// Explains the next steps; text output only.
    pub(super) fn explain(&self, text: &str) {
        if !self.json {
            emit(&format!("\n{text}"));
        }
    }

    /// Prints a step with the time since the start.
    pub(super) fn step(&self, what: &str, text: &str, mut fields: Value) {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.json {
            fields["what"] = json!(what);
            fields["at_s"] = json!((seconds * 1000.0).round() / 1000.0);
            emit(&fields.to_string());
        } else {
            emit(&format!("{seconds:6.2} s  {what:9} {text}"));
        }
    }

    /// Prints a request that the receiver answered.
    pub(super) fn request(&self, endpoint: &str, event: &str, attempt: u32, accepted: bool) {
        let status = if accepted { 200 } else { 500 };
        let what = if attempt == 1 { "attempt" } else { "retry" };
        self.step(
            what,
            &format!("{event} to {endpoint:5} -> {status}"),
            json!({"endpoint": endpoint, "event": event, "attempt": attempt, "answer": status}),
        );
    }
}
