//! The operating system's name resolution (hosts file, name servers, search domains), according to
//! the current content of its files.
//!
//! hickory asks the name servers. This file decides the names to ask for and their order, so that
//! both address families of an answer belong to the same name.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::Instant;
use tokio::time::timeout;

use super::nat64::{self, Nat64Prefix};

/// Wait for the other address family once one has answered (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Timeout for asking the network for its NAT64 prefixes.
const NAT64_TIMEOUT: Duration = Duration::from_secs(1);

/// Age at which the settings are read again even if their files look unchanged.
const MAX_AGE: Duration = Duration::from_secs(3600);

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// The system's name resolution as last read from its files.
pub(super) struct SystemNames {
    files: [Option<Stamp>; 2],
    read_at: Instant,
    resolver: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
}

/// Version of a file: modification time, length and inode.
type Stamp = (SystemTime, u64, u64);

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// End of the answer's validity.
    pub(super) valid_until: Instant,
}

/// The reason why a name has no address of one family.
struct Missing {
    why: String,
    /// Its server says that the name does not exist at all (NXDOMAIN).
    is_certain: bool,
}

impl From<NetError> for Missing {
    fn from(error: NetError) -> Self {
        Self {
            is_certain: error.is_nx_domain(),
            why: error.to_string(),
        }
    }
}

impl SystemNames {
    /// Reads the system's files.
    ///
    /// # Errors
    /// Returns an error if no resolver can be built.
    pub(super) fn read(max_requests: usize) -> Result<Self, String> {
        let files = stamps();
        let (config, mut options) = name_servers();
        let (search, ndots) = (config.search().to_vec(), options.ndots);
        options.use_hosts_file = ResolveHosts::Never;
        // The caller stores answers. A name that appears, or a server that recovers, is then seen
        // by the next attempt.
        options.cache_size = 0;
        options.max_active_requests = max_requests;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self {
            files,
            read_at: Instant::now(),
            resolver,
            hosts: hosts(),
            search,
            ndots,
        })
    }

    /// Returns whether the files are unchanged.
    pub(super) fn is_current(&self) -> bool {
        self.files == stamps() && self.read_at.elapsed() < MAX_AGE
    }

    /// Returns the addresses of a name in the hosts file.
    pub(super) fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        let of = |kind| {
            self.hosts
                .lookup_static_host(&Query::query(name.clone(), kind))
        };
        let found = [of(RecordType::A), of(RecordType::AAAA)];
        let answers = found
            .iter()
            .flatten()
            .flat_map(|lookup| lookup.answers().iter());
        answers.filter_map(|record| record.data.ip_addr()).collect()
    }

    /// Asks the name servers.
    ///
    /// # Errors
    /// Returns the reason why there is no address.
    pub(super) async fn ask(&self, name: &Name) -> Result<Found, String> {
        let mut failed = None;
        for candidate in candidates(name, &self.search, self.ndots) {
            match self.both_families(candidate).await {
                Ok(found) if !found.addresses.is_empty() => return Ok(found),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(match failed {
            Some(error) => format!("the name does not resolve: {error}"),
            None => "the name does not resolve: it has no address".to_owned(),
        })
    }

    async fn of_family(&self, name: &Name, kind: RecordType) -> Result<Found, Missing> {
        let found = self.resolver.lookup(name.clone(), kind).await?;
        let addresses = found
            .answers()
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect();
        Ok(Found {
            addresses,
            valid_until: found.valid_until().into(),
        })
    }

    /// Asks for both families. Once one has addresses, the other gets little time to answer.
    async fn both_families(&self, name: Name) -> Result<Found, String> {
        let v4 = Box::pin(self.of_family(&name, RecordType::A));
        let v6 = Box::pin(self.of_family(&name, RecordType::AAAA));
        let (first, second) = match select(v4, v6).await {
            Either::Left((first, other)) => {
                // A name that does not exist has no other family either (RFC 8020). For IPv6, some
                // servers claim this wrongly.
                let decides = first
                    .as_ref()
                    .map_or_else(|missing| missing.is_certain, has_address);
                let second = if decides {
                    hardly(other).await
                } else {
                    other.await
                };
                (first, second)
            }
            Either::Right((first, other)) => {
                let decides = first.as_ref().is_ok_and(has_address);
                let second = if decides {
                    hardly(other).await
                } else {
                    other.await
                };
                (first, second)
            }
        };
        match (first, second) {
            (Ok(mut first), Ok(second)) => {
                first.valid_until = first.valid_until.min(second.valid_until);
                first.addresses.extend(second.addresses);
                Ok(first)
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) if has_address(&found) => Ok(found),
            (Err(missing), _) | (_, Err(missing)) => Err(missing.why),
        }
    }

    /// Asks the network for its NAT64 prefixes, with a name that has only IPv4 addresses (RFC
    /// 7050). `None` if there was no answer.
    pub(super) async fn nat64_prefixes(&self) -> Option<Vec<Nat64Prefix>> {
        let name = Name::from_ascii("ipv4only.arpa.").ok()?;
        let found = match timeout(NAT64_TIMEOUT, self.resolver.lookup(name, RecordType::AAAA))
            .await
            .ok()?
        {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                return Some(Vec::new());
            }
            Err(_) => return None,
        };
        let addresses = found
            .answers()
            .iter()
            .filter_map(|record| record.data.ip_addr());
        let v6 = addresses.filter_map(|address| match address {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        });
        let prefixes = nat64::prefixes_in(&v6.collect::<Vec<Ipv6Addr>>());
        if !prefixes.is_empty() {
            tracing::info!(?prefixes, "this network translates IPv4 addresses (NAT64)");
        }
        Some(prefixes)
    }
}

