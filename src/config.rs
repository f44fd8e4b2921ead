//! Configuration of an engine, with defaults. Imports the domain only.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
#[cfg(any(feature = "postgres", test))]
use percent_encoding::percent_decode_str;

use crate::domain::SettingError;
use crate::domain::endpoint::EndpointLimits;
use crate::domain::headers::check_header_name;
use crate::domain::lease::Terms;
use crate::domain::secret::EncryptionKey;

/// Location of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseUrl {
    /// A file: `sqlite:path`, `sqlite://path` or a bare path.
    Sqlite(PathBuf),
    /// A server: `postgres://user:password@host:port/database?…`, with libpq's parameters, and
    /// `pooler=transaction` if a pooler in transaction mode is in between.
    Postgres(PostgresUrl),
}

impl DatabaseUrl {
    /// Returns whether a pooler in transaction mode is in between.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        matches!(self, Self::Postgres(url) if url.is_pooled())
    }
}

/// The URL of a Postgres database. It may contain a password: `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    url: String,
    pooled: bool,
    application_name: String,
}

/// Query parameter for a pooler in transaction mode. libpq does not know it.
const POOLER: (&str, &str) = ("pooler", "transaction");

/// Application name of sessions before the node's name is known.
const APPLICATION_NAME: &str = "postrider";

impl PostgresUrl {
    fn parse(url: &str) -> Result<Self, String> {
        check_authority(url)?;
        let application_name = APPLICATION_NAME.to_owned();
        let Some((base, query)) = url.split_once('?') else {
            return Ok(Self {
                url: url.to_owned(),
                pooled: false,
                application_name,
            });
        };
        let is_pooler = |pair: &&str| pair.split('=').next() == Some(POOLER.0);
        let (pooler, libpq): (Vec<&str>, Vec<&str>) = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .partition(is_pooler);
        if pooler
            .iter()
            .any(|pair| pair.split_once('=') != Some(POOLER))
        {
            return Err(
                "`pooler` may be `transaction`; leave it out for a direct connection".into(),
            );
        }
        let url = if libpq.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", libpq.join("&"))
        };
        Ok(Self {
            url,
            pooled: !pooler.is_empty(),
            application_name,
        })
    }

    /// Adds the node's name to the application name. A node's name needs no escaping.
    #[must_use]
    pub(crate) fn for_node(mut self, node_name: &str) -> Self {
        self.application_name = format!("{APPLICATION_NAME}-{node_name}");
        self
    }

    /// Returns the name of its sessions in the server's own lists (`application_name`).
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Removes the password from a message, in raw and decoded form.
    #[cfg(any(feature = "postgres", test))]
    #[must_use]
    pub(crate) fn redact(&self, message: &str) -> String {
        let authority = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let password = authority
            .rsplit_once('@')
            .and_then(|(user, _)| user.split_once(':'));
        let query = self.url.split_once('?').map_or("", |(_, query)| query);
        let in_query = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("password="));
        let mut message = message.to_owned();
        for raw in password
            .map(|(_, password)| password)
            .into_iter()
            .chain(in_query)
        {
            let decoded = percent_decode_str(raw).decode_utf8_lossy().into_owned();
            for secret in [raw.to_owned(), decoded] {
                if !secret.is_empty() {
                    message = message.replace(&secret, "***");
                }
            }
        }
        message
    }

    /// Returns the URL with the parameters that libpq understands, password included.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.url
    }

    /// Returns whether a pooler in transaction mode is in between: two transactions may then run
    /// in two different sessions of the server.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }
}

