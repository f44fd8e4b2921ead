//! Claims and their ends on SQLite, row by row.

use diesel::prelude::*;

use super::update::{Plain, Update};
use crate::domain::delivery::{Claimed, Seen};
use crate::domain::lifecycle::{Life, State, Status};
use crate::store::codec;
use crate::store::dialect::Leaving;
use crate::store::error::StoreError;
use crate::store::rows::int;
use crate::store::schema::webhook_deliveries as deliveries;
use crate::store::status_is::{StatusIsPending, StatusIsSending};
use crate::store::writes::Claim;

/// Makes due deliveries `sending`. Deliveries that have changed since they were read are skipped.
pub(super) fn claim(
    conn: &mut SqliteConnection,
    claim: &Claim,
) -> Result<Vec<Claimed>, StoreError> {
    struct Here;
    let at = claim.at.as_micros();
    let mut claimed = Vec::with_capacity(claim.wanted.len());
    for (id, Seen { claim_no, life }) in &claim.wanted {
        let changes = (
            deliveries::status.eq(Status::Sending.as_str()),
            deliveries::next_attempt_at.eq(None::<i64>),
            deliveries::claim_no.eq(claim_no + 1),
            deliveries::owner_epoch.eq(claim.lease.epoch),
            deliveries::claimed_at.eq(Some(at)),
            deliveries::updated_at.eq(at),
        );
        // The read row determines the claimed row, so nothing is returned: `RETURNING` would make
        // SQLite open and close a table for each run.
        let as_seen = deliveries::id
            .eq(id.as_str())
            .and(StatusIsPending)
            .and(Plain(deliveries::next_attempt_at).le(claim.due_by.as_micros()))
            .and(Plain(deliveries::claim_no).eq(claim_no))
            .and(Plain(deliveries::retries_used).eq(int(life.retries_used)))
            .and(Plain(deliveries::attempt_count).eq(int(life.attempt_count)))
            .and(Plain(deliveries::interruptions).eq(int(life.interruptions)))
            .and(Plain(deliveries::in_line).eq(life.in_order));
        if Update::new(Here, "webhook_deliveries", changes, as_seen).execute(conn)? == 1 {
            claimed.push(Claimed {
                id: id.clone(),
                claim_no: claim_no + 1,
                epoch: claim.lease.epoch,
                claimed_at: claim.at,
                life: Life {
                    state: State::Sending,
                    ..*life
                },
            });
        }
    }
    Ok(claimed)
}

/// Ends a claim. Returns false, and writes nothing, if it had been reclaimed.
pub(super) fn leave_sending(
    conn: &mut SqliteConnection,
    leaving: &Leaving<'_>,
) -> Result<bool, StoreError> {
    struct Here;
    let Leaving { claimed, life, at } = leaving;
    let changes = (
        codec::life_columns(life),
        deliveries::claimed_at.eq(None::<i64>),
        deliveries::updated_at.eq(at.as_micros()),
    );
    let claim = deliveries::id
        .eq(claimed.id.as_str())
        .and(StatusIsSending)
        .and(Plain(deliveries::owner_epoch).eq(claimed.epoch))
        .and(Plain(deliveries::claim_no).eq(claimed.claim_no));
    Ok(Update::new(Here, "webhook_deliveries", changes, claim).execute(conn)? == 1)
}
