//! Conversion between an endpoint and its rows, whose secrets the key ring encrypts.

use std::sync::Arc;
use std::time::Duration;

use super::codec::{corrupt, json, time, to_json, unsigned, word};
use super::error::StoreError;
use super::key_ring::{KeyRing, SealedColumn};
use super::rows::{EndpointRow, SecretRow, int};
use crate::config::EngineConfig;
use crate::domain::endpoint::{Endpoint, EndpointDefaults, SigningKeys};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::random::Random;
use crate::domain::retry::RetrySchedule;
use crate::domain::secret::{PrivateKey, Secret};
use crate::domain::settings::Settings;

const ENDPOINTS: &str = "webhook_endpoints";
const SECRETS: &str = "webhook_endpoint_secrets";

/// Reads endpoints from rows: fills in defaults, and decrypts secrets.
pub(super) struct EndpointCodec {
    defaults: EndpointDefaults,
    ring: KeyRing,
}

/// Column of an endpoint's encrypted headers.
fn headers_of(id: &str) -> SealedColumn<'_> {
    SealedColumn {
        table: ENDPOINTS,
        column: "headers",
        row: id,
    }
}

fn secret_of(id: &str) -> SealedColumn<'_> {
    SealedColumn {
        table: SECRETS,
        column: "secret",
        row: id,
    }
}

fn private_key_of(id: &str) -> SealedColumn<'_> {
    SealedColumn {
        table: SECRETS,
        column: "private_key",
        row: id,
    }
}

impl EndpointCodec {
    pub(super) fn new(config: &EngineConfig, random: Arc<dyn Random>) -> Self {
        Self {
            defaults: config.endpoint_defaults.clone(),
            ring: KeyRing::new(&config.encryption_keys, random),
        }
    }

    pub(super) fn defaults(&self) -> &EndpointDefaults {
        &self.defaults
    }

    pub(super) fn ring(&self) -> &KeyRing {
        &self.ring
    }

    pub(super) fn endpoint(
        &self,
        row: EndpointRow,
        secrets: Vec<SecretRow>,
    ) -> Result<Endpoint, StoreError> {
        let settings = self.settings(&row)?;
        let keys = |row: SecretRow| self.keys(row);
        let paused = row
            .pause_reason
            .as_deref()
            .map(|text| word(ENDPOINTS, "pause_reason", text));
        let (id, tenant) = (EndpointId::from_text(row.id), Tenant::from_text(row.tenant));
        let created_at = time(row.created_at);
        Ok(Endpoint {
            keys: secrets
                .into_iter()
                .map(keys)
                .collect::<Result<_, StoreError>>()?,
            paused: paused.transpose()?,
            updated_at: time(row.updated_at),
            version: row.version,
            ..Endpoint::resolve(id, tenant, settings, &self.defaults, created_at)
        })
    }

    fn keys(&self, row: SecretRow) -> Result<SigningKeys, StoreError> {
        let wrong = |column| move |error| corrupt(SECRETS, column, error);
        let secret = self.ring.open(&secret_of(&row.endpoint_id), &row.secret)?;
        let private_key = self
            .ring
            .open(&private_key_of(&row.endpoint_id), &row.private_key)?;
        Ok(SigningKeys {
            secret: Secret::parse(&secret).map_err(wrong("secret"))?,
            private_key: PrivateKey::parse(&private_key).map_err(wrong("private_key"))?,
            created_at: time(row.created_at),
            expires_at: row.expires_at.map(time),
        })
    }

    /// Returns the row of new signing keys.
    pub(super) fn secret_row(
        &self,
        id: &EndpointId,
        keys: &SigningKeys,
        created_at: i64,
    ) -> Result<SecretRow, StoreError> {
        let id = id.as_str();
        Ok(SecretRow {
            endpoint_id: id.to_owned(),
            secret: self.ring.seal(&secret_of(id), &keys.secret.reveal())?,
            private_key: self
                .ring
                .seal(&private_key_of(id), &keys.private_key.reveal())?,
            created_at,
            expires_at: None,
        })
    }

