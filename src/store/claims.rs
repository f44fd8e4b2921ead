//! Claims: their start, and their end by an outcome, an interruption or a release.
//! `domain::lifecycle` decides the delivery's next state; it is written here, identically on every
//! database.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use diesel::prelude::*;

use super::attempt_codec;
use super::codec;
use super::connection::{AnyBackend, AnyConnection};
use super::delivery_rows::shard_numbers;
use super::dialect::Leaving;
use super::due_index::{DueIndex, FAR, ranges_of, walk};
use super::error::StoreError;
use super::health::{SharedHealth, record_health};
use super::hint::Hint;
use super::numbers::of_endpoint;
use super::ordering::{BlockedDelivery, blocked_by_order};
use super::rows::{DeliveryRow, KeyColumns};
use super::schema::webhook_deliveries as deliveries;
use super::tails::tails_of;
use super::tx::Tx;
use super::write_request::{PendingWrite, WriteRequest};
use super::writes::{Claim, ClaimResult, Interruption, Recorded, Scope};
use crate::domain::breaker::Verdict;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{ClaimName, Claimed, FinishedAttempt, Stored};
use crate::domain::endpoint::Endpoint;
use crate::domain::handover::OnWire;
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{Cause, Life, Status};
use crate::domain::settings::Ordering;
use crate::ports::failpoint;

/// Claims read at once.
const ROWS_AT_ONCE: usize = 500;

/// A claim whose lease and endpoint have been checked.
struct CheckedClaim<'c> {
    /// The claim without the deliveries that are blocked by their ordering key.
    claim: Cow<'c, Claim>,
    blocked: Vec<BlockedDelivery>,
    output: &'c mut Option<ClaimResult>,
}

