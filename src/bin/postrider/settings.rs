//! The server's settings in one struct. Precedence: flags, environment, file, defaults.

mod file;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_duration;
use ipnet::IpNet;
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::access::MIN_TOKEN_CHARS;
use postrider::domain::retry::RetrySchedule;
use postrider::domain::secret::EncryptionKey;
use postrider::domain::settings::{check_concurrency, check_timeout};
use postrider::http::ApiToken;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::environment::{trimmed, trimmed_word};

pub(crate) use self::file::{
    ConfigError, SECRET_SETTINGS, SettingSpec, SourceLocation, SourceLocations, join_errors,
    setting_specs, unknown_variables,
};
pub(crate) use self::values::{Hidden, ListenAddress, LogFormat, MigrateMode};

pub(crate) const DEFAULT_DATABASE_URL: &str = "sqlite:postrider.db";
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8400";
/// Longer than the idle timeout of common load balancers, of at most ten minutes.
const DEFAULT_KEEP_ALIVE: &str = "620s";
const DEFAULT_LOG: &str = "info,actix_server=warn";

/// The settings, each a flag, an environment variable and a key of the settings file.
#[derive(Debug, Default, Clone, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSettings {
    /// URL of the database: sqlite:FILE or postgres://… [default: sqlite:postrider.db]
    #[arg(
        long,
        env = "POSTRIDER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) database_url: Option<Hidden>,

    /// Address to listen on [default: 127.0.0.1:8400]
    #[arg(long, env = "POSTRIDER_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<ListenAddress>,

    /// Idle timeout of connections to the API. Should be longer than that of a load balancer in
    /// front, so that the load balancer closes them [default: 620s]
    #[arg(long, env = "POSTRIDER_KEEP_ALIVE", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) keep_alive: Option<String>,

    /// Allow web pages of these origins to call the API with a token (such as
    /// https://console.example.com, comma-separated)
    #[arg(
        long,
        env = "POSTRIDER_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = trimmed::<String>
    )]
    pub(crate) cors_origins: Option<Vec<String>>,

    /// Create an empty database even if files of a missing one (token, lock) exist
    #[arg(long, env = "POSTRIDER_CREATE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = trimmed::<bool>)]
    pub(crate) create: Option<bool>,

    /// Log filter, such as info or postrider=debug [default: info,actix_server=warn]
    #[arg(long, env = "POSTRIDER_LOG", value_name = "FILTER", value_parser = trimmed::<String>)]
    pub(crate) log: Option<String>,

    /// Log format: text or json [default: text]
    #[arg(long, env = "POSTRIDER_LOG_FORMAT", value_name = "FORMAT", value_parser = trimmed_word::<LogFormat>)]
    pub(crate) log_format: Option<LogFormat>,

    /// The operator's API token. If unset, one is generated on first start and stored next to the
    /// SQLite database. Prefer the environment or the settings file over the flag
    #[arg(
        long,
        env = "POSTRIDER_API_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) api_token: Option<Hidden>,

    /// Keys for encrypting secrets and endpoint headers in the database (prk_…, comma-separated);
    /// the first encrypts, all decrypt. Prefer the environment or the settings file over the flag
    #[arg(
        long,
        env = "POSTRIDER_ENCRYPTION_KEYS",
        value_name = "KEYS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) encryption_keys: Option<Vec<Hidden>>,

    /// Allow webhooks to these non-public networks (CIDRs, comma-separated)
    #[arg(
        long = "allow-network",
        env = "POSTRIDER_ALLOW_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = trimmed::<IpNet>
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_networks: Option<Vec<IpNet>>,

    /// Never send webhooks to these networks, even if public (CIDRs, comma-separated)
    #[arg(
        long = "deny-network",
        env = "POSTRIDER_DENY_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = trimmed::<IpNet>
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny_networks: Option<Vec<IpNet>>,

    /// Reject http:// endpoints
    #[arg(long, env = "POSTRIDER_HTTPS_ONLY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = trimmed::<bool>)]
    pub(crate) https_only: Option<bool>,

    /// Additional request header with the event id, such as X-Acme-Event-Id
    #[arg(long, env = "POSTRIDER_EVENT_ID_HEADER", value_name = "NAME", value_parser = trimmed::<String>)]
    pub(crate) event_id_header: Option<String>,

    /// Maximum time to reuse a connection to a receiver (± 20 %), so that a changed address is
    /// noticed [default: 30s]
    #[arg(long, env = "POSTRIDER_CONNECTION_LIFETIME", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) connection_lifetime: Option<String>,

    /// Time to keep an event after it was published, once its deliveries have finished
    /// [default: 30d]
    #[arg(long, env = "POSTRIDER_RETENTION", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) retention: Option<String>,

    /// Maximum attempts in flight across all endpoints [default: half of the file limit, at most
    /// 8192]
    #[arg(long, env = "POSTRIDER_MAX_IN_FLIGHT", value_name = "N", value_parser = trimmed::<usize>)]
    pub(crate) max_in_flight: Option<usize>,

    /// Threads that send [default: one per core but one]
    #[arg(long, env = "POSTRIDER_THREADS", value_name = "N", value_parser = trimmed::<usize>)]
    pub(crate) threads: Option<usize>,

    /// Name of this node, unique among the nodes sharing a Postgres [default: the host name]
    #[arg(long, env = "POSTRIDER_NODE_NAME", value_name = "NAME", value_parser = trimmed::<String>)]
    pub(crate) node_name: Option<String>,

    /// Duration of a lease: other nodes take over after this time without a renewal [default: 12s]
    #[arg(long, env = "POSTRIDER_LEASE_TTL", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) lease_ttl: Option<String>,

    /// Interval at which a node renews its leases [default: 3s]
    #[arg(long, env = "POSTRIDER_LEASE_RENEWAL", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) lease_renewal: Option<String>,

    /// Time before its lease expires at which a node that cannot renew it stops sending [default:
    /// 2s]
    #[arg(long, env = "POSTRIDER_LEASE_MARGIN", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) lease_margin: Option<String>,

    /// Run schema migrations on start: auto or off [default: auto]
    #[arg(long, env = "POSTRIDER_MIGRATE", value_name = "MODE", value_parser = trimmed_word::<MigrateMode>)]
    pub(crate) migrate: Option<MigrateMode>,

    /// Default rate limit (attempt starts) for endpoints without their own [default: 10/min]
    #[arg(long, env = "POSTRIDER_DEFAULT_RATE_LIMIT", value_name = "LIMIT", value_parser = trimmed::<String>)]
    pub(crate) default_rate_limit: Option<String>,

    /// Default concurrency (attempts in flight) per endpoint [default: 3]
    #[arg(long, env = "POSTRIDER_DEFAULT_CONCURRENCY", value_name = "N", value_parser = trimmed::<u32>)]
    pub(crate) default_concurrency: Option<u32>,

    /// Default retry delays in seconds, comma-separated [default: 10,20,40,80]
    #[arg(long, env = "POSTRIDER_DEFAULT_RETRY_DELAYS_S", value_name = "SECONDS", value_delimiter = ',', value_parser = trimmed::<u32>)]
    pub(crate) default_retry_delays_s: Option<Vec<u32>>,

    /// Default request timeout in milliseconds [default: 15000]
    #[arg(long, env = "POSTRIDER_DEFAULT_TIMEOUT_MS", value_name = "MS", value_parser = trimmed::<u64>)]
    pub(crate) default_timeout_ms: Option<u64>,

    /// Locations of the settings that come from a file.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) locations: SourceLocations,
}