/// Checks the part of a URL before its path. libpq would misread a password with unescaped
/// characters and repeat a part of it in its error; the errors here never repeat the URL.
fn check_authority(url: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let encode = "the user name or password contains a character that must be percent-encoded: write % as %25, @ as %40, : as %3A, / as %2F, ? as %3F and # as %23";
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    // An `@` after the first slash is part of a password with a slash; in parameters it is fine.
    let before_parameters = path.split('?').next().unwrap_or_default();
    let mut escapes = user.split('%').skip(1);
    let is_escaped = escapes.all(|rest| {
        rest.get(..2)
            .is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    });
    if before_parameters.contains('@')
        || path.starts_with(['?', '#']) && path.contains('@') && user.is_empty()
    {
        return Err(encode.into());
    }
    if !is_escaped || user.contains('@') || user.matches(':').count() > 1 {
        return Err(encode.into());
    }
    let port_of = |host: &str| match host.rsplit_once(']') {
        Some((_, after)) => after.strip_prefix(':').map(str::to_owned),
        None => host.split_once(':').map(|(_, port)| port.to_owned()),
    };
    let is_number =
        |port: String| port.is_empty() || port.parse::<u16>().is_ok_and(|port| port > 0);
    if hosts.split(',').filter_map(port_of).all(is_number) {
        Ok(())
    } else if user.is_empty() {
        Err("the port must be a number from 1 to 65535".into())
    } else {
        Err(format!(
            "the port must be a number from 1 to 65535; or {encode}"
        ))
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
        // The form of other libraries: read, write, create if missing, which is the default here.
        let path = match path.split_once('?') {
            Some((path, "mode=rwc")) => path,
            Some((_, parameters)) => {
                let name = parameters.split(['=', '&']).next().unwrap_or_default();
                return Err(format!(
                    "unknown parameter `{name}` of a SQLite database: write sqlite:FILE"
                ));
            }
            None => path,
        };
        match path {
            "" => Err("the file name is missing: write sqlite:postrider.db".into()),
            ":memory:" => Err("in-memory webhooks are lost on restart: name a file".into()),
            other if other.contains("://") => {
                let scheme = other.split("://").next().unwrap_or_default();
                Err(format!(
                    "unknown database `{scheme}`: write sqlite:FILE or postgres://…"
                ))
            }
            file => Ok(Self::Sqlite(file.into())),
        }
    }
}

/// Configuration of an engine. Every field has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Limits of endpoints that do not set their own.
    pub endpoint_defaults: EndpointLimits,
    /// Non-public networks that webhooks may be sent to.
    pub allow_networks: Vec<IpNet>,
    /// Networks that webhooks are never sent to, even if they are public or in `allow_networks`.
    pub deny_networks: Vec<IpNet>,
    /// Refuses `http://` endpoints.
    pub https_only: bool,
    /// Additional header with the event's id, besides `webhook-id`.
    pub event_id_header: Option<String>,
    /// Keys for encrypting signing keys and endpoint headers in the database: the first encrypts,
    /// all decrypt. Empty: they are stored unencrypted.
    pub encryption_keys: Vec<EncryptionKey>,
    /// Time an event is kept after publishing, once all of its deliveries have finished.
    pub retention: Duration,
    /// Interval of the search for expired and outdated rows.
    pub maintenance_interval: Duration,
    /// Interval of polling for due work that no notification announced, at most one second.
    pub poll_interval: Duration,
    /// Time after which the supervisor of an idle endpoint stops.
    pub idle_timeout: Duration,
    /// Maximum time that a shutdown waits for attempts in flight.
    pub drain_timeout: Duration,
    /// Maximum time that a publisher waits for a database that accepts no commits.
    pub commit_timeout: Duration,
    /// Maximum attempts in flight across all endpoints: at least one, and below the process's file
    /// limit, because each needs a connection. Default: half of that limit, at most 8,192.
    pub max_in_flight: usize,
    /// Threads that send, 1 to 256. What a receiver does costs endpoints on other threads nothing.
    /// Default: one per core but one, and at least one.
    pub threads: usize,
    /// Read connections: this number for the engine, and as many again for callers.
    pub read_connections: u32,
    /// Name of this node among those that share the database. Default: the host name.
    pub node_name: String,
    /// Lease durations, used if several processes share a database.
    pub lease: Terms,
    /// Runs schema migrations on start.
    pub migrate_on_start: bool,
    /// Creates an empty database file on start even if other files of a database exist without it.
    pub create_database: bool,
    /// Lifetime of a connection to a receiver, plus or minus a fifth, from 1 second to a day. A
    /// receiver that moves to another address is followed within this time.
    pub connection_lifetime: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            endpoint_defaults: EndpointLimits::default(),
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
            threads: cores().saturating_sub(1).clamp(1, MAX_THREADS),
            read_connections: 4,
            node_name: host_name(),
            lease: Terms::default(),
            migrate_on_start: true,
            create_database: false,
            connection_lifetime: Duration::from_secs(30),
        }
    }
}

