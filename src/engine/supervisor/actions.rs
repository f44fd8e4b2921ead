//! The moment of an input of the lane, and the actions that come out.

use std::sync::Arc;
use std::time::Duration;

use super::messages::RecordedOutcome;
use super::read_ahead::Share;
use super::report::Report;
use super::wakeup::Wakeup;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{ClaimName, Claimed, FinishedAttempt};
use crate::domain::event::StoredEvent;
use crate::domain::lease::Lease;
use crate::engine::messages::Quiet;
use crate::store::{Claim, DueScan, Interruption};

/// The moment of an input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Time of day, which is stored.
    pub(super) wall: Timestamp,
    /// Schedule time, which determines what is due.
    pub(super) schedule: Timestamp,
    /// Monotonic time, which rates are measured with.
    pub(super) monotonic: Duration,
    /// Time by which all transactions that had begun to write have ended, in schedule time.
    pub(super) horizon: Timestamp,
    /// The lease under which new work may start; `None` if another process holds it.
    pub(super) lease: Option<Lease>,
    /// Share of the memory for reading ahead.
    pub(super) share: Share,
}

/// An action for the actor.
#[derive(Debug)]
pub(super) enum Action {
    Claim(Claim),
    Start(Start),
    Report(Report),
    SetTimer(Wakeup),
    /// Read or write in the background.
    Run(Work),
    RequestStop,
    /// Nothing more starts: tell the registry what is on the wire.
    ReportQuiet(Quiet),
    Stop,
}

/// A read or write; its result comes back as an input.
#[derive(Debug)]
pub(super) enum Work {
    /// Read the rate limit's history and the endpoint's health.
    LoadHistory,
    /// Read the endpoint's health again, after another writer has changed it.
    LoadHealth,
    ReadDue(DueScan),
    /// Wait for one more permit. Only one at a time, so that an endpoint with a backlog does not
    /// overtake the others.
    AwaitPermit,
    /// Release claims that are not started after all.
    Release(Vec<Claimed>, Timestamp),
    Record(Box<FinishedAttempt>, RecordedOutcome),
    Interrupt(Claimed, Interruption),
    /// Release claims that no attempt holds.
    Reclaim(Vec<ClaimName>),
}

/// An attempt to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) claimed: Claimed,
    pub(super) event: Arc<StoredEvent>,
    pub(super) lease: Lease,
    /// True if it must not reuse a connection.
    pub(super) fresh_connection: bool,
}
