//! Conversion between an endpoint and its rows, whose secrets the key ring encrypts; and the public
//! ids of deliveries.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::codec::{json, time, to_json, word};
use super::error::{StoreError, corrupt};
use super::key_ring::{KeyRing, SealedColumn};
use super::rows::{EndpointRow, SecretRow};
use crate::config::EngineConfig;
use crate::domain::endpoint::{Endpoint, EndpointLimits, SigningKeys};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::public_ids::PublicIds;
use crate::domain::secret::{PrivateKey, Secret};
use crate::domain::settings::Settings;

const ENDPOINTS: &str = "webhook_endpoints";
const SECRETS: &str = "webhook_endpoint_secrets";

/// Reads endpoints from rows: fills in defaults, and decrypts secrets.
pub(super) struct EndpointCodec {
    defaults: EndpointLimits,
    ring: KeyRing,
    ids: Arc<PublicIds>,
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
    pub(super) fn new(config: &EngineConfig, ring: KeyRing, ids: PublicIds) -> Self {
        Self {
            defaults: config.endpoint_defaults.clone(),
            ring,
            ids: Arc::new(ids),
        }
    }

    /// Makes the ids that callers see.
    pub(super) fn ids(&self) -> &Arc<PublicIds> {
        &self.ids
    }

    pub(super) fn defaults(&self) -> &EndpointLimits {
        &self.defaults
    }

    pub(super) fn ring(&self) -> &KeyRing {
        &self.ring
    }

    pub(super) fn endpoint(
        &self,
        row: EndpointRow,
        tenant: Tenant,
        secrets: Vec<SecretRow>,
    ) -> Result<Endpoint, StoreError> {
        let settings = self.settings(&row)?;
        let keys = |row: SecretRow| self.keys(row);
        let paused = row
            .pause_reason
            .as_deref()
            .map(|text| word(ENDPOINTS, "pause_reason", text));
        let id = EndpointId::from_text(row.id);
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
        let headers = self.ring.open(&headers_of(&row.id), &row.headers)?;
        let mut settings: Map<String, Value> = json(ENDPOINTS, "settings", &row.settings)?;
        settings.insert("url".to_owned(), Value::from(row.url.as_str()));
        settings.insert(
            "description".to_owned(),
            Value::from(row.description.as_str()),
        );
        for (column, text) in [("event_types", &*row.event_types), ("headers", &*headers)] {
            settings.insert(column.to_owned(), json(ENDPOINTS, column, text)?);
        }
        let settings = serde_json::from_value(Value::Object(settings));
        settings.map_err(|error| corrupt(ENDPOINTS, "settings", error))
    }

    pub(super) fn row(&self, endpoint: &Endpoint) -> Result<EndpointRow, StoreError> {
        let settings = &endpoint.settings;
        // All settings are JSON in one column, except those that have a column of their own.
        let Ok(Value::Object(mut json)) = serde_json::to_value(settings) else {
            return Err(corrupt(ENDPOINTS, "settings", "not an object"));
        };
        for column in ["url", "description", "event_types", "headers"] {
            json.remove(column);
        }
        let headers = to_json(&settings.headers);
        Ok(EndpointRow {
            id: endpoint.id.to_string(),
            url: settings.url.to_string(),
            description: settings.description.clone(),
            event_types: to_json(&settings.event_types),
            headers: self
                .ring
                .seal(&headers_of(endpoint.id.as_str()), &headers)?,
            settings: to_json(&json),
            pause_reason: endpoint.paused.map(|reason| reason.to_string()),
            created_at: endpoint.created_at.as_micros(),
            updated_at: endpoint.updated_at.as_micros(),
            deleted_at: None,
            version: endpoint.version,
        })
    }
}
