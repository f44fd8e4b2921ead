//! How claims end: by an outcome, an interruption, or because they were never started. What becomes
//! of a delivery is `domain::lifecycle`'s to say; here it is written down, the same on every
//! database.

use super::query::{self, ClaimName};
use super::transactions::Leaving;
use super::writer::Scope;
use super::{Member, Recorded, StoreError, Tx, codec};
use crate::domain::breaker::Verdict;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Finished, Stored};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::domain::lifecycle::{Cause, Life};

/// What an outcome is to the lifecycle. `endpoint` is `None` once it has been deleted.
fn cause_of<'a>(finished: &Finished, endpoint: Option<&'a Endpoint>) -> Cause<'a> {
    if finished.stored == Stored::Held {
        return Cause::RefusedByDatabase;
    }
    let at = finished.due_from;
    let schedule = endpoint.map(|endpoint| &endpoint.retry_schedule);
    // What is left of a probe, or was in flight when the breaker opened, waits for the next probe.
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
            let blocks = endpoint.is_some_and(Endpoint::keeps_waiting);
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

impl Tx<'_> {
    /// Writes all outcomes of a group (state, attempt row, next attempt and the endpoint's health),
    /// and tells of what they led to.
    pub(super) fn record_all(&mut self, members: &mut [Member]) -> Result<(), StoreError> {
        let mut slots: Vec<_> = members.iter_mut().filter_map(Member::as_record).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let mut endpoints = Vec::with_capacity(slots.len());
        for slot in &slots {
            endpoints.push(
                self.cache
                    .get(self.conn, self.codec, &slot.input.endpoint_id)?,
            );
        }
        let leaving: Vec<_> = slots
            .iter()
            .zip(&endpoints)
            .map(|(slot, endpoint)| {
                let cause = cause_of(&slot.input, endpoint.as_deref());
                Leaving::by(&slot.input.claimed, &cause, slot.input.ended_at)
            })
            .collect();
        let lives = self.leave(leaving)?;
        let mut rows = Vec::with_capacity(lives.len());
        let mut health_is_current = vec![true; lives.len()];
        for (place, ((slot, endpoint), life)) in
            slots.iter().zip(&endpoints).zip(&lives).enumerate()
        {
            let Some(life) = life else { continue };
            if slot.input.stored == Stored::Held {
                continue;
            }
            rows.push(codec::attempt_row(&slot.input, life.attempt_count));
            if slot.input.claimed.life.leaves_line(life) {
                self.move_up(&slot.input.claimed.id, slot.input.ended_at)?;
            }
            if let Some(endpoint) = endpoint {
                health_is_current[place] = query::record_health(self.conn, &slot.input)?;
                self.announce_outcome(&slot.input, life, endpoint)?;
            }
        }
        self.conn.own().insert_attempts(&rows)?;
        for ((slot, life), health_is_current) in slots.iter_mut().zip(lives).zip(health_is_current)
        {
            slot.output = Some(match life {
                Some(life) => Recorded::Written {
                    life,
                    health_is_current,
                },
                None => Recorded::Stale,
            });
        }
        Ok(())
    }

    /// Ends claims; what became of those that still stood.
    fn leave(
        &mut self,
        leaving: Vec<Option<Leaving<'_>>>,
    ) -> Result<Vec<Option<Life>>, StoreError> {
        let allowed: Vec<bool> = leaving.iter().map(Option::is_some).collect();
        let leaving: Vec<Leaving<'_>> = leaving.into_iter().flatten().collect();
        let left = if leaving.is_empty() {
            Vec::new()
        } else {
            self.conn.own().leave_sending(&leaving)?
        };
        let mut lives = leaving
            .iter()
            .zip(left)
            .map(|(one, left)| left.then_some(one.life));
        Ok(allowed
            .into_iter()
            .map(|allowed| {
                if allowed {
                    lives.next().flatten()
                } else {
                    None
                }
            })
            .collect())
    }

    /// Takes back what a dead owner left `sending`, and logs each as interrupted.
    ///
    /// `counts` is false after a clean stop. Returns how many there were.
    pub(crate) fn interrupt(
        &mut self,
        scope: &Scope,
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<usize, StoreError> {
        let sending = query::sending(self.conn, scope)?;
        let claims: Vec<_> = sending
            .iter()
            .map(|(endpoint, claimed)| (endpoint, claimed))
            .collect();
        self.interrupt_claims(&claims, at, counts, why)
    }

    /// Logs one claim whose attempt broke off as interrupted. False if it was taken away already.
    pub(crate) fn interrupt_claim(
        &mut self,
        endpoint_id: &EndpointId,
        claimed: &Claimed,
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<bool, StoreError> {
        Ok(self.interrupt_claims(&[(endpoint_id, claimed)], at, counts, why)? > 0)
    }

    fn interrupt_claims(
        &mut self,
        claims: &[(&EndpointId, &Claimed)],
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<usize, StoreError> {
        let cause = Cause::Interrupted { at, counts };
        let lives = self.leave(
            claims
                .iter()
                .map(|(_, claimed)| Leaving::by(claimed, &cause, at))
                .collect(),
        )?;
        let left = claims.iter().zip(lives).filter(|(_, life)| life.is_some());
        let rows: Vec<_> = left
            .map(|((endpoint, claimed), _)| {
                codec::interrupted_row(claimed, endpoint.as_str(), at, why)
            })
            .collect();
        self.conn.own().insert_attempts(&rows)?;
        Ok(rows.len())
    }

    /// Lets claims go that were never started: no attempt row, no retry, no interruption. Those
    /// that were taken away meanwhile are passed over.
    pub(crate) fn release(&mut self, claims: &[Claimed], at: Timestamp) -> Result<(), StoreError> {
        let cause = Cause::Released { at };
        self.leave(
            claims
                .iter()
                .map(|claimed| Leaving::by(claimed, &cause, at))
                .collect(),
        )?;
        Ok(())
    }

    /// Lets claims go that no attempt holds, as far as they still stand.
    pub(crate) fn take_back(
        &mut self,
        names: &[ClaimName],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let claims = query::standing_claims(self.conn, names)?;
        self.release(&claims, at)
    }
}
