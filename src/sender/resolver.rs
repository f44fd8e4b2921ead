//! Looks names up as the system would: the hosts file first, then the name servers with search domains, each
//! as the system's files say now.
//!
//! hickory asks the name servers; which names are asked for, and in which order, is decided here, so that both
//! address families of an answer belong to the same name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

use super::BoxFuture;
use super::nat64::{self, Nat64Prefix};
use crate::domain::ids::Tenant;

/// How long the other address family is waited for once one has answered (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Lookups in flight, of one tenant and of all together.
const MAX_LOOKUPS_OF_TENANT: usize = 32;
const MAX_LOOKUPS: usize = 512;

/// How long the network is asked for its NAT64 prefix.
const NAT64_TIMEOUT: Duration = Duration::from_secs(1);

/// How long that answer, and the settings it came from, are kept.
const MAX_SETTINGS_AGE: Duration = Duration::from_secs(3600);

/// Looks names up.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// All addresses of `name`, or why there are none. `tenant` is whose endpoint needs them.
    fn lookup(&self, name: String, tenant: Tenant) -> BoxFuture<'static, Result<Vec<IpAddr>, String>>;

    /// The prefixes by which this network reaches IPv4 addresses over IPv6, beside the well-known one.
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

/// The operating system's name servers and hosts file.
#[derive(Clone)]
pub(crate) struct DnsResolver {
    settings: Arc<Mutex<Option<Arc<Settings>>>>,
    lookups: Arc<Semaphore>,
    of_tenants: Arc<Mutex<HashMap<Tenant, Arc<Semaphore>>>>,
}

/// The system's files as they were read.
struct Settings {
    files: [Option<Stamp>; 2],
    read_at: Instant,
    resolver: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
    nat64: OnceCell<Vec<Nat64Prefix>>,
}

/// What tells one version of a file from the next.
type Stamp = (SystemTime, u64, u64);

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

fn stamp(path: &str) -> Option<Stamp> {
    let found = std::fs::metadata(Path::new(path)).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let inode = 0;
    Some((found.modified().ok()?, found.len(), inode))
}

