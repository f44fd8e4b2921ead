//! The attempt that a connection is opened for: who asks, until when, and where its time went.
//!
//! The client resolves and connects inside the future that sends, so the attempt that asked is
//! found as that task's own. A connection that another attempt left open shows neither time.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use crate::domain::delivery::Timings;
use crate::domain::ids::Tenant;

tokio::task_local! {
    static CURRENT: Arc<AttemptContext>;
}

/// One attempt on its way.
#[derive(Debug)]
pub(super) struct AttemptContext {
    /// Tells it from the others of its transport.
    pub(super) id: u64,
    /// Whose names it looks up.
    pub(super) tenant: Tenant,
    /// Nothing of it goes on after this.
    pub(super) deadline: Instant,
    started: std::time::Instant,
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
            started: std::time::Instant::now(),
            remote: OnceLock::new(),
            resolved: OnceLock::new(),
            connected: OnceLock::new(),
            answered: OnceLock::new(),
        })
    }

    /// Returns the attempt that the present task sends, if it sends one.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs `attempt` as this one.
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

    /// Returns the address that it was connected to.
    pub(super) fn remote(&self) -> Option<String> {
        self.remote.get().map(SocketAddr::to_string)
    }

    fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    /// Returns where its time went.
    pub(super) fn timings(&self) -> Timings {
        Timings {
            dns: self.resolved.get().copied(),
            connect: self.connected.get().copied(),
            first_byte: self.answered.get().copied(),
        }
    }
}
