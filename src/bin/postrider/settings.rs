//! The server's settings: flags over environment over file over defaults, one struct for all.

mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use postrider::admin::ApiToken;
use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::access::MIN_TOKEN_CHARS;
use postrider::domain::retry::RetrySchedule;
use postrider::domain::secret::EncryptionKey;
use postrider::domain::settings::{check_concurrency, check_timeout_ms};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::environment::{trimmed, trimmed_word};
use crate::log::LogFormat;

pub(crate) use self::file::{Known, Place, Places, SECRET, Wrong, known, misspelt};

pub(crate) const DEFAULT_DATABASE_URL: &str = "sqlite:postrider.db";
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8400";
/// Longer than the ten minutes of the most patient common load balancer.
const DEFAULT_KEEP_ALIVE: &str = "620s";
const DEFAULT_LOG: &str = "info,actix_server=warn";

/// Text that must not be shown: no `Debug` of the settings holds it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(pub(crate) String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl std::str::FromStr for Hidden {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

/// An address to listen on: `127.0.0.1:8400`, `[::1]:8400`, `localhost:8400`, or `:8400` for all
/// IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

impl std::str::FromStr for ListenAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let address = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None if text.starts_with(':') => format!("0.0.0.0{text}"),
            None => text.to_owned(),
        };
        address.parse().map(Self).map_err(|_| {
            format!("`{text}` is not an address with a port: write 127.0.0.1:8400, localhost:8400, or :8400 for all IPv4 addresses")
        })
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.0.to_string()
    }
}

