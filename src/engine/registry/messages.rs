//! Messages to the registry, from publishers, the lease keeper and other processes.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::domain::breaker::StoredHealth;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::engine::messages::Quiet;
use crate::engine::supervisor::SupervisorStatus;
use crate::store::CommittedDelivery;

/// From the committer: deliveries that were just created. A hint; the poll finds lost ones.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct DeliveriesCommitted(pub(crate) Vec<CommittedDelivery>);

/// An endpoint was changed, paused, resumed or created. Answered once its supervisor has it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EndpointChanged {
    pub(crate) endpoint: Arc<Endpoint>,
    /// The endpoint's health, if it was changed as well.
    pub(crate) health: Option<StoredHealth>,
}

/// A delivery of an endpoint became due by another way than publishing.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EndpointDue(pub(crate) EndpointId);

/// From another process: deliveries of these endpoints are due. A hint.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EndpointsDue(pub(crate) Vec<EndpointId>);

/// From the lease keeper: start nothing more in a shard. `quiet` is answered once that is certain,
/// `done` once all of its supervisors have stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct DrainShard {
    pub(crate) shard: Shard,
    pub(crate) quiet: Option<oneshot::Sender<Quiet>>,
    pub(crate) done: oneshot::Sender<()>,
}

/// From the lease keeper: these shards are lost. Their attempts in flight are aborted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LeasesLost(pub(crate) Vec<Shard>);

/// Polls for due work and changes now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PollNow;

/// Aborts all attempts in flight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AbortAll;

/// Requests the status of an endpoint's supervisor; `None` if there is none.
#[derive(Debug, Message)]
#[rtype(result = "Option<SupervisorStatus>")]
pub(crate) struct InspectEndpoint(pub(crate) EndpointId);

/// Makes an endpoint's supervisor panic. False if there is none.
#[cfg(feature = "testing")]
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(crate) struct PanicSupervisor(pub(crate) EndpointId);
