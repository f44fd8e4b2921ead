//! Handover of a shard while attempts are in flight in it.
//!
//! The owner that gives a shard up leaves a *tail*: the attempts that it still has on the wire. It
//! may finish and record these, and starts nothing more. The next owner begins at once and counts
//! them as in flight, until each is recorded or the tail ends.
//!
//! ```text
//!  old owner:  claims, sends ──▶ quiet ──▶ gives up ──▶ records its tail ──▶ no tail
//!  new owner:                              takes it, and sends beside the tail
//! ```

use super::clock::Timestamp;
use super::delivery::ClaimName;
use super::ids::{DeliveryKey, InstanceId};
use super::node::NodeRecord;

/// An attempt that is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnWire {
    /// Key of the delivery.
    pub key: DeliveryKey,
    /// Number of its claim.
    pub claim_no: i64,
    /// Start of the request, which the rate limit counts.
    pub started_at: Timestamp,
}

impl OnWire {
    /// Returns the name of its claim.
    #[must_use]
    pub const fn claim(&self) -> ClaimName {
        (self.key, self.claim_no)
    }
}

/// The attempts that the former owner of a shard may still finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The process that makes them.
    pub instance: InstanceId,
    /// Epoch of their claims.
    pub epoch: i64,
    /// The time by which all have ended.
    pub until: Timestamp,
    /// The attempts.
    pub attempts: Vec<OnWire>,
}

/// The way in which a tail ends without its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailEnd {
    /// Its process has stopped, and said so.
    SignedOff,
    /// Its process has not reported in time, or an attempt has no outcome in time.
    Overdue,
}

impl Tail {
    /// Returns how it has ended; `None` while its process may still record the attempts.
    #[must_use]
    pub fn end(&self, nodes: &[NodeRecord], now: Timestamp) -> Option<TailEnd> {
        match nodes.iter().find(|node| node.instance == self.instance) {
            None => Some(TailEnd::SignedOff),
            Some(node) if !node.is_alive(now) || self.until <= now => Some(TailEnd::Overdue),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tail_lasts_while_its_process_reports_and_its_attempts_may_run() {
        let at = |second| Timestamp::from_micros(0) + Duration::from_secs(second);
        let node = |name: &str, expires_at| NodeRecord {
            instance: InstanceId::from_text(name),
            name: name.to_owned(),
            lock: None,
            started_at: at(0),
            expires_at,
            leaving: true,
        };
        let tail = Tail {
            instance: InstanceId::from_text("old"),
            epoch: 3,
            until: at(20),
            attempts: Vec::new(),
        };
        let nodes = [node("other", at(99)), node("old", at(15))];
        assert_eq!(tail.end(&nodes, at(14)), None);
        assert_eq!(tail.end(&nodes, at(15)), Some(TailEnd::Overdue));
        assert_eq!(tail.end(&nodes[..1], at(1)), Some(TailEnd::SignedOff));
        let reporting = [node("old", at(99))];
        assert_eq!(tail.end(&reporting, at(19)), None);
        assert_eq!(tail.end(&reporting, at(20)), Some(TailEnd::Overdue));
    }
}
