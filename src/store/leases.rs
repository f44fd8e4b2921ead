//! How leases are kept, taken over and given back. Who takes what is `domain::lease`'s to say.

use std::time::Duration;

use super::rows::NodeRow;
use super::transactions::Taking;
use super::writer::Scope;
use super::{AnyConnection, StoreError, Tx, query};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, ShardState};

/// Who holds what, at one moment.
pub(crate) struct LeaseView {
    pub(crate) now: Timestamp,
    pub(crate) shards: Vec<ShardState>,
    pub(crate) nodes: Vec<NodeRow>,
}

impl LeaseView {
    /// Those that were heard of lately.
    pub(crate) fn alive(&self) -> Vec<InstanceId> {
        let alive = self.nodes.iter().filter(|node| node.is_alive(self.now));
        alive
            .map(|node| InstanceId::from_text(node.instance.as_str()))
            .collect()
    }
}

impl NodeRow {
    pub(crate) fn is_alive(&self, now: Timestamp) -> bool {
        self.expires_at > now.as_micros()
    }
}

/// What time it is to everyone who shares the database, and when a lease ends that begins now.
/// `clock` learns it. One of a file lasts until its process ends.
fn term(
    conn: &mut AnyConnection,
    ttl: Duration,
    clock: &dyn Clock,
) -> Result<(Timestamp, Timestamp), StoreError> {
    let asked = clock.monotonic();
    Ok(match conn.own().time()? {
        Some(told) => {
            clock.learn(told, asked, clock.monotonic());
            (told, told + ttl)
        }
        None => (clock.now(), query::FOR_EVER),
    })
}

/// Looks at who holds what.
pub(crate) fn look(conn: &mut AnyConnection, clock: &dyn Clock) -> Result<LeaseView, StoreError> {
    let (now, _) = term(conn, Duration::ZERO, clock)?;
    Ok(LeaseView {
        now,
        shards: query::shards(conn, now)?,
        nodes: query::nodes(conn)?,
    })
}

impl Tx<'_> {
    /// Makes `node` known for another `ttl`, and lengthens its leases as much.
    pub(crate) fn keep_leases(
        &mut self,
        node: &NodeRow,
        held: &[Lease],
        ttl: Duration,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let (_, until) = term(self.conn, ttl, clock)?;
        query::keep_node(
            self.conn,
            &NodeRow {
                expires_at: until.as_micros(),
                ..node.clone()
            },
        )?;
        let holder = InstanceId::from_text(node.instance.as_str());
        query::renew_leases(self.conn, &holder, held, until)
    }

    /// Takes shards over, as far as they are free, and takes back what their former owners left
    /// `sending`. `gone` are former holders that are known to have ended.
    pub(crate) fn take_over(
        &mut self,
        wanted: &[Lease],
        holder: &InstanceId,
        gone: &[InstanceId],
        ttl: Duration,
        clock: &dyn Clock,
    ) -> Result<Vec<Lease>, StoreError> {
        let (now, until) = term(self.conn, ttl, clock)?;
        let taken = self.conn.own().take_shards(
            wanted,
            &Taking {
                holder,
                gone,
                now,
                until,
            },
        )?;
        let why = "the process that sent it ended, or lost its lease, before it had an outcome";
        let interrupted = self.interrupt(&Scope::Shards(taken.clone()), clock.now(), true, why)?;
        if interrupted > 0 {
            tracing::info!(
                interrupted,
                "{interrupted} deliveries were in flight when their last owner ended; they are sent again"
            );
        }
        Ok(taken)
    }

    /// Gives leases up, in which nothing is `sending` any more.
    pub(crate) fn give_back(
        &mut self,
        leases: &[Lease],
        holder: &InstanceId,
    ) -> Result<(), StoreError> {
        query::release_leases(self.conn, holder, leases)
    }

    /// Gives everything up.
    pub(crate) fn leave_cluster(
        &mut self,
        leases: &[Lease],
        node: &InstanceId,
    ) -> Result<(), StoreError> {
        self.give_back(leases, node)?;
        query::forget_nodes(self.conn, std::slice::from_ref(node))
    }
}
