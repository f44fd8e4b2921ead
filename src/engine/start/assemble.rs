//! The parts of an engine, created in the order of their dependencies.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{Semaphore, watch};

use crate::config::EngineConfig;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::idempotency::IdempotencySecret;
use crate::domain::random::Random;
use crate::domain::session::SessionKey;
use crate::engine::background::{LeaseKeeper, RecoveryRunner, Sweeper};
use crate::engine::committer::{self, Driver, OnCommit};
use crate::engine::context::EngineContext;
use crate::engine::due_reader::DueReader;
use crate::engine::error::StartError;
use crate::engine::handle::{Parts, Postrider};
use crate::engine::joining::{JoinStep, Joining};
use crate::engine::known_tokens::KnownTokens;
use crate::engine::leases::Leases;
use crate::engine::membership::Membership;
use crate::engine::notifications;
use crate::engine::registry::Registry;
use crate::engine::router::{Addresses, Router};
use crate::engine::sending::SendingThreads;
use crate::engine::writer_horizon::SharedHorizon;
use crate::metrics::{LeaseChange, Metrics};
use crate::ports::{Blocking, runtime};
use crate::sender::guard::AddressPolicy;
use crate::sender::{DnsResolver, HttpTransport, Resolve, Sender, Transport};
use crate::store::{DatabaseKey, Hints, ProcessLock, Source, Store, StoreError, Writer};

/// Lead of the newest event over the clock above which it is reported.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The engine's access to the operating system.
pub(super) struct Ports {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) blocking: Blocking,
}

/// Opens the database, joins the cluster and starts the actors in the current actix `System`.
#[expect(
    clippy::too_many_lines,
    reason = "a list of parts, in the order in which each needs the one before"
)]
pub(super) fn assemble(
    database: Source,
    config: EngineConfig,
    ports: Ports,
    transport: Option<Arc<dyn Transport>>,
    (driver, system): (Driver, Option<System>),
) -> Result<Postrider, StartError> {
    let Ports {
        clock,
        random,
        blocking,
    } = ports;
    let database = database.for_node(&config.node_name);
    database.check()?;
    // The lock first: a second sender must not even migrate the schema.
    let lock = ProcessLock::acquire(&database, &config, &*random)?;
    let store = Store::open(&database, &config, &random, blocking)?;
    let is_own = system.is_some();
    let sending = Sending::new(&config, transport, &clock)?;
    let metrics = Arc::new(Metrics::new());
    let (session_key, idempotency) = database_keys(&store, clock.now())?;
    let tokens = Arc::new(KnownTokens::default());
    if let Some(snapshot) = store.tokens_here()? {
        tokens.update(snapshot);
    }
    let instance = store.ids().instance();
    // The clock learns the database's time.
    store.leases_here(&*clock)?;
    let membership = Membership::new(instance, lock, &config, store.is_server(), clock.now());
    let leases = Leases::new(Arc::clone(&clock));
    // Rehydration: deliveries that an earlier owner of a shard left `sending` become pending.
    let mut joining = Joining::default();
    let joining = match joining.step(&store, &membership, &*clock)? {
        JoinStep::Joined(takeover) => {
            leases.take(&takeover, membership.end(takeover.asked));
            None
        }
        // The lease keeper tries again. Publishing needs no leases.
        JoinStep::Waiting => Some(joining),
        JoinStep::NameTaken(error) => return Err(StartError::Setting(error)),
    };
    // Uses the database's clock, if the nodes share one.
    report_late_events(&store, clock.now())?;
    metrics.leases(LeaseChange::Taken, leases.all().len());

    let leases = Arc::new(leases);
    let router = Router::default();
    let hints = {
        let router = router.clone();
        Hints::start(&database, move |hint| router.hint(hint))?
    };
    let on_commit = on_commit(&router, &leases, &hints);
    let committer = committer::start(
        &store,
        config.commit_timeout,
        committer::Observers {
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            on_commit,
        },
        driver,
    )?;
    let api_store = store.with_separate_pool(&config)?;
    let threads = match is_own {
        true => SendingThreads::start(sending.senders, &clock, config.read_connections),
        false => SendingThreads::here(sending.senders, &clock),
    };
    let context = Arc::new(EngineContext {
        permits: Arc::new(Semaphore::new(
            config.max_in_flight.min(Semaphore::MAX_PERMITS),
        )),
        due_reader: DueReader::start(store.clone()),
        store,
        committer,
        threads,
        clock,
        config,
        metrics,
        leases,
        horizon: SharedHorizon::default(),
        notifications: notifications::channel(),
        failure: watch::Sender::default(),
    });
    let membership = Arc::new(membership);
    let registry = Registry::new(Arc::clone(&context), Arc::clone(&tokens)).start();
    let lease_keeper = LeaseKeeper::new(&context, &membership, registry.clone(), joining);
    // On its own thread, with its own connection: nothing that others do delays a renewal.
    let lease_keeper = match is_own {
        true => {
            let thread = Arbiter::with_tokio_rt(runtime(1));
            LeaseKeeper::start_in_arbiter(&thread.handle(), |_| lease_keeper)
        }
        false => lease_keeper.start(),
    };
    let recovery_runner = RecoveryRunner::new(Arc::clone(&context), registry.clone()).start();
    Sweeper::new(Arc::clone(&context)).start();
    router.connect(Addresses {
        registry: registry.clone(),
        lease_keeper: lease_keeper.clone(),
        recovery_runner: recovery_runner.clone(),
    });
    Ok(Postrider::new(Parts {
        context,
        api_store,
        policy: sending.policy,
        resolver: sending.resolver,
        tokens,
        session_key,
        idempotency,
        hints,
        membership,
        registry,
        lease_keeper,
        recovery_runner,
        system,
    }))
}

