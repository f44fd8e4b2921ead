//! What an engine can be told, with its defaults. Imports the domain only.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
#[cfg(any(feature = "postgres", test))]
use percent_encoding::percent_decode_str;

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
    application_name: String,
}

/// What says of a URL that it leads to a pooler in transaction mode. libpq does not know it.
const POOLER: (&str, &str) = ("pooler", "transaction");

/// What sessions are called until a node has a name.
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

    /// The same, with sessions that are called after a node. A node's name needs no escaping.
    #[must_use]
    pub(crate) fn for_node(mut self, node_name: &str) -> Self {
        self.application_name = format!("{APPLICATION_NAME}-{node_name}");
        self
    }

    /// What its sessions are called in the server's own lists.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// A message without the password, however it is written in there.
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

    /// All of it that libpq understands.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.url
    }

    /// Whether it leads to a pooler in transaction mode: two transactions may then run in two
    /// sessions of the server.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }
}

/// Checks what comes before a URL's path, because libpq would repeat a part of the password where
/// it reads another one. Nothing of the URL is repeated here.
fn check_authority(url: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let encode = "its user name or password holds a character that must be percent-encoded: write % as %25, @ as %40, : as %3A, / as %2F, ? as %3F and # as %23";
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    // An `@` after the first slash ends a password with a slash in it; in parameters it may stand.
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
        Err("its port must be a number from 1 to 65535".into())
    } else {
        Err(format!(
            "its port must be a number from 1 to 65535; or {encode}"
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
        // As other libraries write it: read, write, and create if it is missing. That is what is
        // done anyway.
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
            "" => Err("names no file: write sqlite:postrider.db".into()),
            ":memory:" => Err("a webhook in memory is lost by a restart: name a file".into()),
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
    /// Attempts in flight of all endpoints together: at least one, and below the process's file
    /// limit, as each needs a connection. Default: half of that limit, at most 8,192.
    pub max_in_flight: usize,
    /// Connections that read: as many for the engine, and as many for callers.
    pub read_connections: u32,
    /// What this process is called among those that share the database. Default: the host's name.
    pub node_name: String,
    /// How it holds its share of the endpoints, where several processes share a database.
    pub lease: Terms,
    /// Whether a start brings the schema up to date.
    pub migrate_on_start: bool,
    /// Whether a start begins an empty database file where files that belong to one are there
    /// without it.
    pub create_database: bool,
    /// How long a connection to a receiver is used, give or take a fifth, so that a receiver that
    /// has moved to another address is followed. From 1 second to a day.
    pub connection_lifetime: Duration,
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
            create_database: false,
            connection_lifetime: Duration::from_secs(30),
        }
    }
}

/// What this machine is called, as far as it makes a node's name.
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

/// Files that something else than attempts needs: the database, the API's own connections, names.
const SPARE_FILES: usize = 64;

/// How many files this process may have open for attempts.
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
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        if !lifetimes.contains(&self.connection_lifetime) {
            return Err(FieldError::new(
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
