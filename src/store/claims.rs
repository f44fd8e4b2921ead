//! Claims: their start, and their end by an outcome, an interruption or a release.
//! `domain::lifecycle` decides the delivery's next state; it is written here, identically on every
//! database.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::delivery_rows::{of_endpoint, shard_numbers};
use super::dialect::Leaving;
use super::error::StoreError;
use super::health::record_health;
use super::ordering::{BlockedDelivery, blocked_by_order};
use super::rows::DeliveryRow;
use super::schema::webhook_deliveries as deliveries;
use super::status_is::StatusIsSending;
use super::tx::Tx;
use super::write_request::WriteRequest;
use super::writes::{Claim, ClaimResult, Interruption, Recorded, Scope};
use crate::domain::breaker::Verdict;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{ClaimName, Claimed, FinishedAttempt, Stored};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{Cause, Life};
use crate::domain::settings::Ordering;

/// A claim whose lease and endpoint have been checked.
struct CheckedClaim<'c> {
    /// The claim without the deliveries that are blocked by their ordering key.
    claim: Cow<'c, Claim>,
    blocked: Vec<BlockedDelivery>,
    endpoint: Arc<Endpoint>,
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
                    endpoint,
                    output: &mut write.output,
                });
            }
        }
        let claims: Vec<&Claim> = checked.iter().map(|one| &*one.claim).collect();
        let claimed = self.conn.dialect().claim(&claims)?;
        for (one, claimed) in checked.into_iter().zip(claimed) {
            let deferred = self.defer_for_order(&one.endpoint, &one.blocked, one.claim.at)?;
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
        let blocked = blocked_by_order(self.conn, &endpoint.id, claim.ids())?;
        let mut claim = claim.clone();
        claim
            .wanted
            .retain(|(id, _)| blocked.iter().all(|one| one.id != *id));
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
        for ((write, endpoint), life) in writes.iter_mut().zip(&endpoints).zip(lives) {
            let Some(life) = life else {
                write.output = Some(Recorded::Stale);
                continue;
            };
            let mut health_is_current = true;
            if write.input.stored != Stored::Held {
                rows.push(codec::attempt_row(&write.input, life.attempt_count));
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

    /// Writes the consequences of an outcome beyond its own rows. Returns false if somebody else
    /// has changed the endpoint's health.
    fn after_outcome(
        &mut self,
        finished: &FinishedAttempt,
        life: &Life,
        endpoint: Option<&Endpoint>,
    ) -> Result<bool, StoreError> {
        if finished.claimed.life.leaves_order(life) {
            self.promote_next(&finished.claimed.id, finished.ended_at)?;
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
        let sending = sending(self.conn, scope)?;
        let claims: Vec<_> = sending.iter().map(|(id, claimed)| (id, claimed)).collect();
        self.interrupt_claims(&claims, interruption)
    }

    /// Logs one interrupted claim. Returns false if it had been
    /// reclaimed already.
    pub(crate) fn interrupt_claim(
        &mut self,
        endpoint_id: &EndpointId,
        claimed: &Claimed,
        interruption: Interruption,
    ) -> Result<bool, StoreError> {
        Ok(self.interrupt_claims(&[(endpoint_id, claimed)], interruption)? > 0)
    }

    fn interrupt_claims(
        &mut self,
        claims: &[(&EndpointId, &Claimed)],
        interruption: Interruption,
    ) -> Result<usize, StoreError> {
        let Interruption { at, counts, reason } = interruption;
        let cause = Cause::Interrupted { at, counts };
        let leaving = claims
            .iter()
            .map(|(_, claimed)| Leaving::by(claimed, &cause, at))
            .collect();
        let lives = self.leave(leaving)?;
        let left = claims.iter().zip(lives).filter(|(_, life)| life.is_some());
        let rows: Vec<_> = left
            .map(|((id, claimed), _)| codec::interrupted_row(claimed, id.as_str(), at, reason))
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
    match finished.verdict {
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

/// Reads the claims of a scope, each with its endpoint.
fn sending(
    conn: &mut AnyConnection,
    scope: &Scope,
) -> Result<Vec<(EndpointId, Claimed)>, StoreError> {
    let all = deliveries::table
        .filter(StatusIsSending)
        .select(DeliveryRow::as_select());
    let (rows, leases): (Vec<DeliveryRow>, &[Lease]) = match scope {
        Scope::Shards(leases) => (
            all.filter(deliveries::shard.eq_any(shard_numbers(leases)))
                .load(conn)?,
            leases,
        ),
        Scope::Endpoint(id, lease) => (
            all.filter(of_endpoint(id)).load(conn)?,
            std::slice::from_ref(lease),
        ),
    };
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let endpoint = EndpointId::from_text(row.endpoint_id.as_str());
        let claimed = codec::claimed(row)?;
        let shard = Shard::of(&endpoint);
        if leases
            .iter()
            .any(|lease| lease.shard == shard && claimed.epoch <= lease.epoch)
        {
            found.push((endpoint, claimed));
        }
    }
    Ok(found)
}

/// Reads those of the claims that are still valid.
fn standing_claims(
    conn: &mut AnyConnection,
    names: &[ClaimName],
) -> Result<Vec<Claimed>, StoreError> {
    let ids: Vec<&str> = names.iter().map(|(id, _)| id.as_str()).collect();
    let rows: Vec<DeliveryRow> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::id.eq_any(ids))
        .select(DeliveryRow::as_select())
        .load(conn)?;
    let claims = rows
        .iter()
        .map(codec::claimed)
        .collect::<Result<Vec<_>, _>>()?;
    let named = |claim: &Claimed| {
        names
            .iter()
            .any(|(id, claim_no)| *id == claim.id && *claim_no == claim.claim_no)
    };
    Ok(claims.into_iter().filter(named).collect())
}
