//! Leases in the database: which process sends for which shards, and what their former owners still
//! have in flight. `domain::lease` decides which ones a process takes.

use std::time::Duration;

use diesel::prelude::*;

use super::claims::standing_claims;
use super::connection::AnyConnection;
use super::dialect::Taking;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::hint::Hint;
use super::lease_codec;
use super::rows::{NodeRow, ShardRow};
use super::schema::{webhook_nodes as nodes, webhook_shards as shards};
use super::store::Store;
use super::tx::Tx;
use super::writes::{Interruption, Scope};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{ClaimName, Claimed};
use crate::domain::handover::{OnWire, Tail, TailEnd};
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, NodeRecord, Shard, ShardState};

/// End of a lease that is bound to a lock file instead of time.
const NEVER: Timestamp = Timestamp::from_micros(i64::MAX);

/// The holders of all shards, at one moment.
pub(crate) struct LeaseView {
    pub(crate) now: Timestamp,
    pub(crate) shards: Vec<ShardState>,
    pub(crate) nodes: Vec<NodeRecord>,
}

impl LeaseView {
    /// Returns the processes that share the shards: they have reported recently, and do not leave.
    pub(crate) fn members(&self) -> Vec<InstanceId> {
        let alive = self.nodes.iter().filter(|node| node.is_alive(self.now));
        let members = alive.filter(|node| !node.leaving);
        members.map(|node| node.instance.clone()).collect()
    }

    /// Notes that a shard's tail was removed since.
    pub(crate) fn drop_tail(&mut self, shard: Shard) {
        let mut states = self.shards.iter_mut();
        if let Some(state) = states.find(|state| state.lease.shard == shard) {
            state.tail = None;
        }
    }

    /// Returns the state of a shard.
    pub(crate) fn shard(&self, shard: Shard) -> Option<&ShardState> {
        self.shards.iter().find(|state| state.lease.shard == shard)
    }
}

/// Leases that were taken over.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) leases: Vec<Lease>,
    /// The tails of their former owners.
    pub(crate) tails: Vec<(Shard, Tail)>,
    /// Monotonic time at which the leases' term was requested.
    pub(crate) asked: Duration,
}

/// A lease to hand over while attempts of it are in flight.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    pub(crate) lease: Lease,
    pub(crate) attempts: Vec<OnWire>,
    /// Time until the last of them has ended.
    pub(crate) remaining: Duration,
}

/// The process that takes leases, and their duration.
#[derive(Clone, Copy)]
pub(crate) struct LeaseTerm<'a> {
    pub(crate) holder: &'a InstanceId,
    /// Former holders that are known to have ended.
    pub(crate) gone: &'a [InstanceId],
    pub(crate) ttl: Duration,
    pub(crate) clock: &'a dyn Clock,
}

impl Store {
    /// Reads the holders of all shards.
    pub(crate) async fn leases(
        &self,
        clock: std::sync::Arc<dyn Clock>,
    ) -> Result<LeaseView, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| view(conn, &*clock);
        self.read("leases", read).await
    }

    /// Reads those of the claims that are still valid.
    pub(crate) async fn standing_claims(
        &self,
        names: Vec<ClaimName>,
    ) -> Result<Vec<Claimed>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| standing_claims(conn, &names);
        self.read("standing claims", read).await
    }

    /// Reads the holders of all shards, on this thread.
    pub(crate) fn leases_here(&self, clock: &dyn Clock) -> Result<LeaseView, StoreError> {
        self.read_here(|conn, _| view(conn, clock))
    }
}

