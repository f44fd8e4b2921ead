//! The engine: the only place that names actix actors.
//!
//! [`Postrider`] is its handle. Behind it, on a thread and an actix `System` of their own, run the
//! `registry`, one `supervisor` per endpoint with live work, and one `attempt` per request on the
//! wire; the `committer` writes for all of them. What the handle can do is in `publishing`,
//! `endpoints` and `deliveries`.

mod attempt;
mod builder;
mod committer;
mod deliveries;
mod endpoints;
mod error;
mod happenings;
mod insight;
mod keeper;
mod lease;
mod maintenance;
mod nodes;
mod outbox;
mod publishing;
mod recovery;
mod registry;
mod scrape;
mod seed;
mod sessions;
mod supervisor;
mod tokens;
mod trace;
mod window;

use std::sync::{Arc, PoisonError};

use actix::prelude::*;
use tokio::sync::{Mutex, Semaphore, oneshot};

pub use builder::{Builder, StartError};
pub use deliveries::{DeliveryQuery, DeliveryView};
pub use endpoints::{EndpointHealth, EndpointQuery, EndpointView, OlderKey};
pub use error::Error;
pub use happenings::Happening;
pub use insight::{Bucket, EndpointCounts, EndpointStats, Overview, RecoveryPreview};
pub use nodes::Node;
pub use outbox::{Outbox, Transaction};
pub use publishing::{EventListQuery, EventView, Receipt};
pub(crate) use sessions::OpenSession;
pub use sessions::PortalLink;

pub use crate::metrics::MetricsFormat;

use self::committer::Committer;
use self::keeper::{Keeper, LeaveAll};
use self::lease::{Leases, Membership};
use self::recovery::Recoverer;
use self::registry::{AbortAll, Registry};
use self::tokens::KnownTokens;
use crate::config::EngineConfig;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::idempotency::IdempotencySecret;
use crate::metrics::Metrics;
use crate::sender::guard::AddressPolicy;
use crate::sender::{Resolve, Sender};
use crate::store::{Hints, Scope, Store, StoreError};

/// How long attempts that were broken off get to be written down.
const ABORT_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a write that was taken shows that the database takes writes.
const PROBE_LASTS: std::time::Duration = std::time::Duration::from_secs(1);

/// What every part of one engine uses. Nothing of it is global.
pub(crate) struct Shared {
    store: Store,
    /// What callers read by; the engine's own reads never wait for theirs.
    callers: Store,
    committer: Committer,
    sender: Sender,
    policy: Arc<AddressPolicy>,
    resolver: Arc<dyn Resolve>,
    clock: Arc<dyn Clock>,
    config: EngineConfig,
    metrics: Arc<Metrics>,
    /// One for each attempt that may be in flight, of whichever endpoint. Given first come, first
    /// served.
    slots: Arc<Semaphore>,
    tokens: KnownTokens,
    /// What was sent lately.
    activity: insight::Activity,
    /// What readers of the stream were shown lately.
    overviews: insight::Overviews,
    /// What sessions are signed with.
    session_key: crate::domain::session::SessionKey,
    /// What event ids are made of idempotency keys with.
    idempotency: IdempotencySecret,
    /// What is told to the other processes.
    hints: Hints,
    leases: Arc<Leases>,
    happenings: tokio::sync::broadcast::Sender<Happening>,
    /// A host's connection that is not durable has been told of.
    hazard_told: Arc<std::sync::atomic::AtomicBool>,
    membership: Membership,
    /// When the database last took a write for the sake of readiness.
    probed: std::sync::Mutex<Option<std::time::Instant>>,
    /// What metrics last showed of the database.
    census: scrape::LastCensus,
}

impl Shared {
    /// Anyone may ask whether the engine is ready; not each time is worth a commit.
    fn probed_lately(&self) -> bool {
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        probed.is_some_and(|at| at.elapsed() < PROBE_LASTS)
    }

    /// Lets claims go that no attempt holds: their commit's answer was lost.
    async fn take_back(&self, claims: Vec<crate::store::query::ClaimName>) {
        tracing::warn!(
            rows = claims.len(),
            "taking back {} claims that no attempt holds",
            claims.len()
        );
        let at = self.clock.now();
        if let Err(error) = self
            .committer
            .run(move |tx| tx.take_back(&claims, at))
            .await
        {
            tracing::warn!(%error, "they could not be taken back yet");
        }
    }
}

