//! The handle of a running engine, and its shutdown.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{Mutex, broadcast, oneshot};

use super::views::{Overview, Readiness};
use crate::domain::census::Census;
use crate::domain::clock::Timestamp;
use crate::domain::idempotency::IdempotencySecret;
use crate::domain::ids::Tenant;
use crate::domain::session::SessionKey;
use crate::engine::background::{LeaseKeeper, LeaveAll, LetGo, RecoveryRunner};
use crate::engine::context::EngineContext;
use crate::engine::error::{Error, StartError};
use crate::engine::known_tokens::KnownTokens;
use crate::engine::membership::Membership;
use crate::engine::notifications::Notification;
use crate::engine::registry::{AbortAll, Registry};
use crate::engine::single_flight::SingleFlight;
use crate::sender::Resolve;
use crate::sender::guard::AddressPolicy;
use crate::store::{Hints, Interruption, Scope, Store, Unavailable};

/// Time for writing the outcomes of aborted attempts.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Time for which a successful write proves that the database accepts writes.
const PROBE_LASTS: Duration = Duration::from_secs(1);

/// The handle of a running engine. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Postrider {
    pub(super) inner: Arc<Inner>,
}

/// The parts of a started engine that its handle owns.
pub(crate) struct Parts {
    pub(crate) context: Arc<EngineContext>,
    /// Store for callers' reads; the engine's own reads never wait for them.
    pub(crate) api_store: Store,
    pub(crate) policy: Arc<AddressPolicy>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) tokens: Arc<KnownTokens>,
    /// Signs sessions.
    pub(crate) session_key: SessionKey,
    /// Derives event ids from idempotency keys.
    pub(crate) idempotency: IdempotencySecret,
    /// Sends hints to the other processes.
    pub(crate) hints: Hints,
    pub(crate) membership: Arc<Membership>,
    pub(crate) registry: Addr<Registry>,
    pub(crate) lease_keeper: Addr<LeaseKeeper>,
    pub(crate) recovery_runner: Addr<RecoveryRunner>,
    /// The engine's own `System`; `None` when it runs in the caller's.
    pub(crate) system: Option<System>,
}

/// Recent overviews by tenant, shared by concurrent viewers.
type Overviews = std::sync::Mutex<HashMap<Option<Tenant>, Arc<SingleFlight<Arc<Overview>>>>>;

pub(super) struct Inner {
    pub(super) parts: Parts,
    /// The last counts for metrics; `None` if the database did not respond.
    pub(super) census: SingleFlight<Option<Arc<Census>>>,
    pub(super) overviews: Overviews,
    /// True once a host's connection that is not durable has been reported.
    pub(super) durability_warned: Arc<AtomicBool>,
    /// Monotonic time of the last readiness probe.
    probed: std::sync::Mutex<Option<Duration>>,
    /// False once the engine has been drained.
    running: Mutex<bool>,
}

impl std::ops::Deref for Inner {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl std::fmt::Debug for Postrider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postrider")
            .field("node", &self.inner.membership.node.name)
            .finish_non_exhaustive()
    }
}

