//! State shared by the actors of one engine. Nothing is global.

use std::sync::Arc;

use tokio::sync::{Semaphore, broadcast, watch};

use super::committer::Committer;
use super::due_reader::DueReader;
use super::leases::Leases;
use super::notifications::Notification;
use super::sending::SendingThreads;
use super::writer_horizon::SharedHorizon;
use crate::config::EngineConfig;
use crate::domain::SettingError;
use crate::domain::clock::Clock;
use crate::domain::delivery::ClaimName;
use crate::domain::random::Random;
use crate::metrics::Metrics;
use crate::store::Store;

/// State shared by the actors of one engine.
pub(crate) struct EngineContext {
    pub(crate) store: Store,
    pub(crate) committer: Committer,
    pub(crate) due_reader: DueReader,
    pub(crate) threads: SendingThreads,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: EngineConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) horizon: SharedHorizon,
    pub(crate) notifications: broadcast::Sender<Notification>,
    /// One permit per attempt in flight, across all endpoints, granted in order of request.
    pub(crate) permits: Arc<Semaphore>,
    /// The reason for which this engine will never send.
    pub(crate) failure: watch::Sender<Option<SettingError>>,
}

impl EngineContext {
    /// The engine's source of randomness.
    pub(crate) fn random(&self) -> &dyn Random {
        self.store.ids().random()
    }

    /// Releases claims that no attempt holds: the result of their commit was lost.
    pub(crate) async fn reclaim(&self, claims: Vec<ClaimName>) {
        let rows = claims.len();
        tracing::warn!(rows, "releasing {rows} claims that no attempt holds");
        let at = self.clock.now();
        let reclaimed = self.committer.run(move |tx| tx.reclaim(&claims, at)).await;
        if let Err(error) = reclaimed {
            tracing::warn!(%error, "the claims could not be released yet");
        }
    }
}