/// The handle of a running engine. Cheap to clone, and free to go to any thread.
#[derive(Clone)]
pub struct Postrider {
    shared: Arc<Shared>,
    registry: Addr<Registry>,
    keeper: Addr<Keeper>,
    recoverer: Addr<Recoverer>,
    running: Arc<Mutex<Option<Running>>>,
}

impl std::fmt::Debug for Postrider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postrider")
            .field("node", &self.shared.membership.node.name)
            .finish_non_exhaustive()
    }
}

/// What ends when the engine does.
pub(crate) struct Running {
    /// Stops the engine's own `System`; `None` when it runs in the caller's.
    system: Option<System>,
}

impl Postrider {
    /// An engine to be configured and started.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Stops claiming, waits for the attempts in flight up to `drain_timeout`, writes down what
    /// they came to, and stops the engine. A second call does nothing.
    ///
    /// Without it the engine runs until the process ends, however many handles are dropped.
    /// What waits stays in the database. Attempts that are broken off at the deadline are sent
    /// again after the next start, and the break counts as no failure.
    pub async fn drain(&self) {
        let Some(running) = self.running.lock().await.take() else {
            return;
        };
        let (done, mut vacated) = oneshot::channel();
        self.keeper.do_send(LeaveAll { done });
        if tokio::time::timeout(self.shared.config.drain_timeout, &mut vacated)
            .await
            .is_err()
        {
            tracing::warn!("breaking off the attempts that are still in flight");
            self.registry.do_send(AbortAll);
            let _ = tokio::time::timeout(ABORT_GRACE, vacated).await;
        }
        let at = self.shared.clock.now();
        let (left, instance) = (
            self.shared.leases.all(),
            self.shared.membership.instance.clone(),
        );
        let leave = self.shared.committer.run(move |tx| {
            tx.interrupt(&Scope::Shards(left.clone()), at, false, "stopped")?;
            tx.leave_cluster(&left, &instance)
        });
        if let Err(error) = leave.await {
            tracing::warn!(%error, "what was in flight is taken back by the next owner");
        }
        self.shared.committer.close().await;
        self.shared.membership.unlock();
        if let Some(system) = &running.system {
            system.stop();
        }
        drop(running);
    }

    /// Whether the database takes writes and the supervisors run.
    ///
    /// # Errors
    /// Says which of them does not.
    pub async fn ready(&self) -> Result<(), Error> {
        if !self.registry.connected() || self.running.lock().await.is_none() {
            return Err(crate::store::Unavailable::Stopped.into());
        }
        self.shared.store.check_file()?;
        if !self.shared.probed_lately() {
            self.shared
                .committer
                .run(|tx| crate::store::query::probe_write(tx.conn()))
                .await?;
            let now = Some(std::time::Instant::now());
            *self
                .shared
                .probed
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = now;
        }
        match self.shared.committer.recent_refusal() {
            Some(why) => Err(why.into()),
            None => Ok(()),
        }
    }

    /// Reads again what the engine keeps of the system's files and of the database: the trust store
    /// of TLS, and the API's tokens.
    ///
    /// # Errors
    /// [`Error::Store`] when the tokens cannot be read.
    pub async fn reload(&self) -> Result<(), Error> {
        self.shared.sender.reload();
        let shared = Arc::clone(&self.shared);
        Ok(self
            .read("tokens", move |conn, _| shared.tokens.refresh(conn))
            .await?)
    }

    /// The engine's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Runs a read on the engine's pool.
    async fn read<T, F>(&self, what: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(
                &mut crate::store::AnyConnection,
                &crate::store::EndpointCodec,
            ) -> Result<T, StoreError>
            + Send
            + 'static,
    {
        self.shared.callers.read(what, read).await
    }

    /// Makes an endpoint's supervisor panic, to see what becomes of it. False if it has none.
    #[cfg(feature = "testing")]
    pub async fn panic_supervisor(&self, id: &crate::domain::ids::EndpointId) -> bool {
        self.registry
            .send(registry::PanicSupervisor(id.clone()))
            .await
            .unwrap_or(false)
    }
}