impl Settings {
    fn read() -> Result<Self, String> {
        let files = FILES.map(stamp);
        let (config, mut options) =
            hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read the system's DNS settings: only the hosts file is used");
                (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
            });
        let (search, ndots) = (config.search().to_vec(), options.ndots);
        options.use_hosts_file = ResolveHosts::Never;
        // A name that appears, or a server that comes back, is seen by the next attempt.
        options.negative_max_ttl = Some(Duration::ZERO);
        options.max_active_requests = MAX_LOOKUPS * 2;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the hosts file: only name servers are asked");
            Hosts::default()
        });
        let nat64 = OnceCell::new();
        Ok(Self { files, read_at: Instant::now(), resolver, hosts, search, ndots, nat64 })
    }

    fn is_current(&self) -> bool {
        self.files == FILES.map(stamp) && self.read_at.elapsed() < MAX_SETTINGS_AGE
    }

    fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [of(RecordType::A), of(RecordType::AAAA)];
        let answers = found.iter().flatten().flat_map(|lookup| lookup.answers().iter());
        answers.filter_map(|record| record.data.ip_addr()).collect()
    }

    /// Both families of one name. Once one has answered with addresses, the other is hardly waited for.
    async fn addresses(&self, name: Name) -> Result<Vec<IpAddr>, String> {
        let ask = async |kind: RecordType| {
            let found = self.resolver.lookup(name.clone(), kind).await.map_err(|error| error.to_string())?;
            Ok(found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        };
        let (v4, v6) = (Box::pin(ask(RecordType::A)), Box::pin(ask(RecordType::AAAA)));
        let (first, second) = match select(v4, v6).await {
            Either::Left((first, other)) => {
                let second: Result<Vec<IpAddr>, String> = wait_for(&first, other).await;
                (first, second)
            }
            Either::Right((first, other)) => {
                let second = wait_for(&first, other).await;
                (first, second)
            }
        };
        match (first, second) {
            (Ok(mut first), Ok(second)) => {
                first.extend(second);
                Ok(first)
            }
            (Ok(found), Err(error)) | (Err(error), Ok(found)) => {
                if found.is_empty() {
                    Err(error)
                } else {
                    Ok(found)
                }
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        // The URL's parser has written the name in ASCII. DNS itself takes any character (RFC 2181, section 11).
        let name =
            Name::from_ascii(name).map_err(|error| format!("the name cannot be looked up: {error}"))?;
        let found = self.in_hosts_file(&name);
        if !found.is_empty() {
            return Ok(found);
        }
        let mut failed = None;
        for candidate in candidates(&name, &self.search, self.ndots) {
            match self.addresses(candidate).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(match failed {
            Some(error) => format!("the name does not resolve: {error}"),
            None => "the name does not resolve: it has no address".to_owned(),
        })
    }
}

/// Waits for the other family: for long only where the first one has brought nothing.
async fn wait_for(
    first: &Result<Vec<IpAddr>, String>,
    other: impl Future<Output = Result<Vec<IpAddr>, String>>,
) -> Result<Vec<IpAddr>, String> {
    if first.as_ref().is_ok_and(|found| !found.is_empty()) {
        timeout(RESOLUTION_DELAY, other).await.unwrap_or_else(|_| Ok(Vec::new()))
    } else {
        other.await
    }
}

/// The names that a name stands for, in the order in which they are asked for (resolv.conf(5)): one with fewer
/// dots than `ndots` is first tried below each search domain.
fn candidates(name: &Name, search: &[Name], ndots: usize) -> Vec<Name> {
    let mut absolute = name.clone();
    absolute.set_fqdn(true);
    if name.is_fqdn() {
        return vec![absolute];
    }
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let below = search.iter().filter_map(|domain| {
        let mut below = name.clone().append_domain(domain).ok()?;
        below.set_fqdn(true);
        Some(below)
    });
    if dots >= ndots {
        std::iter::once(absolute).chain(below).collect()
    } else {
        below.chain(std::iter::once(absolute)).collect()
    }
}

impl DnsResolver {
    pub(crate) fn from_system() -> Self {
        Self {
            settings: Arc::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            of_tenants: Arc::default(),
        }
    }

    /// The system's settings as its files are now.
    fn settings(&self) -> Result<Arc<Settings>, String> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        match &*settings {
            Some(current) if current.is_current() => Ok(Arc::clone(current)),
            _ => Ok(Arc::clone(settings.insert(Arc::new(Settings::read()?)))),
        }
    }

    /// The places that a tenant's lookups share. Those of tenants without a lookup are forgotten.
    fn places_of(&self, tenant: &Tenant) -> Arc<Semaphore> {
        let mut of_tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
        of_tenants.retain(|_, places| Arc::strong_count(places) > 1);
        let new = || Arc::new(Semaphore::new(MAX_LOOKUPS_OF_TENANT));
        Arc::clone(of_tenants.entry(tenant.clone()).or_insert_with(new))
    }
}

impl Resolve for DnsResolver {
    fn lookup(&self, name: String, tenant: Tenant) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> {
        let resolver = self.clone();
        Box::pin(async move {
            // A tenant's own place first: whoever waits for that takes none of the others'.
            let places = resolver.places_of(&tenant);
            let _own = places.acquire().await;
            let _shared = resolver.lookups.acquire().await;
            resolver.settings()?.lookup(&name).await
        })
    }

    fn nat64_prefixes(&self) -> BoxFuture<'static, Vec<Nat64Prefix>> {
        let resolver = self.clone();
        Box::pin(async move {
            let Ok(settings) = resolver.settings() else { return Vec::new() };
            settings.nat64.get_or_init(|| discover_nat64(&settings.resolver)).await.clone()
        })
    }
}

/// Asks the network which prefix its NAT64 uses, by a name that has IPv4 addresses only (RFC 7050).
async fn discover_nat64(resolver: &TokioResolver) -> Vec<Nat64Prefix> {
    let Ok(name) = Name::from_ascii("ipv4only.arpa.") else { return Vec::new() };
    let found = timeout(NAT64_TIMEOUT, resolver.lookup(name, RecordType::AAAA)).await;
    let Ok(Ok(found)) = found else { return Vec::new() };
    let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
    let v6 = addresses.filter_map(|address| match address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    });
    let prefixes = nat64::prefixes_in(&v6.collect::<Vec<Ipv6Addr>>());
    if !prefixes.is_empty() {
        tracing::info!(?prefixes, "this network translates IPv4 addresses (NAT64)");
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, ndots: usize) -> Vec<String> {
        let search = ["ns.svc.cluster.local", "svc.cluster.local"].map(|one| Name::from_ascii(one).unwrap());
        let name = Name::from_ascii(name).unwrap();
        candidates(&name, &search, ndots).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_tried_in_the_order_of_the_system() {
        let below =
            |name: &str| [format!("{name}.ns.svc.cluster.local."), format!("{name}.svc.cluster.local.")];
        let [first, second] = below("my-svc");
        assert_eq!(names("my-svc", 5), [first, second, "my-svc.".to_owned()]);
        let [first, second] = below("my-svc.ns");
        assert_eq!(names("my-svc.ns", 5), [first, second, "my-svc.ns.".to_owned()]);
        let [first, second] = below("a.b.c");
        assert_eq!(names("a.b.c", 1), ["a.b.c.".to_owned(), first, second]);
        assert_eq!(names("a.b.c.", 5), ["a.b.c."], "a final dot ends the search");
    }
}
