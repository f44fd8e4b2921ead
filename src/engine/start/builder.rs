//! An engine's settings, and its thread.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::assemble::{Ports, assemble};
use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::clock::Clock;
use crate::domain::random::Random;
use crate::engine::committer::Driver;
use crate::engine::error::StartError;
use crate::engine::handle::Postrider;
use crate::ports::{Blocking, OsRandom, SharedClock, SystemClock, runtime};
use crate::sender::Transport;
use crate::store::{HostPool, Source};

/// Number of blocking threads beside those for reads.
const SPARE_THREADS: usize = 60;

impl Postrider {
    /// Begins the configuration of an engine.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

/// An engine that has not been started.
#[must_use]
pub struct Builder {
    database: Source,
    config: EngineConfig,
    clock: Option<Arc<dyn Clock>>,
    transport: Option<Arc<dyn Transport>>,
    random: Arc<dyn Random>,
    blocking: Blocking,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Builder {
    fn new() -> Self {
        Self {
            database: Source::Url(DatabaseUrl::Sqlite("postrider.db".into())),
            config: EngineConfig::default(),
            clock: None,
            transport: None,
            random: Arc::new(OsRandom),
            blocking: Blocking::default(),
        }
    }

    /// Sets the database. Default: the file `postrider.db`.
    pub fn database(mut self, url: DatabaseUrl) -> Self {
        self.database = Source::Url(url);
        self
    }

    /// Uses the host's own pool of diesel connections, to its own database, instead of a URL. It
    /// needs at least six connections; a file must be in WAL mode.
    pub fn pool(mut self, pool: impl Into<HostPool>) -> Self {
        self.database = Source::Host(pool.into());
        self
    }

    /// Sets all other settings.
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the clock.
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Makes the run deterministic: randomness comes from the seed, and all work runs on the thread
    /// of the caller's `System`. For [`start_here`](Self::start_here) on virtual time.
    #[cfg(feature = "testing")]
    pub fn seed(mut self, seed: u64) -> Self {
        self.random = Arc::new(crate::ports::SeededRandom::new(seed));
        self.blocking = Blocking::Inline;
        self
    }

    /// Sets the transport of its requests.
    #[cfg(feature = "testing")]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Starts the engine on its own thread, independent of the caller's runtime.
    ///
    /// # Errors
    /// If a setting is invalid, or the database cannot be used.
    pub async fn start(self) -> Result<Postrider, StartError> {
        let (started, start) = oneshot::channel();
        // Reads wait for a connection anyway: more threads than connections would only use memory.
        let blocking_threads = self.config.read_connections.max(1) as usize + SPARE_THREADS;
        std::thread::Builder::new()
            .name("postrider-engine".into())
            .spawn(move || {
                let system = System::with_tokio_rt(runtime(blocking_threads));
                let launched = system
                    .block_on(async { self.assemble(Driver::Thread, Some(System::current())) });
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
    /// If a setting is invalid, or the database cannot be used.
    #[cfg(feature = "testing")]
    pub fn start_here(self) -> Result<Postrider, StartError> {
        let driver = Driver::Task(self.blocking);
        self.assemble(driver, None)
    }

    fn assemble(self, driver: Driver, system: Option<System>) -> Result<Postrider, StartError> {
        let Self {
            database,
            config,
            clock,
            transport,
            random,
            blocking,
        } = self;
        config.check().map_err(StartError::Setting)?;
        // On Postgres the time of day is the database's, not this machine's.
        let clock = clock.unwrap_or_else(|| match database.is_server() {
            false => Arc::new(SystemClock::new()),
            true => Arc::new(SharedClock::new(SystemClock::new())),
        });
        let ports = Ports {
            clock,
            random,
            blocking,
        };
        assemble(database, config, ports, transport, (driver, system))
    }
}