impl Tx<'_> {
    /// Reads the holders of all shards.
    pub(crate) fn leases(&mut self, clock: &dyn Clock) -> Result<LeaseView, StoreError> {
        view(self.conn, clock)
    }

    /// Registers `node` for another term, and extends its leases to the same time.
    pub(crate) fn keep_leases(
        &mut self,
        node: &NodeRecord,
        held: &[Lease],
        term: &LeaseTerm<'_>,
    ) -> Result<(), StoreError> {
        let (_, expires_at) = now_and_end(self.conn, term.ttl, term.clock)?;
        let node = NodeRecord {
            expires_at,
            ..node.clone()
        };
        keep_node(self.conn, &lease_codec::node_row(&node))?;
        renew_leases(self.conn, &node.instance, held, expires_at)
    }

    /// Takes over free shards, and reclaims the deliveries that their former owners left `sending`.
    /// What a former owner gave up knowingly is not searched: nothing is `sending` there but its
    /// tail, which stays.
    pub(crate) fn take_over(
        &mut self,
        wanted: &[Lease],
        term: &LeaseTerm<'_>,
    ) -> Result<Takeover, StoreError> {
        let (now, until) = now_and_end(self.conn, term.ttl, term.clock)?;
        let by = Taking {
            holder: term.holder,
            gone: term.gone,
            now,
            until,
        };
        let taken = self.conn.dialect().take_shards(wanted, &by)?;
        let of_dead = taken.iter().filter(|one| !one.was_free);
        let of_dead: Vec<Lease> = of_dead.map(|one| one.lease).collect();
        let leases: Vec<Lease> = taken.into_iter().map(|one| one.lease).collect();
        let interruption = Interruption {
            at: term.clock.now(),
            counts: true,
            reason: "the process that sent it ended, or lost its lease, before it had an outcome",
        };
        let interrupted = self.interrupt(&Scope::Shards(of_dead), interruption)?;
        if interrupted > 0 {
            tracing::info!(
                interrupted,
                "{interrupted} deliveries were in flight when their last owner ended; they are sent again"
            );
        }
        let tails = tails_of(self.conn, &leases)?;
        // Finding the claims may have taken long.
        let asked = term.clock.monotonic();
        let (_, until) = now_and_end(self.conn, term.ttl, term.clock)?;
        renew_leases(self.conn, term.holder, &leases, until)?;
        Ok(Takeover {
            leases,
            tails,
            asked,
        })
    }

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
        let tails = shards(self.conn, now)?.into_iter().filter_map(|state| {
            let tail = state.tail?;
            instances
                .contains(&tail.instance)
                .then_some((state.lease.shard, tail, end))
        });
        self.end_tails(&tails.collect::<Vec<_>>(), clock.now())
    }

    /// Notes that a process hands its shards over: others share them without it.
    pub(crate) fn note_leaving(&mut self, instance: &InstanceId) -> Result<(), StoreError> {
        diesel::update(nodes::table.find(instance.as_str()))
            .set(nodes::leaving.eq(true))
            .execute(self.conn)?;
        Ok(())
    }

    /// Releases drained leases: nothing in them is `sending`.
    pub(crate) fn release_leases(
        &mut self,
        leases: &[Lease],
        holder: &InstanceId,
    ) -> Result<(), StoreError> {
        release_leases(self.conn, holder, leases)
    }

    /// Releases all leases of a process, ends its tails, and removes its entry.
    pub(crate) fn leave_cluster(
        &mut self,
        leases: &[Lease],
        node: &InstanceId,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        release_leases(self.conn, node, leases)?;
        self.end_tails_of(std::slice::from_ref(node), TailEnd::SignedOff, clock)?;
        self.forget_nodes(std::slice::from_ref(node))
    }

    /// Removes the entries of processes.
    pub(crate) fn forget_nodes(&mut self, instances: &[InstanceId]) -> Result<(), StoreError> {
        let instances = instances.iter().map(InstanceId::as_str);
        diesel::delete(nodes::table.filter(nodes::instance.eq_any(instances)))
            .execute(self.conn)?;
        Ok(())
    }
}

/// Returns the database's time, and the end of a lease that begins now. `clock` learns that time. A
/// lease of a file lasts until its process ends.
fn now_and_end(
    conn: &mut AnyConnection,
    ttl: Duration,
    clock: &dyn Clock,
) -> Result<(Timestamp, Timestamp), StoreError> {
    let asked = clock.monotonic();
    Ok(match conn.dialect().time()? {
        Some(told) => {
            clock.learn(told, asked, clock.monotonic());
            (told, told + ttl)
        }
        None => (clock.now(), NEVER),
    })
}