/// What can be set, each as a flag, an environment variable and a key of the file.
#[derive(Debug, Default, Clone, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The database: sqlite:FILE or postgres://… [default: sqlite:postrider.db]
    #[arg(
        long,
        env = "POSTRIDER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) database_url: Option<Hidden>,

    /// The address of the HTTP API [default: 127.0.0.1:8400]
    #[arg(long, env = "POSTRIDER_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<ListenAddress>,

    /// How long the API keeps an idle connection of a caller. The side that sends requests should
    /// be the one to close it, so this is longer than what common load balancers do [default: 620s]
    #[arg(long, env = "POSTRIDER_KEEP_ALIVE", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) keep_alive: Option<String>,

    /// Let pages of these origins call the API with a token (such as https://console.example.com,
    /// comma-separated)
    #[arg(
        long,
        env = "POSTRIDER_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = trimmed::<String>
    )]
    pub(crate) cors_origins: Option<Vec<String>>,

    /// Begin an empty database where the file is missing but its companions (token, lock) are there
    #[arg(long, env = "POSTRIDER_CREATE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = trimmed::<bool>)]
    pub(crate) create: Option<bool>,

    /// What to log, such as info or postrider=debug [default: info,actix_server=warn]
    #[arg(long, env = "POSTRIDER_LOG", value_name = "FILTER", value_parser = trimmed::<String>)]
    pub(crate) log: Option<String>,

    /// How to log it: text or json [default: text]
    #[arg(long, env = "POSTRIDER_LOG_FORMAT", value_name = "FORMAT", value_parser = trimmed_word::<LogFormat>)]
    pub(crate) log_format: Option<LogFormat>,

    /// The token that the API asks for. None set: one is made at the first start and kept beside
    /// the database. Better given by the environment or the file than as a flag.
    #[arg(
        long,
        env = "POSTRIDER_API_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) api_token: Option<Hidden>,

    /// What secrets and endpoint headers are encrypted with in the database (prk_…,
    /// comma-separated): the first one encrypts, all decrypt. Better given by the environment or
    /// the file.
    #[arg(
        long,
        env = "POSTRIDER_ENCRYPTION_KEYS",
        value_name = "KEYS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) encryption_keys: Option<Vec<Hidden>>,

    /// Let webhooks go to these networks although they are not public (CIDRs, comma-separated)
    #[arg(
        long = "allow-network",
        env = "POSTRIDER_ALLOW_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = trimmed::<IpNet>
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_networks: Option<Vec<IpNet>>,

    /// Let no webhook go to these networks, public or not (CIDRs, comma-separated)
    #[arg(
        long = "deny-network",
        env = "POSTRIDER_DENY_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = trimmed::<IpNet>
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny_networks: Option<Vec<IpNet>>,

    /// Refuse http:// endpoints
    #[arg(long, env = "POSTRIDER_HTTPS_ONLY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = trimmed::<bool>)]
    pub(crate) https_only: Option<bool>,

    /// A second header that carries the event's id, such as X-Acme-Event-Id
    #[arg(long, env = "POSTRIDER_EVENT_ID_HEADER", value_name = "NAME", value_parser = trimmed::<String>)]
    pub(crate) event_id_header: Option<String>,

    /// How long a connection to a receiver is used, give or take a fifth: a receiver that moved to
    /// another address is followed by then [default: 30s]
    #[arg(long, env = "POSTRIDER_CONNECTION_LIFETIME", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) connection_lifetime: Option<String>,

    /// How long after its publishing an event is kept whose deliveries have ended [default: 30d]
    #[arg(long, env = "POSTRIDER_RETENTION", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) retention: Option<String>,

    /// Attempts in flight of all endpoints together [default: half of the file limit, at most 8192]
    #[arg(long, env = "POSTRIDER_MAX_IN_FLIGHT", value_name = "N", value_parser = trimmed::<usize>)]
    pub(crate) max_in_flight: Option<usize>,

    /// What this process is called among those that share a Postgres [default: the host's name]
    #[arg(long, env = "POSTRIDER_NODE_NAME", value_name = "NAME", value_parser = trimmed::<String>)]
    pub(crate) node_name: Option<String>,

    /// How long others wait for a node that went away before they send in its place [default: 30s]
    #[arg(long, env = "POSTRIDER_LEASE_TTL", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) lease_ttl: Option<String>,

    /// How often a node says that it is there [default: 10s]
    #[arg(long, env = "POSTRIDER_LEASE_RENEWAL", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) lease_renewal: Option<String>,

    /// How long before the others may, a node that cannot say so stops sending [default: 3s]
    #[arg(long, env = "POSTRIDER_LEASE_MARGIN", value_name = "DURATION", value_parser = trimmed::<String>)]
    pub(crate) lease_margin: Option<String>,

    /// Whether a start brings the schema up to date: auto or off [default: auto]
    #[arg(long, env = "POSTRIDER_MIGRATE", value_name = "MODE", value_parser = trimmed_word::<Migrate>)]
    pub(crate) migrate: Option<Migrate>,

    /// Attempt starts of an endpoint that does not say otherwise [default: 10/min]
    #[arg(long, env = "POSTRIDER_DEFAULT_RATE_LIMIT", value_name = "LIMIT", value_parser = trimmed::<String>)]
    pub(crate) default_rate_limit: Option<String>,

    /// Attempts in flight of such an endpoint [default: 3]
    #[arg(long, env = "POSTRIDER_DEFAULT_CONCURRENCY", value_name = "N", value_parser = trimmed::<u32>)]
    pub(crate) default_concurrency: Option<u32>,

    /// Delays between its attempts in seconds, comma-separated [default: 10,20,40,80]
    #[arg(long, env = "POSTRIDER_DEFAULT_RETRY_DELAYS_S", value_name = "SECONDS", value_delimiter = ',', value_parser = trimmed::<u32>)]
    pub(crate) default_retry_delays_s: Option<Vec<u32>>,

    /// Its time-out in milliseconds [default: 15000]
    #[arg(long, env = "POSTRIDER_DEFAULT_TIMEOUT_MS", value_name = "MS", value_parser = trimmed::<u64>)]
    pub(crate) default_timeout_ms: Option<u64>,

    /// Where in a file those are that are from one.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) places: Places,
}

/// Whether a start brings the schema up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Migrate {
    Auto,
    Off,
}

