//! Endpoints: where webhooks go, and the limits they are sent under.
//!
//! [`Endpoint`] is what holds: its [`Settings`] with their gaps filled by
//! [`EndpointDefaults`]. A gap follows the defaults when they change.

use std::time::Duration;

use serde::Serialize;

use super::FieldError;
use super::breaker::Health;
use super::clock::Timestamp;
use super::ids::{EndpointId, Tenant};
use super::rate_limit::RateLimit;
use super::retry::RetrySchedule;
use super::secret::{PrivateKey, PublicKey, Secret, SigningSecret};
use super::settings::{OnFailed, Ordering, Settings, Signing, check_concurrency, check_timeout_ms};
use super::words;

words! {
    /// Why an endpoint is paused.
    PauseReason {
        /// A person paused it.
        Operator = "operator",
        /// It answered 410 Gone.
        Gone = "gone",
        /// It failed for days on end.
        Failing = "failing",
    }
}

/// What an endpoint that does not say otherwise is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointDefaults {
    /// Attempt starts.
    pub rate_limit: RateLimit,
    /// Attempts in flight, 1 to 1,000.
    pub concurrency: u32,
    /// One request in all, its body included: 1 to 30 s.
    pub timeout: Duration,
    /// The delays between attempts.
    pub retry_schedule: RetrySchedule,
    /// How long a delivery may wait before it expires.
    pub max_age: Duration,
    /// Failed attempts in a row that open the breaker.
    pub breaker_after: u32,
}

impl EndpointDefaults {
    /// Holds the defaults to what an endpoint itself may ask for.
    ///
    /// # Errors
    /// Names the one that is out of bounds.
    pub fn check(&self) -> Result<(), FieldError> {
        let wrong = |field: &'static str| move |detail: String| FieldError::new(field, detail);
        check_concurrency(self.concurrency).map_err(wrong("endpoint_defaults.concurrency"))?;
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        check_timeout_ms(timeout_ms).map_err(wrong("endpoint_defaults.timeout"))?;
        let limit = self.rate_limit.to_string().parse::<RateLimit>();
        limit
            .map(drop)
            .map_err(wrong("endpoint_defaults.rate_limit"))
    }
}

impl Default for EndpointDefaults {
    fn default() -> Self {
        Self {
            rate_limit: RateLimit::default(),
            concurrency: 3,
            timeout: Duration::from_secs(15),
            retry_schedule: RetrySchedule::default(),
            max_age: Duration::from_secs(30 * 24 * 3600),
            breaker_after: 10,
        }
    }
}

/// Keys that sign until they expire.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LiveKeys {
    /// Signs `v1`.
    pub secret: Secret,
    /// Signs `v1a`, for endpoints that ask for it.
    pub private_key: PrivateKey,
    /// When they became the present ones; of an endpoint's keys no two have the same.
    pub created_at: Timestamp,
    /// `None` for the present one; the end of its grace for one that was rotated out.
    pub expires_at: Option<Timestamp>,
}

impl LiveKeys {
    /// Fresh keys, around the one that the caller chose, if it did.
    #[must_use]
    pub fn fresh(secret: Option<SigningSecret>) -> Self {
        let (secret, private_key) = match secret {
            Some(SigningSecret::Symmetric(secret)) => (secret, PrivateKey::generate()),
            Some(SigningSecret::Private(private_key)) => (Secret::generate(), private_key),
            None => (Secret::generate(), PrivateKey::generate()),
        };
        Self {
            secret,
            private_key,
            created_at: Timestamp::from_micros(0),
            expires_at: None,
        }
    }

    /// Returns the half of them that a caller asked for.
    #[must_use]
    pub fn signing_secret(&self, asymmetric: bool) -> SigningSecret {
        if asymmetric {
            SigningSecret::Private(self.private_key.clone())
        } else {
            SigningSecret::Symmetric(self.secret.clone())
        }
    }

    /// Returns the id that names them among an endpoint's keys.
    #[must_use]
    pub fn id(&self) -> String {
        format!("key_{:x}", self.created_at.as_micros())
    }
}