impl Tx<'_> {
    /// Claims for all supervisors of a group that still own their endpoint.
    pub(super) fn claim_all(&mut self, requests: &mut [WriteRequest]) -> Result<(), StoreError> {
        let writes: Vec<_> = requests
            .iter_mut()
            .filter_map(WriteRequest::as_claim)
            .collect();
        if writes.is_empty() {
            return Ok(());
        }
        let leases: HashSet<Lease> = writes.iter().map(|write| write.input.lease).collect();
        let held = self.conn.dialect().hold(&leases)?;
        let ids = writes.iter().map(|write| &write.input.endpoint_id);
        self.cache.prefetch(self.conn, self.codec, ids)?;
        let mut checked = Vec::with_capacity(writes.len());
        for write in writes {
            write.output = Some(ClaimResult::default());
            let endpoint = self
                .cache
                .get(self.conn, self.codec, &write.input.endpoint_id)?;
            if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.is_active())
                && held.contains(&write.input.lease)
            {
                let (claim, blocked) = self.in_order(&endpoint, &write.input)?;
                checked.push(CheckedClaim {
                    claim,
                    blocked,
                    output: &mut write.output,
                });
            }
        }
        let claims: Vec<&Claim> = checked.iter().map(|one| &*one.claim).collect();
        let claimed = self.conn.dialect().claim(&claims)?;
        for (one, claimed) in checked.into_iter().zip(claimed) {
            let deferred = self.defer_for_order(&one.blocked, one.claim.at)?;
            *one.output = Some(ClaimResult { claimed, deferred });
        }
        Ok(())
    }

    /// Splits a claim into the deliveries at the head of their ordering key, and the blocked ones.
    fn in_order<'c>(
        &mut self,
        endpoint: &Endpoint,
        claim: &'c Claim,
    ) -> Result<(Cow<'c, Claim>, Vec<BlockedDelivery>), StoreError> {
        if endpoint.settings.ordering == Ordering::None {
            return Ok((Cow::Borrowed(claim), Vec::new()));
        }
        let keys: Vec<DeliveryKey> = claim.keys().collect();
        let blocked = blocked_by_order(self.conn, &keys, &claim.under_way)?;
        let mut claim = claim.clone();
        claim
            .wanted
            .retain(|(key, _)| blocked.iter().all(|one| one.key != *key));
        Ok((Cow::Owned(claim), blocked))
    }

    /// Writes all outcomes of a group (state, attempt row, next attempt and the endpoint's health),
    /// and their operational events. Returns true if there were any.
    pub(super) fn record_all(&mut self, requests: &mut [WriteRequest]) -> Result<bool, StoreError> {
        let mut writes: Vec<_> = requests
            .iter_mut()
            .filter_map(WriteRequest::as_record)
            .collect();
        if writes.is_empty() {
            return Ok(false);
        }
        let ids = writes.iter().map(|write| &write.input.endpoint_id);
        self.cache.prefetch(self.conn, self.codec, ids)?;
        self.judge_after_handover(&mut writes)?;
        let mut endpoints = Vec::with_capacity(writes.len());
        let mut leaving = Vec::with_capacity(writes.len());
        for write in &writes {
            let finished = &write.input;
            let endpoint = self
                .cache
                .get(self.conn, self.codec, &finished.endpoint_id)?;
            let cause = cause_of(finished, endpoint.as_deref());
            leaving.push(Leaving::by(&finished.claimed, &cause, finished.ended_at));
            endpoints.push(endpoint);
        }
        let lives = self.leave(leaving)?;
        let mut rows = Vec::with_capacity(lives.len());
        // In the same order on every node, so that no two wait for each other's endpoints.
        let mut ended: Vec<_> = writes.iter_mut().zip(&endpoints).zip(lives).collect();
        ended.sort_by(|((one, _), _), ((other, _), _)| {
            one.input.endpoint_id.cmp(&other.input.endpoint_id)
        });
        for ((write, endpoint), life) in ended {
            let Some(life) = life else {
                write.output = Some(Recorded::Stale);
                continue;
            };
            let mut health_is_current = true;
            if write.input.stored != Stored::Held {
                rows.push(attempt_codec::attempt_row(&write.input, life.attempt_count));
                health_is_current = self.after_outcome(&write.input, &life, endpoint.as_deref())?;
            }
            write.output = Some(Recorded::Written {
                life,
                health_is_current,
            });
        }
        self.conn.dialect().insert_attempts(&rows)?;
        Ok(true)
    }

    /// Judges the outcomes of shards that were given up: the endpoint's health is now its new
    /// owner's, who learns of the outcome with the commit.
    fn judge_after_handover(
        &mut self,
        writes: &mut [&mut PendingWrite<FinishedAttempt, Recorded>],
    ) -> Result<(), StoreError> {
        let inputs = writes.iter().map(|write| &write.input);
        let given_up: BTreeSet<EndpointId> = inputs
            .filter(|finished| finished.is_after_handover)
            .map(|finished| finished.endpoint_id.clone())
            .collect();
        if given_up.is_empty() {
            return Ok(());
        }
        failpoint!("recording-tail");
        let mut health = SharedHealth::lock(self.conn, &given_up.iter().collect())?;
        for write in writes {
            let finished = &mut write.input;
            if !finished.is_after_handover {
                continue;
            }
            let endpoint = self
                .cache
                .get(self.conn, self.codec, &finished.endpoint_id)?;
            if let Some(endpoint) = endpoint {
                health.judge(finished, &endpoint);
            }
        }
        self.conn
            .dialect()
            .announce(Hint::Due(given_up.into_iter().collect()))
    }

    /// Writes the consequences of an outcome beyond its own rows. Returns false if somebody else
    /// has changed the endpoint's health.
    fn after_outcome(
        &mut self,
        finished: &FinishedAttempt,
        life: &Life,
        endpoint: Option<&Endpoint>,
    ) -> Result<bool, StoreError> {
        if finished.claimed.life.leaves_order(life) {
            self.promote_next(finished.claimed.key, finished.ended_at)?;
        }
        let Some(endpoint) = endpoint else {
            return Ok(true);
        };
        let is_current = record_health(self.conn, finished)?;
        self.publish_outcome_events(finished, life, endpoint)?;
        Ok(is_current)
    }

    /// Ends claims. Returns the lives of those that were still valid.
    fn leave(
        &mut self,
        leaving: Vec<Option<Leaving<'_>>>,
    ) -> Result<Vec<Option<Life>>, StoreError> {
        let allowed: Vec<bool> = leaving.iter().map(Option::is_some).collect();
        let leaving: Vec<Leaving<'_>> = leaving.into_iter().flatten().collect();
        let left = match leaving[..] {
            [] => Vec::new(),
            _ => self.conn.dialect().leave_sending(&leaving)?,
        };
        let mut lives = leaving
            .iter()
            .zip(left)
            .map(|(one, left)| left.then_some(one.life));
        let life = |allowed: bool| {
            if allowed {
                lives.next().flatten()
            } else {
                None
            }
        };
        Ok(allowed.into_iter().map(life).collect())
    }

    /// Reclaims the deliveries that a dead owner left `sending`, and logs each as interrupted.
    /// Returns their number.
    pub(crate) fn interrupt(
        &mut self,
        scope: &Scope,
        interruption: Interruption,
    ) -> Result<usize, StoreError> {
        let claims = sending(self.conn, scope)?;
        self.interrupt_claims(&claims, interruption)
    }

    /// Logs one interrupted claim. Returns false if it had been
    /// reclaimed already.
    pub(crate) fn interrupt_claim(
        &mut self,
        claimed: &Claimed,
        interruption: Interruption,
    ) -> Result<bool, StoreError> {
        Ok(self.interrupt_claims(std::slice::from_ref(claimed), interruption)? > 0)
    }

    fn interrupt_claims(
        &mut self,
        claims: &[Claimed],
        interruption: Interruption,
    ) -> Result<usize, StoreError> {
        let Interruption { at, counts, reason } = interruption;
        let cause = Cause::Interrupted { at, counts };
        let leaving = claims
            .iter()
            .map(|claimed| Leaving::by(claimed, &cause, at))
            .collect();
        let lives = self.leave(leaving)?;
        let left = claims.iter().zip(lives).filter(|(_, life)| life.is_some());
        let rows: Vec<_> = left
            .map(|(claimed, _)| attempt_codec::interrupted_row(claimed, at, reason))
            .collect();
        self.conn.dialect().insert_attempts(&rows)?;
        Ok(rows.len())
    }

    /// Releases claims that were never started: no attempt row, no retry, no interruption. Claims
    /// that were reclaimed meanwhile are skipped.
    pub(crate) fn release(&mut self, claims: &[Claimed], at: Timestamp) -> Result<(), StoreError> {
        let cause = Cause::Released { at };
        let leaving = claims
            .iter()
            .map(|claimed| Leaving::by(claimed, &cause, at))
            .collect();
        self.leave(leaving)?;
        Ok(())
    }

    /// Releases claims that no attempt holds, if they are still valid.
    pub(crate) fn reclaim(&mut self, names: &[ClaimName], at: Timestamp) -> Result<(), StoreError> {
        let claims = standing_claims(self.conn, names)?;
        self.release(&claims, at)
    }
}

