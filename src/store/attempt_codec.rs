//! Conversion between attempts and their rows.

use super::attempt_parts::{self, Repeated};
use super::codec::{json, time, to_json, unsigned, word};
use super::error::{StoreError, corrupt};
use super::rows::{AttemptRow, int};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, AttemptRecord, Claimed, FinishedAttempt, Outcome};
use crate::domain::ids::DeliveryKey;
use crate::domain::public_ids::PublicIds;

const ATTEMPTS: &str = "webhook_attempts";

/// Builds the row of a finished attempt; `number` is its number if it counts.
pub(super) fn attempt_row(finished: &FinishedAttempt, number: u32) -> AttemptRow {
    let record = &finished.record;
    let repeated = Repeated {
        event_id: finished.event.id.as_str(),
        content_type: &finished.event.content_type,
    };
    AttemptRow {
        number: record.outcome.is_conclusive().then(|| int(number)),
        status_code: record.status_code.map(i32::from),
        error: record.error.clone(),
        response_body: record.response_body.clone(),
        response_headers: record.response_headers.as_ref().map(to_json),
        request_parts: record
            .request_headers
            .as_ref()
            .map(|headers| attempt_parts::stored_headers(headers, repeated)),
        remote_address: record
            .remote_address
            .as_deref()
            .map(attempt_parts::stored_address),
        timings: attempt_parts::stored_timings(&record.timings_ms),
        ..empty_row(
            &finished.claimed,
            record.outcome,
            (finished.started_at, finished.ended_at),
        )
    }
}

/// Builds the row of an interrupted attempt.
pub(super) fn interrupted_row(claimed: &Claimed, at: Timestamp, why: &str) -> AttemptRow {
    AttemptRow {
        error: Some(why.to_owned()),
        ..empty_row(claimed, Outcome::Interrupted, (claimed.claimed_at, at))
    }
}

/// Builds the row of an attempt without a request and a response.
fn empty_row(
    claimed: &Claimed,
    outcome: Outcome,
    (started_at, ended_at): (Timestamp, Timestamp),
) -> AttemptRow {
    AttemptRow {
        event_seq: claimed.key.event_seq,
        endpoint: claimed.key.endpoint,
        claim_no: claimed.claim_no,
        number: None,
        started_at: started_at.as_micros(),
        ended_at: ended_at.as_micros(),
        outcome: outcome.to_string(),
        status_code: None,
        error: None,
        response_body: None,
        response_headers: None,
        request_parts: None,
        remote_address: None,
        timings: None,
    }
}

/// Reads an attempt of an event.
pub(super) fn attempt(
    ids: &PublicIds,
    row: AttemptRow,
    repeated: Repeated<'_>,
) -> Result<Attempt, StoreError> {
    let key = DeliveryKey {
        event_seq: row.event_seq,
        endpoint: row.endpoint,
    };
    let number = row
        .number
        .map(|number| unsigned(ATTEMPTS, "number", number.into()));
    let status = row
        .status_code
        .map(|code| u16::try_from(code).map_err(|error| corrupt(ATTEMPTS, "status_code", error)));
    let response_headers = row
        .response_headers
        .map(|text| json(ATTEMPTS, "response_headers", &text));
    let request_headers = row
        .request_parts
        .map(|stored| attempt_parts::headers(&stored, repeated));
    let remote_address = row
        .remote_address
        .map(|stored| attempt_parts::address(&stored));
    let (started_at, ended_at) = (time(row.started_at), time(row.ended_at));
    Ok(Attempt {
        id: ids.attempt(key, row.claim_no),
        number: number.transpose()?,
        started_at,
        duration_ms: ended_at.since(started_at).as_secs_f64() * 1000.0,
        record: AttemptRecord {
            outcome: word(ATTEMPTS, "outcome", &row.outcome)?,
            status_code: status.transpose()?,
            error: row.error,
            response_body: row.response_body,
            response_headers: response_headers.transpose()?,
            request_headers: request_headers.transpose()?,
            remote_address: remote_address.transpose()?,
            timings_ms: attempt_parts::timings(row.timings.as_deref())?,
        },
    })
}