impl ServerSettings {
    /// Merges these settings with those of the file, if one is named; these take precedence.
    pub(crate) fn over_file(&self, file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Ok(self.clone());
        };
        let (in_file, errors) = Self::read_file(path)?;
        if errors.is_empty() {
            return self.over(in_file);
        }
        Err(anyhow::anyhow!(join_errors(&errors, "\n")))
    }

    /// Merges these settings with `other`; these take precedence.
    pub(crate) fn over(&self, other: Self) -> anyhow::Result<Self> {
        let mut merged = serde_json::to_value(&other)?;
        let over = serde_json::to_value(self)?;
        let mut locations = other.locations;
        if let (Some(merged), Some(over)) = (merged.as_object_mut(), over.as_object()) {
            for (name, value) in over.iter().filter(|(_, value)| !value.is_null()) {
                merged.insert(name.clone(), value.clone());
                locations.remove(name);
            }
        }
        locations.extend(self.locations.clone());
        Ok(Self {
            locations,
            ..serde_json::from_value(merged)?
        })
    }

    /// Creates an error of a setting, with its location.
    fn error(&self, setting: &str, detail: impl ToString) -> anyhow::Error {
        ConfigError::new(
            setting,
            self.locations.get(setting).cloned(),
            detail.to_string(),
        )
        .into()
    }

    fn keys(&self) -> anyhow::Result<Vec<EncryptionKey>> {
        // An empty variable counts as unset.
        let given = self
            .encryption_keys
            .iter()
            .flatten()
            .map(|key| key.0.trim())
            .filter(|key| !key.is_empty());
        let keys = given.map(EncryptionKey::parse);
        keys.collect::<Result<_, _>>().map_err(|detail| {
            self.error(
                "encryption_keys",
                format!("each {detail}; `postrider keys generate` prints one"),
            )
        })
    }

    /// Returns the configured token; `None` if one is generated and stored next to a local database.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        match &self.api_token {
            Some(token) => {
                let token = token.0.trim();
                ApiToken::new(token).map_err(|detail| self.error("api_token", detail))?;
                Ok(Some(token.to_owned()))
            }
            None if self.address()?.ip().is_loopback() && crate::token::path_of(&self.database()?).is_some() => Ok(None),
            None => Err(self.error(
                "api_token",
                format!(
                    "must be set if other machines can reach the address or share the database: set POSTRIDER_API_TOKEN (at least {MIN_TOKEN_CHARS} characters)"
                ),
            )),
        }
    }

    pub(crate) fn database(&self) -> anyhow::Result<DatabaseUrl> {
        let url = self
            .database_url
            .as_ref()
            .map_or(DEFAULT_DATABASE_URL, |url| url.0.as_str());
        url.trim()
            .parse()
            .map_err(|error| self.error("database_url", error))
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        match self.listen {
            Some(ListenAddress(address)) => Ok(address),
            None => Ok(DEFAULT_LISTEN.parse()?),
        }
    }

    /// Returns the engine's configuration, fully checked.
    pub(crate) fn engine(&self) -> anyhow::Result<EngineConfig> {
        let config = self.parse()?;
        config
            .check()
            .map_err(|error| self.error(error.setting, error.detail))?;
        Ok(config)
    }

    /// Parses each setting, without checking them against each other.
    pub(crate) fn parse(&self) -> anyhow::Result<EngineConfig> {
        let mut config = EngineConfig::default();
        let defaults = &mut config.endpoint_defaults;
        if let Some(limit) = &self.default_rate_limit {
            defaults.rate_limit = limit
                .parse()
                .map_err(|detail| self.error("default_rate_limit", detail))?;
        }
        if let Some(concurrency) = self.default_concurrency {
            check_concurrency(concurrency)
                .map_err(|detail| self.error("default_concurrency", detail))?;
            defaults.concurrency = concurrency;
        }
        if let Some(delays) = &self.default_retry_delays_s {
            defaults.retry_schedule = RetrySchedule::new(delays.clone())
                .map_err(|detail| self.error("default_retry_delays_s", detail))?;
        }
        if let Some(timeout) = self.default_timeout_ms.map(Duration::from_millis) {
            check_timeout(timeout).map_err(|detail| self.error("default_timeout_ms", detail))?;
            defaults.timeout = timeout;
        }
        for (name, text, setting) in [
            ("lease_ttl", &self.lease_ttl, &mut config.lease.ttl),
            (
                "lease_renewal",
                &self.lease_renewal,
                &mut config.lease.renewal,
            ),
            ("lease_margin", &self.lease_margin, &mut config.lease.margin),
            (
                "connection_lifetime",
                &self.connection_lifetime,
                &mut config.connection_lifetime,
            ),
        ] {
            *setting = self.duration(name, text)?.unwrap_or(*setting);
        }
        if let Some(retention) = self.duration("retention", &self.retention)? {
            config.retention = retention;
            if config.retention < Duration::from_secs(3600) {
                let detail =
                    "must be at least 1h, because rate limits need the attempts of the last hour";
                return Err(self.error("retention", detail));
            }
        }
        config.endpoint_defaults.max_age = config.retention;
        config.allow_networks = self.allow_networks.clone().unwrap_or_default();
        config.deny_networks = self.deny_networks.clone().unwrap_or_default();
        config.https_only = self.https_only.unwrap_or(false);
        config.encryption_keys = self.keys()?;
        config.event_id_header = self.event_id_header.clone();
        if let Some(attempts) = self.max_in_flight {
            config.max_in_flight = attempts;
        }
        if let Some(threads) = self.threads {
            config.threads = threads;
        }
        config.create_database = self.create.unwrap_or(false);
        config.migrate_on_start = self.migrate != Some(MigrateMode::Off);
        if let Some(name) = &self.node_name {
            config.node_name = name.clone();
        }
        Ok(config)
    }

    fn duration(&self, name: &str, text: &Option<String>) -> anyhow::Result<Option<Duration>> {
        let Some(text) = text else {
            return Ok(None);
        };
        match humantime::parse_duration(text) {
            Ok(duration) => Ok(Some(duration)),
            Err(error) => Err(self.error(name, format!("{error}; write it as 30d, 12h or 10s"))),
        }
    }

    /// Returns the idle timeout of the API's connections.
    pub(crate) fn keep_alive(&self) -> anyhow::Result<Duration> {
        let text = self.keep_alive.as_deref().unwrap_or(DEFAULT_KEEP_ALIVE);
        let duration = humantime::parse_duration(text).map_err(|error| {
            self.error("keep_alive", format!("{error}; write it as 620s or 10m"))
        })?;
        if (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&duration) {
            Ok(duration)
        } else {
            Err(self.error("keep_alive", "must be between 1s and 24h"))
        }
    }

    /// Returns the origins whose pages may call the API.
    pub(crate) fn cors_origins(&self) -> anyhow::Result<Vec<String>> {
        let origins = self.cors_origins.clone().unwrap_or_default();
        let origins: Vec<String> = origins
            .into_iter()
            .filter(|origin| !origin.is_empty())
            .collect();
        match origins.iter().find(|origin| !is_origin(origin)) {
            Some(invalid) => Err(self.error(
                "cors_origins",
                format!("`{invalid}` is not an origin: write https://console.example.com, without a path or trailing slash; wildcards are not supported"),
            )),
            None => Ok(origins),
        }
    }

    /// Returns the filter of the log.
    pub(crate) fn log_filter(&self) -> anyhow::Result<EnvFilter> {
        let filter = self.log.as_deref().unwrap_or(DEFAULT_LOG);
        EnvFilter::try_new(filter).map_err(|error| self.error("log", error))
    }

    /// Returns the defaults of all settings.
    pub(crate) fn defaults() -> anyhow::Result<Self> {
        let EngineConfig {
            endpoint_defaults,
            lease,
            retention,
            max_in_flight,
            threads,
            node_name,
            connection_lifetime,
            ..
        } = EngineConfig::default();
        Ok(Self {
            database_url: Some(Hidden(DEFAULT_DATABASE_URL.to_owned())),
            listen: Some(ListenAddress(DEFAULT_LISTEN.parse()?)),
            keep_alive: Some(DEFAULT_KEEP_ALIVE.to_owned()),
            cors_origins: Some(Vec::new()),
            create: Some(false),
            log: Some(DEFAULT_LOG.to_owned()),
            log_format: Some(LogFormat::Text),
            encryption_keys: Some(Vec::new()),
            allow_networks: Some(Vec::new()),
            deny_networks: Some(Vec::new()),
            https_only: Some(false),
            // humantime formats it as `30days`.
            retention: Some(format_duration(retention).to_string().replace("days", "d")),
            max_in_flight: Some(max_in_flight),
            threads: Some(threads),
            node_name: Some(node_name),
            connection_lifetime: Some(format_duration(connection_lifetime).to_string()),
            lease_ttl: Some(format_duration(lease.ttl).to_string()),
            lease_renewal: Some(format_duration(lease.renewal).to_string()),
            lease_margin: Some(format_duration(lease.margin).to_string()),
            migrate: Some(MigrateMode::Auto),
            default_rate_limit: Some(endpoint_defaults.rate_limit.to_string()),
            default_concurrency: Some(endpoint_defaults.concurrency),
            default_retry_delays_s: Some(endpoint_defaults.retry_schedule.delays_s().to_vec()),
            default_timeout_ms: Some(u64::try_from(endpoint_defaults.timeout.as_millis())?),
            ..Self::default()
        })
    }
}

/// Path of the settings file.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct SettingsFile {
    /// Settings file (TOML; the names of the flags, with underscores)
    #[arg(long = "config", env = "POSTRIDER_CONFIG", value_name = "FILE", value_parser = trimmed::<PathBuf>)]
    pub(crate) path: Option<PathBuf>,
}

/// Options of the commands that open the database themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// URL of the database: sqlite:FILE or postgres://… [default: sqlite:postrider.db]
    #[arg(
        long,
        env = "POSTRIDER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<Hidden>,

    #[command(flatten)]
    file: SettingsFile,
}

impl DatabaseArgs {
    /// Returns these options merged with the settings file.
    pub(crate) fn settings(self) -> anyhow::Result<ServerSettings> {
        let own = ServerSettings {
            database_url: self.database_url,
            ..ServerSettings::default()
        };
        own.over_file(self.file.path.as_deref())
    }
}

fn is_origin(text: &str) -> bool {
    let parsed = url::Url::parse(text);
    parsed.is_ok_and(|url| url.has_host() && url.origin().ascii_serialization() == text)
}
