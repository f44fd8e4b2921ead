//! Looks names up as the system would: literal answers of the hosts file, then what was answered a
//! moment ago, then the name servers.
//!
//! Lookups in flight are bounded, for each tenant and in total, and one name of a tenant is asked
//! for once at a time: names whose servers are silent take neither the places of other tenants nor
//! those of other names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use hickory_resolver::proto::rr::Name;
use tokio::sync::Semaphore;

use super::BoxFuture;
use super::nat64::Nat64Prefix;
use super::system_names::{Found, SystemNames};
use crate::domain::ids::Tenant;

/// Lookups in flight, of one tenant and of all together.
const MAX_LOOKUPS_OF_TENANT: usize = 32;
const MAX_LOOKUPS: usize = 512;

/// The longest that addresses are used again, whatever their server allows: a receiver that moves
/// is followed.
const MAX_ANSWER_AGE: Duration = Duration::from_secs(30);

/// How many names' addresses are kept.
const MAX_ANSWERS: usize = 10_000;

/// How long it is known which prefixes the network's NAT64 uses, and that nobody has answered.
const NAT64_AGE: Duration = Duration::from_secs(3600);
const NAT64_RETRY: Duration = Duration::from_secs(10);

/// Looks names up.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// All addresses of `name`, or why there are none. `tenant` is whose endpoint needs them.
    fn lookup(
        &self,
        name: String,
        tenant: Tenant,
    ) -> BoxFuture<'static, Result<Vec<IpAddr>, String>>;

    /// The prefixes by which this network reaches IPv4 addresses over IPv6, beside the well-known
    /// one.
    fn nat64_prefixes(&self) -> BoxFuture<'static, Vec<Nat64Prefix>> {
        Box::pin(async { Vec::new() })
    }
}

/// Knows no name, and asks nobody.
#[cfg(feature = "testing")]
pub(crate) struct NoNames;

#[cfg(feature = "testing")]
impl Resolve for NoNames {
    fn lookup(&self, name: String, _: Tenant) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> {
        Box::pin(async move { Err(format!("{name} is not looked up in a test")) })
    }
}

type Answer = Result<Vec<IpAddr>, String>;

/// The operating system's name servers and hosts file. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DnsResolver {
    state: Arc<Mutex<State>>,
    lookups: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    names: Option<Arc<SystemNames>>,
    answers: HashMap<String, Found>,
    under_way: HashMap<(Tenant, String), WeakShared<BoxFuture<'static, Answer>>>,
    of_tenants: HashMap<Tenant, Arc<Semaphore>>,
    nat64: Option<(Vec<Nat64Prefix>, Instant)>,
}

impl State {
    /// The system's names as its files are now. What was answered before a change is forgotten with
    /// it.
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

    /// The places that a tenant's lookups share. Those of tenants without a lookup are forgotten.
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
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a name at once, or the lookup that finds out.
    fn begin(
        &self,
        text: String,
        tenant: Tenant,
    ) -> Result<Vec<IpAddr>, Shared<BoxFuture<'static, Answer>>> {
        let failed = |why: String| Err(async { Err(why) }.boxed().shared());
        // The URL's parser has written the name in ASCII. DNS itself takes any character (RFC 2181,
        // section 11).
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
            // A tenant's own place first: whoever waits for that takes none of the others'.
            let _own = places.acquire().await;
            let _shared = resolver.lookups.acquire().await;
            let found = names.ask(&name).await?;
            let addresses = found.addresses.clone();
            resolver.state().keep(text, found);
            Ok(addresses)
        };
        let lookup = lookup.boxed().shared();
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
            // A task of its own: an attempt that ends meanwhile does not end it.
            let discovery = tokio::spawn(async move {
                let found = names.nat64_prefixes().await;
                let age = if found.is_some() {
                    NAT64_AGE
                } else {
                    NAT64_RETRY
                };
                let mut state = resolver.state();
                let before = state.nat64.take().map(|(prefixes, _)| prefixes);
                // Silence says nothing: what was known before still holds.
                let prefixes = found.or(before).unwrap_or_default();
                state.nat64 = Some((prefixes.clone(), Instant::now() + age));
                prefixes
            });
            discovery.await.unwrap_or_default()
        })
    }
}
