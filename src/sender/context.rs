//! The attempt that a connection is opened for: its tenant, its deadline and its timings.
//!
//! The client resolves and connects inside the future that sends, so a task-local variable gives
//! access to the attempt. A reused connection leaves the DNS and connect times unset.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use crate::domain::delivery::Timings;
use crate::domain::ids::Tenant;

tokio::task_local! {
    static CURRENT: Arc<AttemptContext>;
}

/// An attempt in progress.
#[derive(Debug)]
pub(super) struct AttemptContext {
    /// Identifies it within its transport.
    pub(super) id: u64,
    /// Tenant on whose behalf names are resolved.
    pub(super) tenant: Tenant,
    /// Time by which everything about it has ended.
    pub(super) deadline: Instant,
    started: Instant,
    remote: OnceLock<SocketAddr>,
    resolved: OnceLock<f64>,
    connected: OnceLock<f64>,
    answered: OnceLock<f64>,
}

impl AttemptContext {
    pub(super) fn new(id: u64, tenant: Tenant, deadline: Instant) -> Arc<Self> {
        Arc::new(Self {
            id,
            tenant,
            deadline,
            started: Instant::now(),
            remote: OnceLock::new(),
            resolved: OnceLock::new(),
            connected: OnceLock::new(),
            answered: OnceLock::new(),
        })
    }

    /// Returns the attempt that the current task sends, if any.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs `attempt` with this as the current one.
    pub(super) async fn scope<F: Future>(self: &Arc<Self>, attempt: F) -> F::Output {
        CURRENT.scope(Arc::clone(self), attempt).await
    }

    pub(super) fn note_resolved(&self) {
        let _ = self.resolved.set(self.elapsed_ms());
    }

    pub(super) fn note_connected(&self) {
        let _ = self.connected.set(self.elapsed_ms());
    }

    pub(super) fn note_answered(&self) {
        let _ = self.answered.set(self.elapsed_ms());
    }

    pub(super) fn note_remote(&self, address: SocketAddr) {
        let _ = self.remote.set(address);
    }

    /// Returns the address that it connected to.
    pub(super) fn remote(&self) -> Option<String> {
        self.remote.get().map(SocketAddr::to_string)
    }

    fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    /// Returns the times of its phases.
    pub(super) fn timings(&self) -> Timings {
        Timings {
            dns: self.resolved.get().copied(),
            connect: self.connected.get().copied(),
            first_byte: self.answered.get().copied(),
        }
    }
}