impl Postrider {
    pub(crate) fn new(parts: Parts) -> Self {
        let inner = Inner {
            parts,
            census: SingleFlight::default(),
            overviews: Overviews::default(),
            durability_warned: Arc::default(),
            probed: std::sync::Mutex::default(),
            running: Mutex::new(true),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn context(&self) -> &EngineContext {
        &self.inner.context
    }

    /// Returns the store for callers' reads.
    pub(super) fn store(&self) -> &Store {
        &self.inner.api_store
    }

    /// Stops claiming, waits for the attempts in flight up to `drain_timeout`, writes their
    /// outcomes, and stops the engine. A second call does nothing.
    ///
    /// Without a drain the engine runs until the process ends, even if all handles are dropped.
    /// Pending deliveries stay in the database. Attempts aborted at the deadline are sent again
    /// after the next start, and do not count as failures.
    pub async fn drain(&self) {
        if !std::mem::take(&mut *self.inner.running.lock().await) {
            return;
        }
        let context = self.context();
        let (done, mut drained) = oneshot::channel();
        send(&self.inner.lease_keeper, LeaveAll { done });
        if tokio::time::timeout(context.config.drain_timeout, &mut drained)
            .await
            .is_err()
        {
            tracing::warn!("aborting the attempts that are still in flight");
            send(&self.inner.lease_keeper, LetGo);
            send(&self.inner.registry, AbortAll);
            // Attempts without a written outcome by then are interrupted below.
            let _ = tokio::time::timeout(ABORT_GRACE, drained).await;
        }
        let interruption = Interruption {
            at: context.clock.now(),
            counts: false,
            reason: "stopped",
        };
        let left = context.leases.all();
        let instance = self.inner.membership.instance().clone();
        let clock = Arc::clone(&context.clock);
        let leave = context.committer.run(move |tx| {
            tx.interrupt(&Scope::Shards(left.clone()), interruption)?;
            tx.leave_cluster(&left, &instance, &*clock)
        });
        if let Err(error) = leave.await {
            tracing::warn!(%error, "deliveries in flight are reclaimed by the next owner");
        }
        context.committer.close().await;
        // Last: the next process may start as soon as the lock is free.
        self.inner.membership.unlock();
        if let Some(system) = &self.inner.system {
            system.stop();
        }
    }

    /// Checks that the database takes writes and the supervisors run.
    ///
    /// # Errors
    /// [`Error::Store`] with the failed part.
    pub async fn ready(&self) -> Result<Readiness, Error> {
        if !self.inner.registry.connected() || !*self.inner.running.lock().await {
            return Err(Unavailable::Stopped.into());
        }
        let context = self.context();
        context.store.check_file()?;
        if !self.probed_recently() {
            context.committer.run(|tx| tx.probe()).await?;
            *self
                .inner
                .probed
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(context.clock.monotonic());
        }
        match context.committer.recent_refusal() {
            Some(why) => Err(why.into()),
            None => Ok(Readiness {
                sending_lags: context.threads.lags(),
                has_leases: !context.leases.is_empty(),
            }),
        }
    }

    /// Waits until it is certain that this engine will never send, and returns the reason: it was
    /// started while a node with its name might have been alive, and that node is. Events are still
    /// accepted. Drain the engine, and start it under another name.
    pub async fn failed(&self) -> StartError {
        let mut failure = self.context().failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(error) => error.clone().map_or(StartError::Died, StartError::Setting),
            Err(_) => StartError::Died,
        }
    }

    /// Anyone may request readiness; a commit per request would be too expensive.
    fn probed_recently(&self) -> bool {
        let probed = self
            .inner
            .probed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.context().clock.monotonic();
        probed.is_some_and(|at| now.saturating_sub(at) < PROBE_LASTS)
    }

    /// Reloads the trust store of TLS and the API's tokens.
    ///
    /// # Errors
    /// [`Error::Store`] when the tokens cannot be read.
    pub async fn reload(&self) -> Result<(), Error> {
        self.context().threads.reload();
        Ok(self.inner.tokens.refresh(self.store()).await?)
    }

    /// Returns the engine's current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context().clock.now()
    }

    /// Subscribes to notifications about the endpoints that this process sends to, from now on.
    /// Nothing waits for a subscriber: a slow one misses the oldest notifications. For anything
    /// that must not be missed, query the deliveries, or use operational events (`delivery.failed`
    /// at the tenant `_postrider`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Notification> {
        self.context().notifications.subscribe()
    }

    /// Makes an endpoint's supervisor panic, for tests. Returns false if there is none.
    #[cfg(feature = "testing")]
    pub async fn panic_supervisor(&self, id: &crate::domain::ids::EndpointId) -> bool {
        let panic = crate::engine::registry::PanicSupervisor(id.clone());
        self.inner.registry.send(panic).await.unwrap_or(false)
    }
}

/// Sends a message to an actor even if its mailbox is full.
#[expect(
    clippy::disallowed_methods,
    reason = "an engine that has stopped has nothing to do"
)]
pub(super) fn send<A, M>(to: &Addr<A>, message: M)
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    to.do_send(message);
}
