//! Messages between the registry, the supervisors and their attempts.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use crate::domain::breaker::Verdict;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{AttemptRecord, Claimed};
use crate::domain::event::StoredEvent;
use crate::domain::handover::OnWire;
use crate::domain::ids::EndpointId;

/// The end of an attempt.
#[derive(Debug)]
pub(crate) enum AttemptEnd {
    /// The receiver responded, or the timeout passed.
    Finished(AttemptRecord, Verdict),
    /// Nothing was sent, for a local reason.
    NotSent(String),
    /// It was aborted before it had an outcome.
    Aborted,
    /// It panicked.
    Panicked,
}

/// To the supervisor: an attempt has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AttemptEnded {
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) claimed: Claimed,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Timestamp,
    /// Start and end in schedule time.
    pub(crate) scheduled: (Timestamp, Timestamp),
    pub(crate) end: AttemptEnd,
}

/// To the registry: a supervisor is idle, and asks to stop.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StopRequest {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) generation: u64,
    /// Number of the registry's messages that the supervisor has received.
    pub(crate) received: u64,
    pub(crate) reply_to: Recipient<StopReply>,
}

/// The registry's answer to a [`StopRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub(crate) enum StopReply {
    Stop,
    KeepRunning,
}

/// Attempts that are on the wire where nothing more starts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Quiet {
    pub(crate) attempts: Vec<OnWire>,
    /// Monotonic time by which all of them have ended.
    pub(crate) ends_by: Duration,
}

/// To the registry: a supervisor that drains starts nothing more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SupervisorQuiet {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) quiet: Quiet,
}

/// A supervisor's way of ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Clean,
    Panicked,
}

/// To the registry, from a supervisor's `Drop`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SupervisorStopped {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) generation: u64,
    pub(crate) exit: Exit,
}
