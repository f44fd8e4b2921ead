//! Shards that are being handed over: who still claims in them, and what is on the wire.
//!
//! Pure bookkeeping: it asks nobody, and answers through the channels of the request.

use std::collections::BTreeSet;

use super::messages::DrainShard;
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::engine::messages::Quiet;

struct ShardDrain {
    request: DrainShard,
    /// Endpoints whose supervisors may still start something.
    starting: BTreeSet<EndpointId>,
    /// Endpoints whose supervisors have not stopped.
    running: BTreeSet<EndpointId>,
    found: Quiet,
}

/// The shards that are being handed over.
#[derive(Default)]
pub(super) struct Draining {
    drains: Vec<ShardDrain>,
}

impl Draining {
    /// Begins to hand a shard over, with these supervisors.
    pub(super) fn begin(&mut self, request: DrainShard, supervisors: BTreeSet<EndpointId>) {
        let shard = request.shard;
        self.drains.push(ShardDrain {
            request,
            starting: supervisors.clone(),
            running: supervisors,
            found: Quiet::default(),
        });
        self.answer(shard);
    }

    /// Notes that a supervisor starts nothing more.
    pub(super) fn quiet(&mut self, id: &EndpointId, quiet: Quiet) {
        for drain in &mut self.drains {
            if drain.starting.remove(id) {
                drain.found.attempts.extend(&quiet.attempts);
                drain.found.ends_by = drain.found.ends_by.max(quiet.ends_by);
            }
        }
        self.answer(Shard::of(id));
    }

    /// Notes that a supervisor has stopped.
    pub(super) fn ended(&mut self, id: &EndpointId) {
        for drain in &mut self.drains {
            drain.starting.remove(id);
            drain.running.remove(id);
        }
        self.answer(Shard::of(id));
    }

    fn answer(&mut self, shard: Shard) {
        for drain in &mut self.drains {
            if drain.request.shard == shard
                && drain.starting.is_empty()
                && let Some(quiet) = drain.request.quiet.take()
            {
                let _ = quiet.send(std::mem::take(&mut drain.found));
            }
        }
        let is_over =
            |drain: &mut ShardDrain| drain.request.shard == shard && drain.running.is_empty();
        for drain in self.drains.extract_if(.., is_over) {
            let _ = drain.request.done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::handover::OnWire;
    use crate::domain::ids::DeliveryKey;

    #[test]
    fn a_shard_is_quiet_once_all_its_supervisors_are_and_drained_once_they_have_stopped() {
        let shard = Shard::of(&EndpointId::from_text("ep_0"));
        let ids = (0..).map(|n| EndpointId::from_text(format!("ep_{n}")));
        let mut ids = ids.filter(|id| Shard::of(id) == shard);
        let [one, other] = [ids.next().unwrap(), ids.next().unwrap()];
        let (quiet, mut is_quiet) = oneshot::channel();
        let (done, mut is_done) = oneshot::channel();
        let mut draining = Draining::default();
        let request = DrainShard {
            shard,
            quiet: Some(quiet),
            done,
        };
        draining.begin(request, BTreeSet::from([one.clone(), other.clone()]));
        let on_wire = |event_seq| OnWire {
            key: DeliveryKey {
                event_seq,
                endpoint: 1,
            },
            claim_no: 1,
            started_at: Timestamp::from_micros(0),
        };
        let found = |event_seq, second| Quiet {
            attempts: vec![on_wire(event_seq)],
            ends_by: Duration::from_secs(second),
        };
        draining.quiet(&one, found(256, 9));
        assert!(is_quiet.try_recv().is_err());
        draining.quiet(&other, found(512, 3));
        let expected = Quiet {
            attempts: vec![on_wire(256), on_wire(512)],
            ends_by: Duration::from_secs(9),
        };
        assert_eq!(is_quiet.try_recv(), Ok(expected));
        draining.ended(&one);
        assert!(is_done.try_recv().is_err());
        draining.ended(&other);
        assert_eq!(is_done.try_recv(), Ok(()));
    }

    #[test]
    fn a_shard_without_supervisors_is_drained_at_once() {
        let shard = Shard::from_number(3);
        let (quiet, mut is_quiet) = oneshot::channel();
        let (done, mut is_done) = oneshot::channel();
        let request = DrainShard {
            shard,
            quiet: Some(quiet),
            done,
        };
        Draining::default().begin(request, BTreeSet::new());
        assert_eq!(is_quiet.try_recv(), Ok(Quiet::default()));
        assert_eq!(is_done.try_recv(), Ok(()));
    }
}