/// An endpoint with every gap filled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Endpoint {
    /// `ep_…`
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What was asked for.
    pub settings: Settings,
    /// Attempt starts.
    pub rate_limit: RateLimit,
    /// Attempts in flight.
    pub concurrency: u32,
    /// One request in all.
    pub timeout: Duration,
    /// The delays between attempts.
    pub retry_schedule: RetrySchedule,
    /// How long a delivery may wait.
    pub max_age: Duration,
    /// Failed attempts in a row that open the breaker; `None`: no breaker.
    pub breaker_after: Option<u32>,
    /// Newest first; those past their grace are still listed and no longer sign.
    pub keys: Vec<LiveKeys>,
    /// Why it is paused, if it is.
    pub paused: Option<PauseReason>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its settings last changed.
    pub updated_at: Timestamp,
    /// Rises with every change: of two copies the higher is the newer.
    pub version: i64,
}

impl Endpoint {
    /// An endpoint that was just created, without secrets: the settings with their gaps filled.
    #[must_use]
    pub fn resolve(
        id: EndpointId,
        tenant: Tenant,
        settings: Settings,
        defaults: &EndpointDefaults,
        created_at: Timestamp,
    ) -> Self {
        let mut endpoint = Self {
            id,
            tenant,
            rate_limit: defaults.rate_limit,
            concurrency: defaults.concurrency,
            timeout: defaults.timeout,
            retry_schedule: defaults.retry_schedule.clone(),
            max_age: defaults.max_age,
            breaker_after: None,
            settings,
            keys: Vec::new(),
            paused: None,
            created_at,
            updated_at: created_at,
            version: 0,
        };
        endpoint.fill_gaps(defaults);
        endpoint
    }

    /// Fills the settings' gaps.
    pub fn fill_gaps(&mut self, defaults: &EndpointDefaults) {
        let settings = &self.settings;
        self.rate_limit = settings.rate_limit.unwrap_or(defaults.rate_limit);
        self.concurrency = settings.concurrency.unwrap_or(defaults.concurrency);
        self.timeout = settings.timeout.unwrap_or(defaults.timeout);
        self.retry_schedule = settings
            .retry_schedule
            .clone()
            .unwrap_or_else(|| defaults.retry_schedule.clone());
        self.max_age = settings.max_age.unwrap_or(defaults.max_age);
        let breaker_after = settings.breaker_after.unwrap_or(defaults.breaker_after);
        self.breaker_after = Some(breaker_after).filter(|after| *after > 0);
    }

    /// The keys that sign at `now`, newest first.
    pub fn live_keys(&self, now: Timestamp) -> impl Iterator<Item = &LiveKeys> {
        self.keys
            .iter()
            .filter(move |keys| keys.expires_at.is_none_or(|end| now < end))
    }

    /// The keys that were rotated out and still sign at `now`, newest first, each with the end of
    /// its grace.
    pub fn older_keys(&self, now: Timestamp) -> impl Iterator<Item = (&LiveKeys, Timestamp)> {
        self.live_keys(now)
            .filter_map(|keys| Some((keys, keys.expires_at?)))
    }

    /// Those that a consumer should know.
    #[must_use]
    pub fn present_keys(&self) -> Option<&LiveKeys> {
        self.keys.iter().find(|keys| keys.expires_at.is_none())
    }

    /// What a consumer verifies `v1a` by; `None` unless the endpoint asks for it.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        let keys = self
            .present_keys()
            .filter(|_| self.settings.signing.contains(&Signing::V1a))?;
        Some(keys.private_key.public())
    }

    /// Whether it may be sent to.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.paused.is_none()
    }

    /// Returns the latest time that a delivery can be due at: the longest wait of its retry, or the
    /// end of its endpoint's rest or breaker. `health` is within reach of `now`.
    #[must_use]
    pub fn latest_retry(&self, health: &Health, now: Timestamp) -> Timestamp {
        (now + self.retry_schedule.longest_delay()).max(health.opens_at().unwrap_or(now))
    }

    /// Whether a delivery that is given up keeps those behind it in its ordering key waiting.
    #[must_use]
    pub fn keeps_waiting(&self) -> bool {
        self.settings.ordering == Ordering::Key && self.settings.on_failed == OnFailed::Block
    }
}

/// What waits at an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Backlog {
    /// Deliveries that are `pending`, held ones included.
    pub pending: u64,
    /// Deliveries that are `sending`.
    pub sending: u64,
    /// Deliveries on hold.
    pub held: u64,
    /// When the oldest pending one was published.
    pub oldest_pending_at: Option<Timestamp>,
}
