//! Handover of shards in which attempts are in flight: giving them up, and the end of their tails.

use std::time::Duration;

use diesel::prelude::*;

use super::claims::standing_claims;
use super::connection::AnyConnection;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::hint::Hint;
use super::lease_codec;
use super::leases::{LeaseTerm, now_and_end, shards as all_shards};
use super::schema::webhook_shards as shards;
use super::store::Store;
use super::tails::drop_tail;
use super::tx::Tx;
use super::writes::Interruption;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{ClaimName, Claimed};
use crate::domain::handover::{OnWire, Tail, TailEnd};
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Shard};

/// A lease to hand over while attempts of it are in flight.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    pub(crate) lease: Lease,
    pub(crate) attempts: Vec<OnWire>,
    /// Time until the last of them has ended.
    pub(crate) remaining: Duration,
}

impl Store {
    /// Reads those of the claims that are still valid.
    pub(crate) async fn standing_claims(
        &self,
        names: Vec<ClaimName>,
    ) -> Result<Vec<Claimed>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| standing_claims(conn, &names);
        self.read("standing claims", read).await
    }
}

impl Tx<'_> {
    /// Gives up shards while attempts are in flight in them: others may take them immediately, and
    /// learn so with the commit. The attempts become the shards' tails, unless there is one.
    pub(crate) fn hand_over(
        &mut self,
        handovers: &[Handover],
        margin: Duration,
        by: &LeaseTerm<'_>,
    ) -> Result<(), StoreError> {
        if handovers.is_empty() {
            return Ok(());
        }
        let (now, _) = now_and_end(self.conn, by.ttl, by.clock)?;
        for handover in handovers {
            let Lease { shard, epoch } = handover.lease;
            let until = now + handover.remaining + margin;
            diesel::update(
                shards::table
                    .filter(shards::shard.eq(shard.number()))
                    .filter(shards::epoch.eq(epoch))
                    .filter(shards::holder.eq(Some(by.holder.as_str())))
                    .filter(shards::tail_instance.is_null()),
            )
            .set((
                shards::epoch.eq(epoch + 1),
                shards::holder.eq(None::<String>),
                shards::expires_at.eq(None::<i64>),
                shards::tail_instance.eq(Some(by.holder.as_str())),
                shards::tail_epoch.eq(Some(epoch)),
                shards::tail_until.eq(Some(until.as_micros())),
                shards::tail_attempts.eq(Some(lease_codec::on_wire_text(&handover.attempts))),
            ))
            .execute(self.conn)?;
        }
        self.conn.dialect().announce(Hint::Leases)
    }

    /// Removes the tails of a process whose attempts are all recorded.
    pub(crate) fn drop_tails(
        &mut self,
        given_up: &[Lease],
        instance: &InstanceId,
    ) -> Result<(), StoreError> {
        for Lease { shard, epoch } in given_up {
            drop_tail(self.conn, *shard, instance, *epoch)?;
        }
        match given_up {
            [] => Ok(()),
            _ => self.conn.dialect().announce(Hint::Leases),
        }
    }

    /// Ends tails: their deliveries that have no outcome become pending, as interrupted.
    pub(crate) fn end_tails(
        &mut self,
        tails: &[(Shard, Tail, TailEnd)],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for (shard, tail, end) in tails {
            let counts = *end == TailEnd::Overdue;
            let reason = match counts {
                true => {
                    "the process that sent it gave its shard up, and ended before it had an outcome"
                }
                false => "stopped",
            };
            let interruption = Interruption { at, counts, reason };
            let names: Vec<ClaimName> = tail.attempts.iter().map(OnWire::claim).collect();
            let claims = standing_claims(self.conn, &names)?;
            for claimed in claims.iter().filter(|one| one.epoch == tail.epoch) {
                self.interrupt_claim(claimed, interruption)?;
            }
            drop_tail(self.conn, *shard, &tail.instance, tail.epoch)?;
        }
        Ok(())
    }

    /// Ends the tails of processes: their deliveries that have no outcome become pending.
    pub(crate) fn end_tails_of(
        &mut self,
        instances: &[InstanceId],
        end: TailEnd,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let (now, _) = now_and_end(self.conn, Duration::ZERO, clock)?;
        let tails = all_shards(self.conn, now)?.into_iter().filter_map(|state| {
            let tail = state.tail?;
            instances
                .contains(&tail.instance)
                .then_some((state.lease.shard, tail, end))
        });
        self.end_tails(&tails.collect::<Vec<_>>(), clock.now())
    }
}