fn has_address(found: &Found) -> bool {
    !found.addresses.is_empty()
}

async fn hardly(other: impl Future<Output = Result<Found, Missing>>) -> Result<Found, Missing> {
    let late = |_| {
        Err(Missing {
            why: "no answer".to_owned(),
            is_certain: false,
        })
    };
    timeout(RESOLUTION_DELAY, other).await.unwrap_or_else(late)
}

fn stamps() -> [Option<Stamp>; 2] {
    [RESOLV_CONF, HOSTS].map(|path| {
        let found = std::fs::metadata(Path::new(path)).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&found);
        #[cfg(not(unix))]
        let inode = 0;
        Some((found.modified().ok()?, found.len(), inode))
    })
}

/// Returns the system's name servers and search domains.
#[cfg(unix)]
fn name_servers() -> (ResolverConfig, ResolverOpts) {
    let text = std::fs::read(RESOLV_CONF).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read {RESOLV_CONF}: using the name server on this machine");
        Vec::new()
    });
    parse_resolv_conf(&String::from_utf8_lossy(&text))
}

#[cfg(not(unix))]
fn name_servers() -> (ResolverConfig, ResolverOpts) {
    hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the system's DNS settings: names are looked up in the hosts file only");
        (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
    })
}

/// Parses the file like the system: invalid parts are ignored, and without a name server the one on
/// this machine is used (resolv.conf(5)).
#[cfg(unix)]
fn parse_resolv_conf(text: &str) -> (ResolverConfig, ResolverOpts) {
    use hickory_resolver::system_conf::parse_resolv_conf as parse;
    const OWN: &str = "nameserver 127.0.0.1\n";

    let has_server = parse(text).is_ok() || parse(format!("{text}\nsearch .\n")).is_ok();
    let text = if has_server {
        text.to_owned()
    } else {
        format!("{text}\n{OWN}")
    };
    if let Ok(parsed) = parse(&text) {
        return parsed;
    }
    // Drop invalid search domains.
    let valid = |line: &str| match line.split_whitespace().next() {
        Some("search" | "domain") => {
            let is_domain = |word: &&str| Name::from_str_relaxed(*word).is_ok();
            line.split_whitespace()
                .filter(is_domain)
                .collect::<Vec<_>>()
                .join(" ")
        }
        _ => line.to_owned(),
    };
    let text = text.lines().map(valid).collect::<Vec<_>>().join("\n");
    parse(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot parse {RESOLV_CONF}: using only the hosts file");
        (
            ResolverConfig::from_parts(None, Vec::new(), Vec::new()),
            ResolverOpts::default(),
        )
    })
}

/// Reads the hosts file, ignoring invalid lines.
fn hosts() -> Hosts {
    #[cfg(unix)]
    let read = || -> io::Result<Hosts> {
        let text = std::fs::read(HOSTS)?;
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(String::from_utf8_lossy(&text).as_bytes())?;
        Ok(hosts)
    };
    #[cfg(not(unix))]
    let read = || -> io::Result<Hosts> { Hosts::from_system() };
    read().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the hosts file: using only name servers");
        Hosts::default()
    })
}

/// Returns the full names to ask for, in order (resolv.conf(5)): a name with fewer dots than
/// `ndots` is first tried below each search domain.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, ndots: usize) -> Vec<String> {
        let search =
            ["ns.svc.cluster.local", "svc.cluster.local"].map(|one| Name::from_ascii(one).unwrap());
        let name = Name::from_ascii(name).unwrap();
        candidates(&name, &search, ndots)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn names_are_tried_in_the_order_of_the_system() {
        let below = |name: &str| {
            [
                format!("{name}.ns.svc.cluster.local."),
                format!("{name}.svc.cluster.local."),
            ]
        };
        let [first, second] = below("my-svc");
        assert_eq!(names("my-svc", 5), [first, second, "my-svc.".to_owned()]);
        let [first, second] = below("my-svc.ns");
        assert_eq!(
            names("my-svc.ns", 5),
            [first, second, "my-svc.ns.".to_owned()]
        );
        let [first, second] = below("a.b.c");
        assert_eq!(names("a.b.c", 1), ["a.b.c.".to_owned(), first, second]);
        assert_eq!(
            names("a.b.c.", 5),
            ["a.b.c."],
            "a final dot ends the search"
        );
    }

    #[cfg(unix)]
    #[test]
    fn what_is_wrong_in_resolv_conf_is_left_out() {
        let servers = |text: &str| {
            let (config, options) = parse_resolv_conf(text);
            let servers: Vec<String> = config
                .name_servers()
                .iter()
                .map(|one| one.ip.to_string())
                .collect();
            let search: Vec<String> = config.search().iter().map(ToString::to_string).collect();
            (servers, search, options.ndots)
        };
        let own = || vec!["127.0.0.1".to_owned()];
        assert_eq!(servers("").0, own());
        assert_eq!(
            servers("# nothing\noptions ndots:5\n"),
            (own(), Vec::new(), 5)
        );
        let usual = "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(servers(usual).1.len(), 2);
        let odd = format!(
            "caf\u{fffd} crème\nnameserver fe80::zz\nsearch {} a.example\nnameserver 10.0.0.2\n",
            "x".repeat(80)
        );
        assert_eq!(
            servers(&odd),
            (vec!["10.0.0.2".to_owned()], vec!["a.example".to_owned()], 1)
        );
    }
}
