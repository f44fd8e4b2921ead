//! Resolves names like the system: first from the hosts file, then from recent answers, then with
//! the name servers.
//!
//! Lookups in flight are limited per tenant and in total, and a tenant's name has one lookup at a
//! time. Names with silent servers therefore take permits neither from other tenants nor from other
//! names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use hickory_resolver::proto::rr::Name;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::BoxFuture;
use super::nat64::Nat64Prefix;
use super::system_names::{Found, SystemNames};
use crate::domain::ids::Tenant;

/// Maximum lookups in flight, per tenant and in total.
const MAX_LOOKUPS_OF_TENANT: usize = 32;
const MAX_LOOKUPS: usize = 512;

/// Maximum age of a reused answer, even if its TTL is longer, so that a receiver can move.
const MAX_ANSWER_AGE: Duration = Duration::from_secs(30);

/// Maximum number of names with stored answers.
const MAX_ANSWERS: usize = 10_000;

/// Time until the network is asked for its NAT64 prefixes again, after an answer and after none.
const NAT64_AGE: Duration = Duration::from_secs(3600);
const NAT64_RETRY: Duration = Duration::from_secs(10);

/// Resolves host names.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// Returns all addresses of `name`, or the reason why there are none, on behalf of `tenant`.
    fn lookup(
        &self,
        name: String,
        tenant: Tenant,
    ) -> BoxFuture<'static, Result<Vec<IpAddr>, String>>;

    /// Returns the prefixes with which this network reaches IPv4 addresses over IPv6, besides the
    /// well-known one.
    fn nat64_prefixes(&self) -> BoxFuture<'static, Vec<Nat64Prefix>> {
        Box::pin(async { Vec::new() })
    }
}

/// Resolves no names.
#[cfg(feature = "testing")]
pub(crate) struct NoNames;

#[cfg(feature = "testing")]
impl Resolve for NoNames {
    fn lookup(&self, name: String, _: Tenant) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> {
        Box::pin(async move { Err(format!("{name} is not looked up in a test")) })
    }
}

type Answer = Result<Vec<IpAddr>, String>;

/// Resolver that uses the system's name servers and hosts file. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DnsResolver {
    state: Arc<Mutex<CacheState>>,
    lookups: Arc<Semaphore>,
    /// Runs the lookups, which several sending threads share: none of them can delay one.
    runtime: Option<Handle>,
}

#[derive(Default)]
struct CacheState {
    names: Option<Arc<SystemNames>>,
    answers: HashMap<String, Found>,
    under_way: HashMap<(Tenant, String), WeakShared<BoxFuture<'static, Answer>>>,
    of_tenants: HashMap<Tenant, Arc<Semaphore>>,
    nat64: Option<(Vec<Nat64Prefix>, Instant)>,
}

impl CacheState {
    /// Returns the system's names, read again if its files have changed. Answers from before a
    /// change are dropped.
    fn names(&mut self) -> Result<Arc<SystemNames>, String> {
        if let Some(names) = self.names.as_ref().filter(|names| names.is_current()) {
            return Ok(Arc::clone(names));
        }
        let names = Arc::new(SystemNames::read(MAX_LOOKUPS * 2)?);
        self.answers.clear();
        self.nat64 = None;
        Ok(Arc::clone(self.names.insert(names)))
    }

    fn answered(&self, name: &str) -> Option<Vec<IpAddr>> {
        let found = self.answers.get(name)?;
        (found.valid_until > Instant::now()).then(|| found.addresses.clone())
    }

    fn keep(&mut self, name: String, found: Found) {
        let now = Instant::now();
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.retain(|_, found| found.valid_until > now);
        }
        if self.answers.len() >= MAX_ANSWERS {
            // All are still valid, and each can be asked for again.
            self.answers.clear();
        }
        let valid_until = found.valid_until.min(now + MAX_ANSWER_AGE);
        self.answers.insert(
            name,
            Found {
                valid_until,
                ..found
            },
        );
    }

    /// Returns the permits of a tenant's lookups. Those of tenants without lookups are dropped.
    fn places_of(&mut self, tenant: &Tenant) -> Arc<Semaphore> {
        self.of_tenants
            .retain(|_, places| Arc::strong_count(places) > 1);
        let new = || Arc::new(Semaphore::new(MAX_LOOKUPS_OF_TENANT));
        Arc::clone(self.of_tenants.entry(tenant.clone()).or_insert_with(new))
    }
}

