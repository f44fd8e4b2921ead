//! Leases in the database: which process sends for which shards, and what their former owners still
//! have in flight. `domain::lease` decides which ones a process takes.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect::Taking;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::hint::Hint;
use super::lease_codec;
use super::rows::{NodeRow, ShardRow};
use super::schema::{webhook_nodes as nodes, webhook_shards as shards};
use super::store::Store;
use super::tails::tails_of;
use super::tx::Tx;
use super::writes::{Interruption, Scope};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::handover::{Tail, TailEnd};
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Shard, ShardState};
use crate::domain::node::NodeRecord;

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

    /// Locks the shards of leases until the end of this transaction.
    pub(crate) fn lock_leases<'l>(
        &mut self,
        leases: impl Iterator<Item = &'l Lease>,
    ) -> Result<(), StoreError> {
        let shards = leases.map(|lease| lease.shard).collect();
        self.conn.dialect().lock_shards(&shards)
    }

    /// Registers `node` for another term.
    pub(crate) fn keep_node(
        &mut self,
        node: &NodeRecord,
        term: &LeaseTerm<'_>,
    ) -> Result<(), StoreError> {
        let (_, expires_at) = now_and_end(self.conn, term.ttl, term.clock)?;
        let node = NodeRecord {
            expires_at,
            ..node.clone()
        };
        keep_node(self.conn, &lease_codec::node_row(&node))
    }

    /// Extends the leases of a process for another term.
    pub(crate) fn keep_leases(
        &mut self,
        held: &[Lease],
        term: &LeaseTerm<'_>,
    ) -> Result<(), StoreError> {
        let (_, expires_at) = now_and_end(self.conn, term.ttl, term.clock)?;
        renew_leases(self.conn, term.holder, held, expires_at)
    }

    /// Takes over free shards, and reclaims the deliveries that dead owners left `sending`. A shard
    /// that its owner gave up contains none but its tail, which stays.
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
        self.forget_nodes(std::slice::from_ref(node))?;
        self.conn.dialect().lock_shards(&Shard::all().collect())?;
        release_leases(self.conn, node, leases)?;
        self.end_tails_of(std::slice::from_ref(node), TailEnd::SignedOff, clock)
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
pub(super) fn now_and_end(
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
pub(super) fn shards(
    conn: &mut AnyConnection,
    now: Timestamp,
) -> Result<Vec<ShardState>, StoreError> {
    let rows: Vec<ShardRow> = shards::table
        .order(shards::shard)
        .select(ShardRow::as_select())
        .load(conn)?;
    rows.into_iter()
        .map(|row| lease_codec::shard(row, now))
        .collect()
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
    let mut by_epoch: BTreeMap<i64, Vec<i32>> = BTreeMap::new();
    for lease in leases {
        by_epoch
            .entry(lease.epoch)
            .or_default()
            .push(lease.shard.number());
    }
    for (epoch, numbers) in by_epoch {
        diesel::update(
            shards::table
                .filter(shards::shard.eq_any(numbers))
                .filter(shards::epoch.eq(epoch))
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

/// Registers a process, or extends its entry. One that leaves is not registered again.
fn keep_node(conn: &mut AnyConnection, node: &NodeRow) -> Result<(), StoreError> {
    let known = diesel::update(nodes::table.find(&node.instance))
        .set((
            nodes::expires_at.eq(node.expires_at),
            nodes::leaving.eq(node.leaving),
        ))
        .execute(conn)?;
    if known == 0 && !node.leaving {
        diesel::insert_into(nodes::table)
            .values(node)
            .execute(conn)?;
    }
    Ok(())
}
