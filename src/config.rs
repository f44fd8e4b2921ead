//! What an engine can be told, with its defaults. Imports the domain only.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::FieldError;
use crate::domain::endpoint::EndpointDefaults;
use crate::domain::headers::check_header_name;
use crate::domain::lease::Terms;
use crate::domain::secret::EncryptionKey;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseUrl {
    /// A file. `sqlite:path`, `sqlite://path` or a bare path.
    Sqlite(PathBuf),
    /// A server: `postgres://user:password@host:port/database?…`, with libpq's parameters, and
    /// `pooler=transaction` where it leads to a pooler in transaction mode.
    Postgres(PostgresUrl),
}

impl DatabaseUrl {
    /// Whether it leads to a pooler in transaction mode.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        matches!(self, Self::Postgres(url) if url.is_pooled())
    }
}

/// The URL of a Postgres database. It may hold a password: `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    url: String,
    pooled: bool,
}

/// What says of a URL that it leads to a pooler in transaction mode. libpq does not know it.
const POOLER: (&str, &str) = ("pooler", "transaction");

impl PostgresUrl {
    fn parse(url: &str) -> Result<Self, String> {
        let Some((base, query)) = url.split_once('?') else {
            return Ok(Self { url: url.to_owned(), pooled: false });
        };
        let is_pooler = |pair: &&str| pair.split('=').next() == Some(POOLER.0);
        let (pooler, libpq): (Vec<&str>, Vec<&str>) =
            query.split('&').filter(|pair| !pair.is_empty()).partition(is_pooler);
        if pooler.iter().any(|pair| pair.split_once('=') != Some(POOLER)) {
            return Err("`pooler` may be `transaction`; leave it out for a direct connection".into());
        }
        let url = if libpq.is_empty() { base.to_owned() } else { format!("{base}?{}", libpq.join("&")) };
        Ok(Self { url, pooled: !pooler.is_empty() })
    }

    /// All of it that libpq understands.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.url
    }

    /// Whether it leads to a pooler in transaction mode: two transactions may then run in two sessions
    /// of the server.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }
}

impl std::fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("postgres://***")
    }
}

impl std::str::FromStr for DatabaseUrl {
    type Err = String;
    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return PostgresUrl::parse(url).map(Self::Postgres);
        }
        let path = url.strip_prefix("sqlite:").unwrap_or(url);
        let path = path.strip_prefix("//").unwrap_or(path);
        match path {
            "" => Err("names no file: write sqlite:postrider.db".into()),
            ":memory:" => Err("a webhook in memory is lost by a restart: name a file".into()),
            other if other.contains("://") => {
                let scheme = other.split("://").next().unwrap_or_default();
                Err(format!(
                    "`{scheme}` is no database that is known here: write sqlite:FILE or postgres://…"
                ))
            }
            file => Ok(Self::Sqlite(file.into())),
        }
    }
}

/// How an engine sends, keeps and limits. Every field has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineConfig {
    /// What endpoints that do not say otherwise are held to.
    pub endpoint_defaults: EndpointDefaults,
    /// Networks that webhooks may go to although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// Networks that webhooks must not go to although they are public, or lie in an opened one.
    pub deny_networks: Vec<IpNet>,
    /// Refuse `http://` endpoints.
    pub https_only: bool,
    /// A second header that carries the event's id, beside `webhook-id`.
    pub event_id_header: Option<String>,
    /// What signing keys and endpoint headers are encrypted with in the database: the first one
    /// encrypts, all decrypt. Empty: they are stored in the clear.
    pub encryption_keys: Vec<EncryptionKey>,
    /// How long after its publishing an event is kept whose deliveries have all ended.
    pub retention: Duration,
    /// How often expired and outdated rows are looked for.
    pub maintenance_interval: Duration,
    /// How often due work is looked for that no hint told of: at most one second.
    pub poll_interval: Duration,
    /// How long an idle endpoint keeps its supervisor.
    pub idle_timeout: Duration,
    /// How long a stop waits for the attempts in flight.
    pub drain_timeout: Duration,
    /// How long a publisher waits for a database that does not take its commit.
    pub commit_timeout: Duration,
    /// Attempts in flight of all endpoints together: at least one, and below the process's file limit,
    /// as each needs a connection. Default: half of that limit, at most 8,192.
    pub max_in_flight: usize,
    /// Connections that read: as many for the engine, and as many for callers.
    pub read_connections: u32,
    /// What this process is called among those that share the database. Default: the host's name.
    pub node_name: String,
    /// How it holds its share of the endpoints, where several processes share a database.
    pub lease: Terms,
    /// Whether a start brings the schema up to date.
    pub migrate_on_start: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            endpoint_defaults: EndpointDefaults::default(),
            allow_networks: Vec::new(),
            deny_networks: Vec::new(),
            https_only: false,
            event_id_header: None,
            encryption_keys: Vec::new(),
            retention: Duration::from_secs(30 * 24 * 3600),
            maintenance_interval: Duration::from_secs(60),
            poll_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(10),
            max_in_flight: (open_files() / 2).clamp(1, 8192),
            read_connections: 4,
            node_name: host_name(),
            lease: Terms::default(),
            migrate_on_start: true,
        }
    }
}

/// What this machine is called, as far as it makes a node's name.
fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    if check_node_name(&name).is_ok() { name } else { "postrider".into() }
}

fn check_node_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err("must be 1 to 64 characters of A-Z, a-z, 0-9, `.`, `_` and `-`".into())
}

/// Files that something else than attempts needs: the database, the API's own connections, names.
const SPARE_FILES: usize = 64;

/// How many files this process may have open for attempts.
fn open_files() -> usize {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let limit = None;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)).saturating_sub(SPARE_FILES)
}

impl EngineConfig {
    /// Holds what can be told to what can be done.
    ///
    /// # Errors
    /// Names the first setting that is wrong, and its remedy.
    pub fn check(&self) -> Result<(), FieldError> {
        let wrong = |field: &'static str| move |detail: String| FieldError::new(field, detail);
        if let Some(name) = &self.event_id_header {
            check_header_name(name).map_err(wrong("event_id_header"))?;
        }
        let most = open_files();
        if !(1..=most).contains(&self.max_in_flight) {
            let detail = format!(
                "must be 1 to {most}: this process may not open more files (`ulimit -n` raises that)"
            );
            return Err(FieldError::new("max_in_flight", detail));
        }
        check_node_name(&self.node_name).map_err(wrong("node_name"))?;
        self.lease.check()?;
        if self.poll_interval.is_zero() {
            return Err(FieldError::new("poll_interval", "must not be zero"));
        }
        self.endpoint_defaults.check()
    }
}