impl Settings {
    /// These settings, over those of the file, if one is named.
    pub(crate) fn over_file(&self, file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Ok(self.clone());
        };
        let (in_file, wrong) = Self::read_file(path)?;
        if wrong.is_empty() {
            return self.over(in_file);
        }
        let wrong = wrong.iter().map(ToString::to_string).collect::<Vec<_>>();
        Err(anyhow::anyhow!(wrong.join("\n")))
    }

    /// These settings, and where they say nothing those of `other`.
    pub(crate) fn over(&self, other: Self) -> anyhow::Result<Self> {
        let (mut merged, over) = (serde_json::to_value(&other)?, serde_json::to_value(self)?);
        let mut places = other.places;
        if let (Some(merged), Some(over)) = (merged.as_object_mut(), over.as_object()) {
            for (name, value) in over.iter().filter(|(_, value)| !value.is_null()) {
                merged.insert(name.clone(), value.clone());
                places.remove(name);
            }
        }
        places.extend(self.places.clone());
        Ok(Self {
            places,
            ..serde_json::from_value(merged)?
        })
    }

    /// What is wrong with a setting, and where it is.
    fn wrong(&self, setting: &str, detail: impl ToString) -> anyhow::Error {
        Wrong::new(
            setting,
            self.places.get(setting).cloned(),
            detail.to_string(),
        )
        .into()
    }

    fn keys(&self) -> anyhow::Result<Vec<EncryptionKey>> {
        // A variable that is set to nothing is not set.
        let given = self
            .encryption_keys
            .iter()
            .flatten()
            .map(|key| key.0.trim())
            .filter(|key| !key.is_empty());
        let keys = given.map(EncryptionKey::parse);
        keys.collect::<Result<_, _>>().map_err(|detail| {
            self.wrong(
                "encryption_keys",
                format!("each {detail}; `postrider keys generate` makes one"),
            )
        })
    }

    /// The token that was set. `None`: one is made, and kept beside a local database.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        match &self.api_token {
            Some(token) => {
                let token = token.0.trim();
                ApiToken::new(token).map_err(|detail| self.wrong("api_token", detail))?;
                Ok(Some(token.to_owned()))
            }
            None if self.address()?.ip().is_loopback() && crate::token::path_of(&self.database()?).is_some() => Ok(None),
            None => Err(self.wrong(
                "api_token",
                format!(
                    "an address that others can reach, or a shared database, needs a token that you set: POSTRIDER_API_TOKEN (at least {MIN_TOKEN_CHARS} characters)"
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
            .map_err(|error| self.wrong("database_url", error))
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        match self.listen {
            Some(ListenAddress(address)) => Ok(address),
            None => Ok(DEFAULT_LISTEN.parse()?),
        }
    }

    /// What the engine is told.
    pub(crate) fn engine(&self) -> anyhow::Result<EngineConfig> {
        let config = self.read()?;
        config
            .check()
            .map_err(|error| self.wrong(&error.field, error.detail))?;
        Ok(config)
    }

    /// The same, whether or not its parts fit each other.
    pub(crate) fn read(&self) -> anyhow::Result<EngineConfig> {
        let mut config = EngineConfig::default();
        let defaults = &mut config.endpoint_defaults;
        let wrong = |name: &str, detail: String| self.wrong(name, detail);
        if let Some(limit) = &self.default_rate_limit {
            defaults.rate_limit = limit
                .parse()
                .map_err(|detail| wrong("default_rate_limit", detail))?;
        }
        if let Some(concurrency) = self.default_concurrency {
            defaults.concurrency = check_concurrency(concurrency)
                .map_err(|detail| wrong("default_concurrency", detail))?;
        }
        if let Some(delays) = &self.default_retry_delays_s {
            defaults.retry_schedule = RetrySchedule::new(delays.clone())
                .map_err(|detail| wrong("default_retry_delays_s", detail))?;
        }
        if let Some(timeout) = self.default_timeout_ms {
            defaults.timeout =
                check_timeout_ms(timeout).map_err(|detail| wrong("default_timeout_ms", detail))?;
        }
        let duration = |name: &str, text: &Option<String>| match text
            .as_deref()
            .map(humantime::parse_duration)
        {
            Some(Err(error)) => Err(wrong(name, format!("{error}: write it as 30d, 12h or 10s"))),
            Some(Ok(duration)) => Ok(Some(duration)),
            None => Ok(None),
        };
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
            *setting = duration(name, text)?.unwrap_or(*setting);
        }
        if let Some(retention) = duration("retention", &self.retention)? {
            config.retention = retention;
            if config.retention < Duration::from_secs(3600) {
                let detail = "at least 1h: the rate limits need the attempts of the last hour";
                return Err(self.wrong("retention", detail));
            }
        }
        config.endpoint_defaults.max_age = config.retention;
        config.allow_networks = self.allow_networks.clone().unwrap_or_default();
        config.deny_networks = self.deny_networks.clone().unwrap_or_default();
        config.https_only = self.https_only.unwrap_or(false);
        config.encryption_keys = self.keys()?;
        config.event_id_header = self.event_id_header.clone();
        if let Some(most) = self.max_in_flight {
            config.max_in_flight = most;
        }
        config.create_database = self.create.unwrap_or(false);
        config.migrate_on_start = self.migrate != Some(Migrate::Off);
        if let Some(name) = &self.node_name {
            config.node_name = name.clone();
        }
        Ok(config)
    }

    /// How long an idle connection of a caller is kept.
    pub(crate) fn keep_alive(&self) -> anyhow::Result<Duration> {
        let text = self.keep_alive.as_deref().unwrap_or(DEFAULT_KEEP_ALIVE);
        let duration = humantime::parse_duration(text).map_err(|error| {
            self.wrong("keep_alive", format!("{error}: write it as 620s or 10m"))
        })?;
        let fits = (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&duration);
        if fits {
            Ok(duration)
        } else {
            Err(self.wrong("keep_alive", "must be from 1s to 24h"))
        }
    }

    /// The origins whose pages may call the API.
    pub(crate) fn cors_origins(&self) -> anyhow::Result<Vec<String>> {
        let is_origin = |text: &str| {
            let parsed = url::Url::parse(text);
            parsed.is_ok_and(|url| url.has_host() && url.origin().ascii_serialization() == text)
        };
        let origins = self.cors_origins.clone().unwrap_or_default();
        let origins: Vec<String> = origins
            .into_iter()
            .filter(|origin| !origin.is_empty())
            .collect();
        match origins.iter().find(|origin| !is_origin(origin)) {
            Some(wrong) => Err(self.wrong(
                "cors_origins",
                format!("`{wrong}` is not an origin: write https://console.example.com, without a path or a final slash, and name each one"),
            )),
            None => Ok(origins),
        }
    }

    /// What is logged.
    pub(crate) fn log_filter(&self) -> anyhow::Result<EnvFilter> {
        let filter = self.log.as_deref().unwrap_or(DEFAULT_LOG);
        EnvFilter::try_new(filter).map_err(|error| self.wrong("log", error))
    }

    /// What holds where nothing is set.
    pub(crate) fn defaults() -> anyhow::Result<Self> {
        let EngineConfig {
            endpoint_defaults,
            lease,
            retention,
            max_in_flight,
            node_name,
            connection_lifetime,
            ..
        } = EngineConfig::default();
        let text = |duration: Duration| humantime::format_duration(duration).to_string();
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
            // As people write it; humantime says `30days`.
            retention: Some(text(retention).replace("days", "d")),
            max_in_flight: Some(max_in_flight),
            node_name: Some(node_name),
            connection_lifetime: Some(text(connection_lifetime)),
            lease_ttl: Some(text(lease.ttl)),
            lease_renewal: Some(text(lease.renewal)),
            lease_margin: Some(text(lease.margin)),
            migrate: Some(Migrate::Auto),
            default_rate_limit: Some(endpoint_defaults.rate_limit.to_string()),
            default_concurrency: Some(endpoint_defaults.concurrency),
            default_retry_delays_s: Some(endpoint_defaults.retry_schedule.delays_s().to_vec()),
            default_timeout_ms: Some(u64::try_from(endpoint_defaults.timeout.as_millis())?),
            ..Self::default()
        })
    }
}

/// Where the settings file is.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct SettingsFile {
    /// A file with settings (TOML; the names of the flags, with underscores)
    #[arg(long = "config", env = "POSTRIDER_CONFIG", value_name = "FILE", value_parser = trimmed::<PathBuf>)]
    pub(crate) path: Option<PathBuf>,
}

/// For the commands that go to the database themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// The database: sqlite:FILE or postgres://… [default: sqlite:postrider.db]
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
    /// With what else the settings file says.
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        let own = Settings {
            database_url: self.database_url,
            ..Settings::default()
        };
        own.over_file(self.file.path.as_deref())
    }
}
