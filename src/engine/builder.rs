//! How an engine is put together and started.

use std::sync::{Arc, OnceLock};

use actix::prelude::*;
use tokio::sync::{Mutex, Semaphore, oneshot};

use super::committer::{self, Driver, OnCommit};
use super::keeper::{Keeper, LookAtLeases};
use super::maintenance::Maintenance;
use super::recovery::{GoOn, Recoverer};
use super::registry::{Due, NewDeliveries, PollNow, Registry};
use super::tokens::KnownTokens;
use super::{Postrider, Running, Shared};
use super::{happenings, lease};
use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::FieldError;
use crate::domain::clock::{Clock, SharedClock, SystemClock, Timestamp};
use crate::domain::idempotency::IdempotencySecret;
use crate::domain::session::SessionKey;
use crate::metrics::{LeaseChange, Metrics};
use crate::sender::guard::AddressPolicy;
use crate::sender::{DnsResolver, HttpTransport, Resolve, Sender, Transport};
use crate::store::query::DatabaseKey;
use crate::store::{Hint, Hints, HostPool, ProcessLock, Source, Store, StoreError, query};

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

/// Blocking threads of the engine beside those that read.
const SPARE_THREADS: usize = 60;

/// Whom hints are for, once they are there.
type Actors = (Addr<Registry>, Addr<Keeper>, Addr<Recoverer>);

