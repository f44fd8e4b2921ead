//! Names to addresses, without a thread that anything else uses.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::BoxFuture;

/// All that a lookup may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Looks names up.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// All addresses of `name`, or why there are none.
    fn lookup(&self, name: String) -> BoxFuture<'static, Result<Vec<IpAddr>, String>>;
}

/// Knows no name, and asks nobody.
#[cfg(feature = "testing")]
pub(crate) struct NoNames;

#[cfg(feature = "testing")]
impl Resolve for NoNames {
    fn lookup(&self, name: String) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> {
        Box::pin(async move { Err(format!("{name} is not looked up in a test")) })
    }
}

/// The operating system's name servers and hosts file; never its search domains.
#[derive(Clone)]
pub(crate) struct DnsResolver {
    resolver: TokioResolver,
}

impl DnsResolver {
    pub(crate) fn from_system() -> Result<Self, String> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the system's DNS settings: only the hosts file is used");
            let nowhere = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(nowhere, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = 1;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver })
    }
}

impl Resolve for DnsResolver {
    fn lookup(&self, name: String) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> {
        let resolver = self.resolver.clone();
        Box::pin(async move {
            // A name that ends in a dot is looked up as it is, without search domains.
            let absolute = if name.ends_with('.') { name } else { format!("{name}.") };
            match tokio::time::timeout(TIMEOUT, resolver.lookup_ip(absolute.as_str())).await {
                Ok(Ok(found)) => Ok(found.iter().collect()),
                Ok(Err(error)) => Err(format!("the name does not resolve: {error}")),
                Err(_) => Err("the name was not resolved within 2 s".into()),
            }
        })
    }
}
