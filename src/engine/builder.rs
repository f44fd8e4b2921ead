//! How an engine is put together and started.

use std::sync::{Arc, OnceLock};

use actix::prelude::*;
use tokio::sync::{Mutex, Semaphore, oneshot};

use super::committer::{self, Driver, OnCommit};
use super::maintenance::Maintenance;
use super::registry::{NewDeliveries, Registry};
use super::tokens::KnownTokens;
use super::{Postrider, Running, Shared};
use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::FieldError;
use crate::domain::clock::{Clock, SystemClock};
use crate::metrics::Metrics;
use crate::sender::guard::AddressPolicy;
use crate::sender::{DnsResolver, HttpTransport, Resolve, Sender, Transport};
use crate::store::{Scope, SenderLock, Store, StoreError};

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is wrong.
    #[error("{0}")]
    Setting(FieldError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that sending needs is not to be had.
    #[error("cannot set up sending: {0}")]
    Sender(String),
    /// The operating system gave no thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The engine's thread ended before it had started.
    #[error("the engine's thread ended while it was starting: this is a defect, please report it")]
    Died,
}

/// An engine that has not been started.
#[must_use]
pub struct Builder {
    database: DatabaseUrl,
    config: EngineConfig,
    clock: Arc<dyn Clock>,
    transport: Option<Arc<dyn Transport>>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            database: DatabaseUrl::Sqlite("postrider.db".into()),
            config: EngineConfig::default(),
            clock: Arc::new(SystemClock::new()),
            transport: None,
        }
    }

    /// Where the database is. Default: the file `postrider.db`.
    pub fn database(mut self, url: DatabaseUrl) -> Self {
        self.database = url;
        self
    }

    /// How it sends, keeps and limits.
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// Where its time comes from.
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What puts its requests on the wire.
    #[cfg(feature = "testing")]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Starts the engine on a thread of its own, under whatever runtime the caller has.
    ///
    /// # Errors
    /// When a setting is wrong, or the database cannot be used.
    pub async fn start(self) -> Result<Postrider, StartError> {
        let (started, start) = oneshot::channel();
        std::thread::Builder::new().name("postrider-engine".into()).spawn(move || {
            let runtime = || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("an I/O driver and a timer, which the process has had already")
            };
            let system = System::with_tokio_rt(runtime);
            let launched = system.block_on(async { self.launch(Driver::Thread, Some(System::current())) });
            let ok = launched.is_ok();
            if started.send(launched).is_ok() && ok {
                let _ = system.run();
            }
        })?;
        start.await.unwrap_or(Err(StartError::Died))
    }

    /// Starts the engine inside the caller's actix `System`, for virtual time.
    ///
    /// # Errors
    /// When a setting is wrong, or the database cannot be used.
    #[cfg(feature = "testing")]
    pub fn start_here(self) -> Result<Postrider, StartError> {
        self.launch(Driver::BlockingJobs, None)
    }

    fn launch(self, driver: Driver, system: Option<System>) -> Result<Postrider, StartError> {
        let Self { database, config, clock, transport } = self;
        config.check().map_err(StartError::Setting)?;
        // The lock first: a second sender must not even bring the schema up to date.
        let lock = SenderLock::acquire(&database)?;
        let store = Store::open(&database, &config)?;

        let metrics = Arc::new(Metrics::new());
        let policy = Arc::new(AddressPolicy::new(config.allow_networks.clone(), config.https_only));
        let resolver: Arc<dyn Resolve> = Arc::new(DnsResolver::from_system().map_err(StartError::Sender)?);
        let transport = match transport {
            Some(transport) => transport,
            None => Arc::new(
                HttpTransport::new(Arc::clone(&policy), Arc::clone(&resolver)).map_err(StartError::Sender)?,
            ),
        };
        let event_id_header = config.event_id_header.as_ref().map(|name| name.to_ascii_lowercase());
        let sender = Sender::new(transport, Arc::clone(&policy), event_id_header);

        // Rehydration: whatever an earlier owner left `sending` waits again.
        let at = clock.now();
        let tokens = KnownTokens::default();
        let (epoch, interrupted) = store.writer()?.run(|tx| {
            tokens.refresh(tx.conn())?;
            let epoch = tx.raise_epoch()?;
            Ok((epoch, tx.interrupt(&Scope::All, at, true, "the process ended before it had an outcome")?))
        })?;
        if interrupted > 0 {
            tracing::info!(
                interrupted,
                "{interrupted} deliveries were in flight when the last owner ended; they are sent again"
            );
        }

        let registry_slot: Arc<OnceLock<Addr<Registry>>> = Arc::default();
        let hints = Arc::clone(&registry_slot);
        let on_commit: OnCommit = Box::new(move |wakes| {
            if let Some(registry) = hints.get() {
                // A full mailbox drops the hint, not the work: memory stays bounded, the poll finds it.
                let _ = registry.try_send(NewDeliveries(wakes));
            }
        });
        let committer =
            committer::start(&store, config.commit_timeout, Arc::clone(&metrics), on_commit, driver)?;
        let shared = Arc::new(Shared {
            slots: Arc::new(Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS))),
            store,
            committer,
            sender,
            policy,
            resolver,
            clock,
            config,
            metrics,
            tokens,
            superseded: std::sync::atomic::AtomicBool::new(false),
            started_at: at,
            epoch,
            lock: std::sync::Mutex::new(Some(lock)),
            probed: std::sync::Mutex::default(),
        });
        let registry = Registry::new(Arc::clone(&shared)).start();
        let _ = registry_slot.set(registry.clone());
        Maintenance::new(Arc::clone(&shared)).start();
        let running = Arc::new(Mutex::new(Some(Running { system })));
        Ok(Postrider { shared, registry, running })
    }
}
