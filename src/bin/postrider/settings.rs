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

pub(crate) use self::file::{Known, Place, Places, SECRET, Wrong, known, misspelt};

pub(crate) const DEFAULT_DATABASE_URL: &str = "sqlite:postrider.db";
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8400";

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
        Ok(Self(text.to_owned()))
    }
}

/// What can be set, each as a flag, an environment variable and a key of the file.
#[derive(Debug, Default, Clone, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The database: sqlite:FILE or postgres://… [default: sqlite:postrider.db]
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database_url: Option<Hidden>,

    /// The address of the HTTP API [default: 127.0.0.1:8400]
    #[arg(long, env = "POSTRIDER_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,

    /// The token that the API asks for. None set: one is made at the first start and kept beside
    /// the database. Better given by the environment or the file than as a flag.
    #[arg(long, env = "POSTRIDER_API_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<Hidden>,

    /// What secrets and endpoint headers are encrypted with in the database (prk_…, comma-separated):
    /// the first one encrypts, all decrypt. Better given by the environment or the file.
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
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_networks: Option<Vec<IpNet>>,

    /// Let no webhook go to these networks, public or not (CIDRs, comma-separated)
    #[arg(
        long = "deny-network",
        env = "POSTRIDER_DENY_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny_networks: Option<Vec<IpNet>>,

    /// Refuse http:// endpoints
    #[arg(long, env = "POSTRIDER_HTTPS_ONLY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) https_only: Option<bool>,

    /// A second header that carries the event's id, such as X-Acme-Event-Id
    #[arg(long, env = "POSTRIDER_EVENT_ID_HEADER", value_name = "NAME")]
    pub(crate) event_id_header: Option<String>,

    /// How long after its publishing an event is kept whose deliveries have ended [default: 30d]
    #[arg(long, env = "POSTRIDER_RETENTION", value_name = "DURATION")]
    pub(crate) retention: Option<String>,

    /// Attempts in flight of all endpoints together [default: half of the file limit, at most 8192]
    #[arg(long, env = "POSTRIDER_MAX_IN_FLIGHT", value_name = "N")]
    pub(crate) max_in_flight: Option<usize>,

    /// What this process is called among those that share a Postgres [default: the host's name]
    #[arg(long, env = "POSTRIDER_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,

    /// How long others wait for a node that went away before they send in its place [default: 30s]
    #[arg(long, env = "POSTRIDER_LEASE_TTL", value_name = "DURATION")]
    pub(crate) lease_ttl: Option<String>,

    /// How often a node says that it is there [default: 10s]
    #[arg(long, env = "POSTRIDER_LEASE_RENEWAL", value_name = "DURATION")]
    pub(crate) lease_renewal: Option<String>,

    /// How long before the others may, a node that cannot say so stops sending [default: 3s]
    #[arg(long, env = "POSTRIDER_LEASE_MARGIN", value_name = "DURATION")]
    pub(crate) lease_margin: Option<String>,

    /// Whether a start brings the schema up to date: auto or off [default: auto]
    #[arg(long, env = "POSTRIDER_MIGRATE", value_name = "MODE")]
    pub(crate) migrate: Option<Migrate>,

    /// Attempt starts of an endpoint that does not say otherwise [default: 10/min]
    #[arg(long, env = "POSTRIDER_DEFAULT_RATE_LIMIT", value_name = "LIMIT")]
    pub(crate) default_rate_limit: Option<String>,

    /// Attempts in flight of such an endpoint [default: 3]
    #[arg(long, env = "POSTRIDER_DEFAULT_CONCURRENCY", value_name = "N")]
    pub(crate) default_concurrency: Option<u32>,

    /// Delays between its attempts in seconds, comma-separated [default: 10,20,40,80]
    #[arg(long, env = "POSTRIDER_DEFAULT_RETRY_DELAYS_S", value_name = "SECONDS", value_delimiter = ',')]
    pub(crate) default_retry_delays_s: Option<Vec<u32>>,

    /// Its time-out in milliseconds [default: 15000]
    #[arg(long, env = "POSTRIDER_DEFAULT_TIMEOUT_MS", value_name = "MS")]
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
        let Some(path) = file else { return Ok(self.clone()) };
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
        Ok(Self { places, ..serde_json::from_value(merged)? })
    }

    /// What is wrong with a setting, and where it is.
    fn wrong(&self, setting: &str, detail: impl ToString) -> anyhow::Error {
        Wrong::new(setting, self.places.get(setting).cloned(), detail.to_string()).into()
    }

    fn keys(&self) -> anyhow::Result<Vec<EncryptionKey>> {
        // A variable that is set to nothing is not set.
        let given =
            self.encryption_keys.iter().flatten().map(|key| key.0.trim()).filter(|key| !key.is_empty());
        let keys = given.map(EncryptionKey::parse);
        keys.collect::<Result<_, _>>().map_err(|detail| {
            self.wrong("encryption_keys", format!("each {detail}; `postrider keys generate` makes one"))
        })
    }

    /// The token that was set. `None`: one is made, and kept beside a local database.
    pub(crate) fn token(&self) -> anyhow::Result<Option<ApiToken>> {
        match &self.api_token {
            Some(token) => ApiToken::new(&token.0).map(Some).map_err(|detail| self.wrong("api_token", detail)),
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
        let url = self.database_url.as_ref().map_or(DEFAULT_DATABASE_URL, |url| url.0.as_str());
        url.parse().map_err(|error| self.wrong("database_url", error))
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        match self.listen {
            Some(address) => Ok(address),
            None => Ok(DEFAULT_LISTEN.parse()?),
        }
    }

    /// What the engine is told.
    pub(crate) fn engine(&self) -> anyhow::Result<EngineConfig> {
        let config = self.read()?;
        config.check().map_err(|error| self.wrong(&error.field, error.detail))?;
        Ok(config)
    }

    /// The same, whether or not its parts fit each other.
    pub(crate) fn read(&self) -> anyhow::Result<EngineConfig> {
        let mut config = EngineConfig::default();
        let defaults = &mut config.endpoint_defaults;
        let wrong = |name: &str, detail: String| self.wrong(name, detail);
        if let Some(limit) = &self.default_rate_limit {
            defaults.rate_limit = limit.parse().map_err(|detail| wrong("default_rate_limit", detail))?;
        }
        if let Some(concurrency) = self.default_concurrency {
            defaults.concurrency =
                check_concurrency(concurrency).map_err(|detail| wrong("default_concurrency", detail))?;
        }
        if let Some(delays) = &self.default_retry_delays_s {
            defaults.retry_schedule = RetrySchedule::new(delays.clone())
                .map_err(|detail| wrong("default_retry_delays_s", detail))?;
        }
        if let Some(timeout) = self.default_timeout_ms {
            defaults.timeout =
                check_timeout_ms(timeout).map_err(|detail| wrong("default_timeout_ms", detail))?;
        }
        let duration =
            |name: &str, text: &Option<String>| match text.as_deref().map(humantime::parse_duration) {
                Some(Err(error)) => Err(wrong(name, format!("{error}: write it as 30d, 12h or 10s"))),
                Some(Ok(duration)) => Ok(Some(duration)),
                None => Ok(None),
            };
        for (name, text, setting) in [
            ("lease_ttl", &self.lease_ttl, &mut config.lease.ttl),
            ("lease_renewal", &self.lease_renewal, &mut config.lease.renewal),
            ("lease_margin", &self.lease_margin, &mut config.lease.margin),
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
        config.migrate_on_start = self.migrate != Some(Migrate::Off);
        if let Some(name) = &self.node_name {
            config.node_name = name.clone();
        }
        Ok(config)
    }

    /// What holds where nothing is set.
    pub(crate) fn defaults() -> anyhow::Result<Self> {
        let EngineConfig { endpoint_defaults, lease, retention, max_in_flight, node_name, .. } =
            EngineConfig::default();
        let text = |duration: Duration| humantime::format_duration(duration).to_string();
        Ok(Self {
            database_url: Some(Hidden(DEFAULT_DATABASE_URL.to_owned())),
            listen: Some(DEFAULT_LISTEN.parse()?),
            encryption_keys: Some(Vec::new()),
            allow_networks: Some(Vec::new()),
            deny_networks: Some(Vec::new()),
            https_only: Some(false),
            // As people write it; humantime says `30days`.
            retention: Some(text(retention).replace("days", "d")),
            max_in_flight: Some(max_in_flight),
            node_name: Some(node_name),
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
    #[arg(long = "config", env = "POSTRIDER_CONFIG", value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
}

/// For the commands that go to the database themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// The database: sqlite:FILE or postgres://… [default: sqlite:postrider.db]
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<Hidden>,

    #[command(flatten)]
    file: SettingsFile,
}

impl DatabaseArgs {
    /// With what else the settings file says.
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        let own = Settings { database_url: self.database_url, ..Settings::default() };
        own.over_file(self.file.path.as_deref())
    }
}
