//! Claims and their ends on SQLite, row by row.

use diesel::prelude::*;

use super::update::{Plain, Update};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Seen};
use crate::domain::lifecycle::{Life, State, Status};
use crate::store::codec;
use crate::store::delivery_rows::failed_at;
use crate::store::dialect::Leaving;
use crate::store::error::StoreError;
use crate::store::rows::int;
use crate::store::schema::webhook_deliveries as deliveries;
use crate::store::writes::Claim;

const TABLE: &str = "webhook_deliveries";

/// Makes due deliveries `sending`. Deliveries that have changed since they were read are skipped.
pub(super) fn claim(
    conn: &mut SqliteConnection,
    claim: &Claim,
) -> Result<Vec<Claimed>, StoreError> {
    struct Here;
    let at = claim.at.as_micros();
    let mut claimed = Vec::with_capacity(claim.wanted.len());
    for (key, Seen { claim_no, life }) in &claim.wanted {
        let changes = (
            deliveries::status.eq(Status::Sending.as_str()),
            deliveries::claim_no.eq(claim_no + 1),
            deliveries::owner_epoch.eq(claim.lease.epoch),
            deliveries::claimed_at.eq(Some(at)),
            deliveries::updated_at.eq(at),
        );
        // The read row determines the claimed row, so nothing is returned: `RETURNING` would make
        // SQLite open and close a table for each run.
        let as_seen = deliveries::event_seq
            .eq(key.event_seq)
            .and(deliveries::endpoint.eq(key.endpoint))
            .and(Plain(deliveries::status).eq(Status::Pending.as_str()))
            .and(Plain(deliveries::due_at).le(claim.due_by.as_micros()))
            .and(Plain(deliveries::claim_no).eq(claim_no))
            .and(Plain(deliveries::retries_used).eq(int(life.retries_used)))
            .and(Plain(deliveries::attempt_count).eq(int(life.attempt_count)))
            .and(Plain(deliveries::interruptions).eq(int(life.interruptions)))
            .and(Plain(deliveries::in_order).eq(life.in_order));
        if Update::new(Here, TABLE, changes, as_seen).execute(conn)? == 1 {
            claimed.push(Claimed {
                key: *key,
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
    struct Delivered;
    struct Other;
    let Leaving { claimed, life, at } = leaving;
    let ended = (
        deliveries::claimed_at.eq(None::<i64>),
        deliveries::updated_at.eq(at.as_micros()),
    );
    let claim = deliveries::event_seq
        .eq(claimed.key.event_seq)
        .and(deliveries::endpoint.eq(claimed.key.endpoint))
        .and(Plain(deliveries::status).eq(Status::Sending.as_str()))
        .and(Plain(deliveries::owner_epoch).eq(claimed.epoch))
        .and(Plain(deliveries::claim_no).eq(claimed.claim_no));
    let rows = if life.state == State::Delivered && !claimed.life.in_order {
        // The usual end names no column of another index than the one of what is due: SQLite does
        // not look at the others.
        let changes = (
            deliveries::status.eq(life.state.status().as_str()),
            deliveries::due_at.eq(None::<i64>),
            deliveries::retries_used.eq(int(life.retries_used)),
            deliveries::attempt_count.eq(int(life.attempt_count)),
            deliveries::interruptions.eq(int(life.interruptions)),
            deliveries::delivered_at.eq(life.delivered_at.map(Timestamp::as_micros)),
            ended,
        );
        Update::new(Delivered, TABLE, changes, claim).execute(conn)?
    } else {
        let changes = (
            codec::life_columns(life),
            deliveries::failed_at.eq(failed_at(life, *at)),
            ended,
        );
        Update::new(Other, TABLE, changes, claim).execute(conn)?
    };
    Ok(rows == 1)
}