/// The parts that send, and the address policy.
struct Sending {
    /// One per thread.
    senders: Vec<Sender>,
    policy: Arc<AddressPolicy>,
    resolver: Arc<dyn Resolve>,
}

impl Sending {
    fn new(
        config: &EngineConfig,
        transport: Option<Arc<dyn Transport>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let policy = AddressPolicy::new(config.allow_networks.clone(), config.https_only);
        let policy = Arc::new(policy.denying(config.deny_networks.clone()));
        let resolver: Arc<dyn Resolve> = match &transport {
            // Without a network there are no names to resolve.
            #[cfg(feature = "testing")]
            Some(_) => Arc::new(crate::sender::NoNames),
            _ => Arc::new(DnsResolver::from_system()),
        };
        let transports: Vec<Arc<dyn Transport>> = match transport {
            Some(transport) => vec![transport],
            None => {
                let policy = Arc::clone(&policy);
                let resolver = Arc::clone(&resolver);
                let first = HttpTransport::new(policy, resolver, config.connection_lifetime);
                let first = first.map_err(StartError::Sender)?;
                let others = (1..config.threads).map(|_| Arc::new(first.another()) as _);
                let mut all: Vec<Arc<dyn Transport>> = others.collect();
                all.push(Arc::new(first));
                all
            }
        };
        let header = config
            .event_id_header
            .as_ref()
            .map(|name| name.to_ascii_lowercase());
        let sender = |transport| {
            let (policy, header) = (Arc::clone(&policy), header.clone());
            Sender::new(transport, policy, header, Arc::clone(clock))
        };
        Ok(Self {
            senders: transports.into_iter().map(sender).collect(),
            policy,
            resolver,
        })
    }
}

/// Reads the keys that the nodes of a database share, creating them on first use.
fn database_keys(
    store: &Store,
    at: Timestamp,
) -> Result<(SessionKey, IdempotencySecret), StoreError> {
    let (sessions, idempotency) = Writer::open(store)?.run(|tx| {
        let sessions = tx.database_key(DatabaseKey::Sessions, at)?;
        Ok((sessions, tx.database_key(DatabaseKey::Idempotency, at)?))
    })?;
    Ok((
        SessionKey::new(sessions),
        IdempotencySecret::new(idempotency),
    ))
}

fn on_commit(router: &Router, leases: &Arc<Leases>, hints: &Hints) -> OnCommit {
    let router = router.clone();
    let leases = Arc::clone(leases);
    let hints = hints.clone();
    Arc::new(move |new| router.committed(new, &leases, &hints))
}

/// Reports events with a future time: the clock is behind, or was ahead. (Nothing expires by a
/// clock that is behind.)
fn report_late_events(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let newest = store.newest_event_at()?;
    if let Some(newest) = newest.filter(|newest| newest.since(now) > CLOCK_SLACK) {
        tracing::error!(
            %newest,
            %now,
            "the clock shows {now}, and the newest event was published at {newest}: is the clock behind? Nothing expires until it is right"
        );
    }
    Ok(())
}
