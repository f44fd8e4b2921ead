//! Rows of leases and nodes, and the domain types that they become.

use super::codec::time;
use super::error::{StoreError, corrupt};
use super::rows::{NodeRow, ShardRow};
use crate::domain::clock::Timestamp;
use crate::domain::handover::{OnWire, Tail};
use crate::domain::ids::{DeliveryKey, InstanceId};
use crate::domain::lease::{Lease, Shard, ShardState};
use crate::domain::node::NodeRecord;

pub(super) fn node(row: NodeRow) -> NodeRecord {
    NodeRecord {
        instance: InstanceId::from_text(row.instance),
        name: row.name,
        lock: row.lock,
        started_at: time(row.started_at),
        expires_at: time(row.expires_at),
        leaving: row.leaving,
    }
}

pub(super) fn node_row(node: &NodeRecord) -> NodeRow {
    NodeRow {
        instance: node.instance.to_string(),
        name: node.name.clone(),
        lock: node.lock.clone(),
        started_at: node.started_at.as_micros(),
        expires_at: node.expires_at.as_micros(),
        leaving: node.leaving,
    }
}

/// Converts a shard's state at `now`: an expired lease has no holder.
pub(super) fn shard(row: ShardRow, now: Timestamp) -> Result<ShardState, StoreError> {
    let tail = row
        .tail_instance
        .zip(row.tail_epoch)
        .zip(row.tail_until)
        .zip(row.tail_attempts);
    let tail = tail.map(|(((instance, epoch), until), attempts)| {
        Ok::<_, StoreError>(Tail {
            instance: InstanceId::from_text(instance),
            epoch,
            until: time(until),
            attempts: on_wire(&attempts)?,
        })
    });
    Ok(ShardState {
        lease: Lease {
            shard: Shard::from_number(row.shard),
            epoch: row.epoch,
        },
        holder: row
            .holder
            .filter(|_| row.expires_at.is_some_and(|at| at > now.as_micros()))
            .map(InstanceId::from_text),
        tail: tail.transpose()?,
    })
}

/// Attempts on the wire as they are stored: event, endpoint, claim and start.
type OnWireColumns = (i64, i32, i64, i64);

fn on_wire(text: &str) -> Result<Vec<OnWire>, StoreError> {
    let columns: Vec<OnWireColumns> = serde_json::from_str(text)
        .map_err(|error| corrupt("webhook_shards", "tail_attempts", error))?;
    let one = |(event_seq, endpoint, claim_no, started_at)| OnWire {
        key: DeliveryKey {
            event_seq,
            endpoint,
        },
        claim_no,
        started_at: time(started_at),
    };
    Ok(columns.into_iter().map(one).collect())
}

pub(super) fn on_wire_text(attempts: &[OnWire]) -> String {
    let columns = |one: &OnWire| -> OnWireColumns {
        (
            one.key.event_seq,
            one.key.endpoint,
            one.claim_no,
            one.started_at.as_micros(),
        )
    };
    let columns: Vec<OnWireColumns> = attempts.iter().map(columns).collect();
    serde_json::json!(columns).to_string()
}