/// Maps an attempt's outcome to a lifecycle cause. `endpoint` is `None` once it has been deleted.
fn cause_of<'a>(finished: &FinishedAttempt, endpoint: Option<&'a Endpoint>) -> Cause<'a> {
    if finished.stored == Stored::Held {
        return Cause::RefusedByDatabase;
    }
    let at = finished.due_from;
    let schedule = endpoint.map(|endpoint| &endpoint.limits.retry_schedule);
    // The delivery of a failed probe, or one in flight when the breaker opened, waits for the next
    // probe.
    let changed = finished.health != finished.health_before;
    let not_before = finished.health.opens_at().filter(|_| changed);
    match finished.verdict() {
        Verdict::Accepted => Cause::Accepted {
            at: finished.ended_at,
        },
        Verdict::Inconclusive => Cause::ConnectionLost { at },
        Verdict::RetryAfter(_) | Verdict::Gone if endpoint.is_some() => Cause::Deferred {
            until: finished.deferred_until.unwrap_or(at),
        },
        _ => {
            let blocks = endpoint.is_some_and(Endpoint::blocks_on_failure);
            Cause::Rejected {
                at,
                schedule,
                jitter: finished.jitter,
                not_before,
                blocks,
            }
        }
    }
}

/// Reads the claims of a scope, without those of a tail: their process may still record them.
fn sending(conn: &mut AnyConnection, scope: &Scope) -> Result<Vec<Claimed>, StoreError> {
    let (rows, leases): (Vec<DeliveryRow>, &[Lease]) = match scope {
        Scope::Shards(leases) => {
            let keys = sending_keys(conn, &shard_numbers(leases))?;
            let mut rows = Vec::with_capacity(keys.len());
            for part in keys.chunks(ROWS_AT_ONCE) {
                rows.extend(rows_of(conn, part)?);
            }
            (rows, leases)
        }
        Scope::Endpoint(id, lease) => (
            claim_rows().filter(of_endpoint(id)).load(conn)?,
            std::slice::from_ref(lease),
        ),
    };
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let tails = tails_of(conn, leases)?;
    let on_wire: HashSet<ClaimName> = tails
        .iter()
        .flat_map(|(_, tail)| tail.attempts.iter().map(OnWire::claim))
        .collect();
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let claimed = codec::claimed(row)?;
        if on_wire.contains(&(claimed.key, claimed.claim_no)) {
            continue;
        }
        let shard = Shard::of_number(claimed.key.endpoint);
        if leases
            .iter()
            .any(|lease| lease.shard == shard && claimed.epoch <= lease.epoch)
        {
            found.push(claimed);
        }
    }
    Ok(found)
}