/// Maximum number of sending threads.
const MAX_THREADS: usize = 256;

/// Returns the number of cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Returns this machine's name if it is a valid node name.
fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    if check_node_name(&name).is_ok() {
        name
    } else {
        "postrider".into()
    }
}

fn check_node_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err("must be 1 to 64 characters of A-Z, a-z, 0-9, `.`, `_` and `-`".into())
}

/// Files reserved for everything except attempts: database, API connections, name lookups.
const SPARE_FILES: usize = 64;

/// Returns the number of files that this process may open for attempts.
fn open_files() -> usize {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let limit = None;
    limit
        .map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        })
        .saturating_sub(SPARE_FILES)
}

impl EngineConfig {
    /// Checks all values.
    ///
    /// # Errors
    /// Names the first invalid setting and its valid range.
    pub fn check(&self) -> Result<(), SettingError> {
        let wrong =
            |setting: &'static str| move |detail: String| SettingError::new(setting, detail);
        if let Some(name) = &self.event_id_header {
            check_header_name(name).map_err(wrong("event_id_header"))?;
        }
        let most = open_files();
        if !(1..=most).contains(&self.max_in_flight) {
            let detail = format!(
                "must be 1 to {most}: this process may not open more files; raise the limit with `ulimit -n`"
            );
            return Err(SettingError::new("max_in_flight", detail));
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            let detail = format!("must be 1 to {MAX_THREADS}");
            return Err(SettingError::new("threads", detail));
        }
        check_node_name(&self.node_name).map_err(wrong("node_name"))?;
        self.lease.check()?;
        if self.poll_interval.is_zero() {
            return Err(SettingError::new("poll_interval", "must not be zero"));
        }
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        if !lifetimes.contains(&self.connection_lifetime) {
            return Err(SettingError::new(
                "connection_lifetime",
                "must be from 1s to 24h",
            ));
        }
        self.endpoint_defaults.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_read_as_tools_write_them() {
        let path = |url: &str| match url.parse() {
            Ok(DatabaseUrl::Sqlite(path)) => path.display().to_string(),
            other => panic!("{url}: {other:?}"),
        };
        for url in [
            "x.db",
            "sqlite:x.db",
            "sqlite://x.db",
            "sqlite:x.db?mode=rwc",
            "sqlite://x.db?mode=rwc",
        ] {
            assert_eq!(path(url), "x.db", "{url}");
        }
        for (url, named) in [
            ("sqlite:x.db?mode=ro", "mode"),
            ("sqlite:x.db?cache=shared", "cache"),
            ("mysql://a", "mysql"),
        ] {
            assert!(
                url.parse::<DatabaseUrl>().unwrap_err().contains(named),
                "{url}"
            );
        }
    }

    #[test]
    fn a_password_is_never_repeated() {
        for url in [
            "postgres://user:se%cret@host/db",
            "postgres://user:se/cret@host/db",
            "postgres://user:se?cret@host/db",
            "postgres://user:se#cret@host/db",
            "postgres://user:se@cret@host/db",
            "postgres://user:se:cret@host/db",
            "postgres://user:secret@host:port/db",
        ] {
            let error = url.parse::<DatabaseUrl>().unwrap_err();
            assert!(
                !error.contains("se") || !error.contains("cret"),
                "{url}: {error}"
            );
            assert!(error.contains("percent-encoded"), "{url}: {error}");
        }
        for url in [
            "postgres://user@host/db",
            "postgres://user:se%25cret@host:5432/db?sslmode=require",
            "postgres://a:1,b:2,[::1]:3/db?target_session_attrs=read-write",
            "postgres:///db?host=/run/postgresql",
            "postgres://host",
            "postgres://user:x@/db?password=a@b",
        ] {
            assert!(url.parse::<DatabaseUrl>().is_ok(), "{url}");
        }
        let Ok(DatabaseUrl::Postgres(url)) = "postgres://u:a%25b@h/d?password=hidden".parse()
        else {
            panic!()
        };
        assert_eq!(
            url.redact("no \"a%25b\", no a%b, no hidden"),
            "no \"***\", no ***, no ***"
        );
        assert_eq!(url.for_node("n1").application_name(), "postrider-n1");
    }
}