/// An engine that has not been started.
#[must_use]
pub struct Builder {
    database: Source,
    config: EngineConfig,
    clock: Option<Arc<dyn Clock>>,
    transport: Option<Arc<dyn Transport>>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            database: Source::Url(DatabaseUrl::Sqlite("postrider.db".into())),
            config: EngineConfig::default(),
            clock: None,
            transport: None,
        }
    }

    /// Where the database is. Default: the file `postrider.db`.
    pub fn database(mut self, url: DatabaseUrl) -> Self {
        self.database = Source::Url(url);
        self
    }

    /// The host's own pool of diesel connections, to its own database, instead of a URL. It must
    /// have at least six; a file must be in WAL mode.
    pub fn pool(mut self, pool: impl Into<HostPool>) -> Self {
        self.database = Source::Host(pool.into());
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
        self.clock = Some(clock);
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
        // Reads wait for a connection anyway: more threads than connections would only cost their
        // memory.
        let blocking_threads = self.config.read_connections.max(1) as usize + SPARE_THREADS;
        std::thread::Builder::new()
            .name("postrider-engine".into())
            .spawn(move || {
                let runtime = move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .max_blocking_threads(blocking_threads)
                        .build()
                        .expect("an I/O driver and a timer, which the process has had already")
                };
                let system = System::with_tokio_rt(runtime);
                let launched =
                    system.block_on(async { self.launch(Driver::Thread, Some(System::current())) });
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
        let Self {
            database,
            config,
            clock,
            transport,
        } = self;
        config.check().map_err(StartError::Setting)?;
        // On Postgres the time of day is the database's, whatever this machine takes it for.
        let clock = clock.unwrap_or_else(|| match database.is_server() {
            false => Arc::new(SystemClock::new()),
            true => Arc::new(SharedClock::new(SystemClock::new())),
        });
        let database = database.for_node(&config.node_name);
        database.check()?;
        // The lock first: a second sender must not even bring the schema up to date.
        let lock = ProcessLock::acquire(&database, &config)?;
        let store = Store::open(&database, &config)?;

        let metrics = Arc::new(Metrics::new());
        let policy = AddressPolicy::new(config.allow_networks.clone(), config.https_only);
        let policy = Arc::new(policy.denying(config.deny_networks.clone()));
        let resolver: Arc<dyn Resolve> = match &transport {
            // Who sends without a network asks nobody for names, either.
            #[cfg(feature = "testing")]
            Some(_) => Arc::new(crate::sender::NoNames),
            _ => Arc::new(DnsResolver::from_system()),
        };
        let transport = match transport {
            Some(transport) => transport,
            None => {
                let (policy, resolver) = (Arc::clone(&policy), Arc::clone(&resolver));
                let transport = HttpTransport::new(policy, resolver, config.connection_lifetime);
                Arc::new(transport.map_err(StartError::Sender)?)
            }
        };
        let event_id_header = config
            .event_id_header
            .as_ref()
            .map(|name| name.to_ascii_lowercase());
        let sender = Sender::new(
            transport,
            Arc::clone(&policy),
            event_id_header,
            Arc::clone(&clock),
        );

        let at = clock.now();
        let (session_key, idempotency) = store.writer()?.run(|tx| {
            let (conn, codec) = tx.parts();
            let session_key = query::database_key(conn, codec, DatabaseKey::Sessions, at)?;
            Ok((
                session_key,
                query::database_key(conn, codec, DatabaseKey::Idempotency, at)?,
            ))
        })?;
        let tokens = KnownTokens::default();
        store.read_here(|conn, _| tokens.refresh(conn))?;
        // Rehydration: whatever an earlier owner of a shard left `sending` waits again.
        let (membership, leases) =
            lease::join(&store, lock, &config.node_name, config.lease, &clock)?;
        // By the database's clock, where that is the one that counts.
        report_late_events(&store, clock.now())?;
        metrics.leases(LeaseChange::Taken, leases.all().len());
        let leases = Arc::new(leases);

        let actors: Arc<OnceLock<Actors>> = Arc::default();
        let hints = {
            let actors = Arc::clone(&actors);
            Hints::start(&database, move |hint| {
                let Some((registry, keeper, recoverer)) = actors.get() else {
                    return;
                };
                // A full mailbox drops the hint, not the work: memory stays bounded, the poll finds
                // it.
                match hint {
                    Hint::Due(endpoints) => drop(registry.try_send(Due(endpoints))),
                    Hint::Changed => {
                        let _ = registry.try_send(PollNow);
                        let _ = recoverer.try_send(GoOn);
                    }
                    Hint::Leases => drop(keeper.try_send(LookAtLeases)),
                }
            })?
        };
        let on_commit: OnCommit = {
            let (actors, leases, hints) = (Arc::clone(&actors), Arc::clone(&leases), hints.clone());
            Arc::new(move |wakes: Vec<_>| {
                let (own, others): (Vec<_>, Vec<_>) = wakes
                    .into_iter()
                    .partition(|wake| leases.for_new_work(&wake.endpoint.id).is_some());
                if !others.is_empty() {
                    hints.send(Hint::Due(
                        others
                            .into_iter()
                            .map(|wake| wake.endpoint.id.clone())
                            .collect(),
                    ));
                }
                if let Some((registry, ..)) = actors.get() {
                    let _ = registry.try_send(NewDeliveries(own));
                }
            })
        };
        let committer = committer::start(
            &store,
            config.commit_timeout,
            Arc::clone(&metrics),
            on_commit,
            driver,
        )?;
        let shared = Arc::new(Shared {
            slots: Arc::new(Semaphore::new(
                config.max_in_flight.min(Semaphore::MAX_PERMITS),
            )),
            callers: store.apart(&config)?,
            store,
            committer,
            sender,
            policy,
            resolver,
            clock,
            config,
            metrics,
            tokens,
            session_key: SessionKey::new(session_key),
            idempotency: IdempotencySecret::new(idempotency),
            activity: Default::default(),
            overviews: Default::default(),
            hints,
            leases,
            happenings: happenings::channel(),
            hazard_told: Arc::default(),
            membership,
            probed: std::sync::Mutex::default(),
            census: Mutex::default(),
        });
        let registry = Registry::new(Arc::clone(&shared)).start();
        let keeper = Keeper::new(Arc::clone(&shared), registry.clone()).start();
        let recoverer = Recoverer::new(Arc::clone(&shared), registry.clone()).start();
        let _ = actors.set((registry.clone(), keeper.clone(), recoverer.clone()));
        Maintenance::new(Arc::clone(&shared)).start();
        let running = Arc::new(Mutex::new(Some(Running { system })));
        Ok(Postrider {
            shared,
            registry,
            keeper,
            recoverer,
            running,
        })
    }
}

/// Reports events that were published in the future: then the clock is behind, or was ahead.
/// (Nothing expires by a clock that is behind.)
fn report_late_events(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let newest = store.read_here(|conn, _| query::newest_event_at(conn))?;
    if let Some(newest) = newest.filter(|newest| newest.since(now) > CLOCK_SLACK) {
        tracing::error!(
            %newest,
            %now,
            "the clock shows {now}, and the newest event was published at {newest}: is the clock behind? Nothing expires until it is right"
        );
    }
    Ok(())
}

/// By how much the newest event may be ahead before it is reported.
const CLOCK_SLACK: std::time::Duration = std::time::Duration::from_secs(60);