impl DnsResolver {
    pub(crate) fn from_system() -> Self {
        Self {
            state: Arc::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            runtime: Handle::try_current().ok(),
        }
    }

    /// Runs a lookup until it ends, or nobody waits for it.
    fn run(
        &self,
        lookup: impl Future<Output = Answer> + Send + 'static,
    ) -> BoxFuture<'static, Answer> {
        let Some(runtime) = &self.runtime else {
            return lookup.boxed();
        };
        let task = AbortOnDropHandle::new(runtime.spawn(lookup));
        async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed()
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the addresses of a name if they are known, or the lookup that finds them.
    fn begin(
        &self,
        text: String,
        tenant: Tenant,
    ) -> Result<Vec<IpAddr>, Shared<BoxFuture<'static, Answer>>> {
        let failed = |why: String| Err(async { Err(why) }.boxed().shared());
        // The URL parser has converted the name to ASCII. DNS itself allows any character
        // (RFC 2181, section 11).
        let name = match Name::from_ascii(&text) {
            Ok(name) => name,
            Err(error) => return failed(format!("the name cannot be looked up: {error}")),
        };
        let mut state = self.state();
        let names = match state.names() {
            Ok(names) => names,
            Err(error) => return failed(error),
        };
        let in_hosts_file = names.in_hosts_file(&name);
        if !in_hosts_file.is_empty() {
            return Ok(in_hosts_file);
        }
        if let Some(addresses) = state.answered(&text) {
            return Ok(addresses);
        }
        let key = (tenant, text);
        if let Some(lookup) = state.under_way.get(&key).and_then(WeakShared::upgrade) {
            return Err(lookup);
        }
        let places = state.places_of(&key.0);
        let (resolver, text) = (self.clone(), key.1.clone());
        let lookup = async move {
            // The tenant's permit first, so that waiting for it takes none of the shared ones.
            let _own = places.acquire().await;
            let _shared = resolver.lookups.acquire().await;
            let found = names.ask(&name).await?;
            let addresses = found.addresses.clone();
            resolver.state().keep(text, found);
            Ok(addresses)
        };
        let lookup = self.run(lookup).shared();
        state
            .under_way
            .retain(|_, lookup| lookup.upgrade().is_some());
        if let Some(weak) = lookup.downgrade() {
            state.under_way.insert(key, weak);
        }
        Err(lookup)
    }
}

impl Resolve for DnsResolver {
    fn lookup(&self, name: String, tenant: Tenant) -> BoxFuture<'static, Answer> {
        match self.begin(name, tenant) {
            Ok(addresses) => Box::pin(async { Ok(addresses) }),
            Err(lookup) => Box::pin(lookup),
        }
    }

    fn nat64_prefixes(&self) -> BoxFuture<'static, Vec<Nat64Prefix>> {
        let resolver = self.clone();
        Box::pin(async move {
            let known = {
                let mut state = resolver.state();
                let names = state.names();
                match &state.nat64 {
                    Some((prefixes, until)) if *until > Instant::now() => Ok(prefixes.clone()),
                    _ => Err(names),
                }
            };
            let names = match known {
                Ok(prefixes) => return prefixes,
                Err(Ok(names)) => names,
                Err(Err(_)) => return Vec::new(),
            };
            // A separate task, so that it survives the end of the attempt.
            let runtime = resolver.runtime.clone().unwrap_or_else(Handle::current);
            let discovery = runtime.spawn(async move {
                let found = names.nat64_prefixes().await;
                let age = if found.is_some() {
                    NAT64_AGE
                } else {
                    NAT64_RETRY
                };
                let mut state = resolver.state();
                let before = state.nat64.take().map(|(prefixes, _)| prefixes);
                // No answer proves nothing: the previous prefixes stay valid.
                let prefixes = found.or(before).unwrap_or_default();
                state.nat64 = Some((prefixes.clone(), Instant::now() + age));
                prefixes
            });
            discovery.await.unwrap_or_default()
        })
    }
}