fn view(conn: &mut AnyConnection, clock: &dyn Clock) -> Result<LeaseView, StoreError> {
    let (now, _) = now_and_end(conn, Duration::ZERO, clock)?;
    let shards = shards(conn, now)?;
    let rows: Vec<NodeRow> = nodes::table
        .order((nodes::started_at, nodes::instance))
        .select(NodeRow::as_select())
        .load(conn)?;
    let nodes = rows.into_iter().map(lease_codec::node).collect();
    Ok(LeaseView { now, shards, nodes })
}

/// Reads all shards, in order.
fn shards(conn: &mut AnyConnection, now: Timestamp) -> Result<Vec<ShardState>, StoreError> {
    let rows: Vec<ShardRow> = shards::table
        .order(shards::shard)
        .select(ShardRow::as_select())
        .load(conn)?;
    rows.into_iter()
        .map(|row| lease_codec::shard(row, now))
        .collect()
}

/// Reads the tails of shards.
pub(super) fn tails_of(
    conn: &mut AnyConnection,
    leases: &[Lease],
) -> Result<Vec<(Shard, Tail)>, StoreError> {
    let numbers: Vec<i32> = leases.iter().map(|lease| lease.shard.number()).collect();
    let rows: Vec<ShardRow> = shards::table
        .filter(shards::shard.eq_any(numbers))
        .filter(shards::tail_instance.is_not_null())
        .select(ShardRow::as_select())
        .load(conn)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let state = lease_codec::shard(row, NEVER)?;
        found.extend(state.tail.map(|tail| (state.lease.shard, tail)));
    }
    Ok(found)
}

/// Removes a tail, unless it is another one.
fn drop_tail(
    conn: &mut AnyConnection,
    shard: Shard,
    instance: &InstanceId,
    epoch: i64,
) -> Result<(), StoreError> {
    diesel::update(
        shards::table
            .filter(shards::shard.eq(shard.number()))
            .filter(shards::tail_instance.eq(Some(instance.as_str())))
            .filter(shards::tail_epoch.eq(Some(epoch))),
    )
    .set((
        shards::tail_instance.eq(None::<String>),
        shards::tail_epoch.eq(None::<i64>),
        shards::tail_until.eq(None::<i64>),
        shards::tail_attempts.eq(None::<String>),
    ))
    .execute(conn)?;
    Ok(())
}

/// Extends those of the leases that `holder` holds.
fn renew_leases(
    conn: &mut AnyConnection,
    holder: &InstanceId,
    leases: &[Lease],
    until: Timestamp,
) -> Result<(), StoreError> {
    let numbers: Vec<i32> = leases.iter().map(|lease| lease.shard.number()).collect();
    diesel::update(
        shards::table
            .filter(shards::holder.eq(Some(holder.as_str())))
            .filter(shards::shard.eq_any(numbers)),
    )
    .set(shards::expires_at.eq(Some(until.as_micros())))
    .execute(conn)?;
    Ok(())
}

/// Releases those of the leases that `holder` holds: others may take them immediately, and learn so
/// with the commit.
fn release_leases(
    conn: &mut AnyConnection,
    holder: &InstanceId,
    leases: &[Lease],
) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    for lease in leases {
        diesel::update(
            shards::table
                .filter(shards::shard.eq(lease.shard.number()))
                .filter(shards::epoch.eq(lease.epoch))
                .filter(shards::holder.eq(Some(holder.as_str()))),
        )
        .set((
            shards::holder.eq(None::<String>),
            shards::expires_at.eq(None::<i64>),
        ))
        .execute(conn)?;
    }
    conn.dialect().announce(Hint::Leases)
}

/// Registers a process, or extends its entry.
fn keep_node(conn: &mut AnyConnection, node: &NodeRow) -> Result<(), StoreError> {
    let known = diesel::update(nodes::table.find(&node.instance))
        .set(nodes::expires_at.eq(node.expires_at))
        .execute(conn)?;
    if known == 0 {
        diesel::insert_into(nodes::table)
            .values(node)
            .execute(conn)?;
    }
    Ok(())
}
