//! The report: a table in Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::judge::{CampaignVerdict, percentile};
use crate::ledger::Struck;

/// State of the database at the end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Remainder {
    pub(crate) stuck: u64,
    pub(crate) failed: u64,
}

/// Writes the report.
pub(crate) fn report(
    verdict: &CampaignVerdict,
    remainder: Remainder,
    faults: &[Struck],
    lasted: Duration,
) -> String {
    let mut text = String::from("| | count |\n|---|---|\n");
    let mut row = |name: &str, count: &dyn std::fmt::Display| {
        let _ = writeln!(text, "| {name} | {count} |");
    };
    row("accepted events", &verdict.accepted);
    row("requests received", &verdict.requests);
    row("faults", &faults.len());
    row("**lost**", &verdict.lost);
    row("**changed**", &verdict.corrupted);
    row("**wrongly signed**", &verdict.not_signed);
    row("sent again after a crash", &verdict.duplicates);
    row("**sent again without a crash**", &verdict.unexplained);
    row("**out of order**", &verdict.out_of_order);
    row("**above the rate limit**", &verdict.above_limit);
    row("**not delivered in the end**", &remainder.stuck);
    row("**failed**", &remainder.failed);
    let shown = |wait: Duration| format!("{:.3} s", wait.as_secs_f64());
    let waits = |of: &[Duration]| {
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|share| shown(percentile(of, share)));
        format!("{p50} / {p99} / {longest}")
    };
    row(
        "from 202 to the first request (p50 / p99 / longest)",
        &waits(&verdict.waits),
    );
    row(
        "the longest of each endpoint (p50 / p99 / longest)",
        &waits(&verdict.longest_waits),
    );
    let _ = writeln!(text, "\n{} s in total.", lasted.as_secs());
    for fault in faults {
        let took = fault.until.saturating_sub(fault.from);
        let _ = writeln!(text, "- {}, {:.1} s", fault.what, took.as_secs_f64());
    }
    text
}