/// Reads the keys of all claims in shards: endpoint by endpoint, through the index of what is due.
fn sending_keys(conn: &mut AnyConnection, shards: &[i32]) -> Result<Vec<DeliveryKey>, StoreError> {
    let sending = conn.dialect().join_each_delivery(
        "live",
        "found.event_seq",
        &format!(
            "found.endpoint = live.endpoint AND found.due_at IS NOT NULL \
             AND found.due_at <= {FAR} AND found.status = '{}'",
            Status::Sending
        ),
    );
    let sql = format!(
        "WITH RECURSIVE {walk}, live AS MATERIALIZED ( \
             SELECT endpoint FROM walk WHERE endpoint IS NOT NULL \
         ) SELECT found.event_seq, live.endpoint FROM {sending} WHERE found.event_seq IS NOT NULL",
        walk = walk("walk", DueIndex::Live, &ranges_of(shards)),
    );
    let keys: Vec<KeyColumns> = diesel::sql_query(sql).load(conn)?;
    Ok(keys.into_iter().map(DeliveryKey::from).collect())
}

/// Reads those of the deliveries that are `sending`.
fn rows_of(conn: &mut AnyConnection, keys: &[DeliveryKey]) -> Result<Vec<DeliveryRow>, StoreError> {
    let mut rows: Vec<DeliveryRow> = claim_rows()
        .filter(deliveries::event_seq.eq_any(keys.iter().map(|key| key.event_seq)))
        .filter(deliveries::endpoint.eq_any(keys.iter().map(|key| key.endpoint)))
        .load(conn)?;
    rows.retain(|row| keys.contains(&row.key.into()));
    Ok(rows)
}

/// Selects all claims.
#[diesel::dsl::auto_type]
fn claim_rows() -> _ {
    let row: diesel::dsl::AsSelect<DeliveryRow, AnyBackend> = DeliveryRow::as_select();
    let sending: &'static str = Status::Sending.as_str();
    deliveries::table
        .filter(deliveries::due_at.is_not_null())
        .filter(deliveries::status.eq(sending))
        .select(row)
}

/// Reads those of the claims that are still valid.
pub(super) fn standing_claims(
    conn: &mut AnyConnection,
    names: &[ClaimName],
) -> Result<Vec<Claimed>, StoreError> {
    let keys: Vec<DeliveryKey> = names.iter().map(|(key, _)| *key).collect();
    let rows = rows_of(conn, &keys)?;
    let claims = rows
        .iter()
        .map(codec::claimed)
        .collect::<Result<Vec<_>, _>>()?;
    let named = |claim: &Claimed| names.contains(&(claim.key, claim.claim_no));
    Ok(claims.into_iter().filter(named).collect())
}