    /// Returns the stored headers re-encrypted with the current key; `None` if they already are.
    pub(super) fn resealed_headers(
        &self,
        id: &str,
        stored: &str,
    ) -> Result<Option<String>, StoreError> {
        self.ring.reseal(&headers_of(id), stored)
    }

    /// Returns the stored keys re-encrypted with the current key; `None` if they already are.
    pub(super) fn resealed_secret(&self, row: &SecretRow) -> Result<Option<SecretRow>, StoreError> {
        let secret = self
            .ring
            .reseal(&secret_of(&row.endpoint_id), &row.secret)?;
        let private_key = self
            .ring
            .reseal(&private_key_of(&row.endpoint_id), &row.private_key)?;
        let changed = secret.is_some() || private_key.is_some();
        Ok(changed.then(|| SecretRow {
            secret: secret.unwrap_or_else(|| row.secret.clone()),
            private_key: private_key.unwrap_or_else(|| row.private_key.clone()),
            ..row.clone()
        }))
    }

    fn settings(&self, row: &EndpointRow) -> Result<Settings, StoreError> {
        let number = |column, value: Option<i32>| {
            value
                .map(|value| unsigned(ENDPOINTS, column, value.into()))
                .transpose()
        };
        let long = |column, value: Option<i64>| {
            value
                .map(|value| {
                    u64::try_from(value).map_err(|error| corrupt(ENDPOINTS, column, error))
                })
                .transpose()
        };
        let rate_limit = row
            .rate_limit
            .as_deref()
            .map(|text| word(ENDPOINTS, "rate_limit", text));
        let retry_schedule = row.retry_delays_s.as_deref().map(|text| {
            RetrySchedule::new(json(ENDPOINTS, "retry_delays_s", text)?)
                .map_err(|error| corrupt(ENDPOINTS, "retry_delays_s", error))
        });
        Ok(Settings {
            url: word(ENDPOINTS, "url", &row.url)?,
            description: row.description.clone(),
            event_types: json(ENDPOINTS, "event_types", &row.event_types)?,
            headers: json(
                ENDPOINTS,
                "headers",
                &self.ring.open(&headers_of(&row.id), &row.headers)?,
            )?,
            rate_limit: rate_limit.transpose()?,
            concurrency: number("concurrency", row.concurrency)?,
            timeout: long("timeout_ms", row.timeout_ms)?.map(Duration::from_millis),
            retry_schedule: retry_schedule.transpose()?,
            max_age: long("max_age_s", row.max_age_s)?.map(Duration::from_secs),
            breaker_after: number("breaker_after", row.breaker_after)?,
            ordering: word(ENDPOINTS, "ordering", &row.ordering)?,
            on_failed: word(ENDPOINTS, "on_failed", &row.on_failed)?,
            signing: json(ENDPOINTS, "signing", &row.signing)?,
        })
    }

    pub(super) fn row(&self, endpoint: &Endpoint) -> Result<EndpointRow, StoreError> {
        let settings = &endpoint.settings;
        Ok(EndpointRow {
            id: endpoint.id.to_string(),
            tenant: endpoint.tenant.to_string(),
            url: settings.url.to_string(),
            description: settings.description.clone(),
            event_types: to_json(&settings.event_types),
            headers: self.ring.seal(
                &headers_of(endpoint.id.as_str()),
                &to_json(&settings.headers),
            )?,
            rate_limit: settings.rate_limit.map(|limit| limit.to_string()),
            concurrency: settings.concurrency.map(int),
            timeout_ms: settings
                .timeout
                .map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)),
            retry_delays_s: settings
                .retry_schedule
                .as_ref()
                .map(|schedule| to_json(&schedule.delays_s())),
            max_age_s: settings.max_age.map(seconds),
            breaker_after: settings.breaker_after.map(int),
            ordering: settings.ordering.to_string(),
            on_failed: settings.on_failed.to_string(),
            signing: to_json(&settings.signing),
            pause_reason: endpoint.paused.map(|reason| reason.to_string()),
            created_at: endpoint.created_at.as_micros(),
            updated_at: endpoint.updated_at.as_micros(),
            deleted_at: None,
            version: endpoint.version,
        })
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
