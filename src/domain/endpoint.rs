//! Endpoints: the URLs that webhooks are sent to, and their limits.
//!
//! [`Endpoint`] has the effective values: its [`Settings`], with unset ones filled from
//! [`EndpointLimits`]. An unset value follows the defaults when they change.

use std::time::Duration;

use super::SettingError;
use super::breaker::{Health, Limits};
use super::clock::Timestamp;
use super::ids::{EndpointId, Tenant};
use super::random::Random;
use super::rate_limit::RateLimit;
use super::retry::RetrySchedule;
use super::secret::{PrivateKey, PublicKey, Secret, SigningSecret};
use super::settings::{OnFailed, Ordering, Settings, Signing, check_concurrency, check_timeout};
use super::words;

words! {
    /// The reason why an endpoint is paused.
    PauseReason {
        /// A person paused it.
        Operator = "operator",
        /// It answered 410 Gone.
        Gone = "gone",
        /// It failed for days without a success.
        Failing = "failing",
    }
}

/// Limits of an endpoint; those of the configuration are the defaults of all endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointLimits {
    /// Maximum rate of attempt starts.
    pub rate_limit: RateLimit,
    /// Maximum attempts in flight, 1 to 1,000.
    pub concurrency: u32,
    /// Timeout of a request including the response body, 1 to 30 s.
    pub timeout: Duration,
    /// Delays between attempts.
    pub retry_schedule: RetrySchedule,
    /// Maximum age of a pending delivery before it expires.
    pub max_age: Duration,
    /// Consecutive failed attempts that open the breaker; 0: no breaker.
    pub breaker_after: u32,
}

impl EndpointLimits {
    /// Returns these limits with those that `settings` sets.
    #[must_use]
    pub fn overridden_by(&self, settings: &Settings) -> Self {
        let schedule = settings.retry_schedule.as_ref();
        Self {
            rate_limit: settings.rate_limit.unwrap_or(self.rate_limit),
            concurrency: settings.concurrency.unwrap_or(self.concurrency),
            timeout: settings.timeout.unwrap_or(self.timeout),
            retry_schedule: schedule.unwrap_or(&self.retry_schedule).clone(),
            max_age: settings.max_age.unwrap_or(self.max_age),
            breaker_after: settings.breaker_after.unwrap_or(self.breaker_after),
        }
    }

    /// Checks the defaults against the bounds of an endpoint's own settings.
    ///
    /// # Errors
    /// Names the first one that is out of bounds.
    pub fn check(&self) -> Result<(), SettingError> {
        let wrong =
            |setting: &'static str| move |detail: String| SettingError::new(setting, detail);
        check_concurrency(self.concurrency).map_err(wrong("endpoint_defaults.concurrency"))?;
        check_timeout(self.timeout).map_err(wrong("endpoint_defaults.timeout"))?;
        let limit = self.rate_limit.to_string().parse::<RateLimit>();
        limit
            .map(drop)
            .map_err(wrong("endpoint_defaults.rate_limit"))
    }
}

impl Default for EndpointLimits {
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
pub struct SigningKeys {
    /// Signs `v1`.
    pub secret: Secret,
    /// Signs `v1a`, for endpoints that ask for it.
    pub private_key: PrivateKey,
    /// Time from which they were current; unique among an endpoint's keys.
    pub created_at: Timestamp,
    /// `None` for the current ones; the end of the grace period for rotated ones.
    pub expires_at: Option<Timestamp>,
}

impl SigningKeys {
    /// Generates keys; the one in `secret`, if any, is used as it is.
    #[must_use]
    pub fn generate(secret: Option<SigningSecret>, random: &dyn Random) -> Self {
        let (secret, private_key) = match secret {
            Some(SigningSecret::Symmetric(secret)) => (secret, PrivateKey::generate(random)),
            Some(SigningSecret::Private(private_key)) => (Secret::generate(random), private_key),
            None => (Secret::generate(random), PrivateKey::generate(random)),
        };
        Self {
            secret,
            private_key,
            created_at: Timestamp::from_micros(0),
            expires_at: None,
        }
    }

    /// Returns the private key if `asymmetric`, the symmetric secret otherwise.
    #[must_use]
    pub fn signing_secret(&self, asymmetric: bool) -> SigningSecret {
        if asymmetric {
            SigningSecret::Private(self.private_key.clone())
        } else {
            SigningSecret::Symmetric(self.secret.clone())
        }
    }

    /// Returns the id of these keys among those of the endpoint.
    #[must_use]
    pub fn id(&self) -> String {
        format!("key_{:x}", self.created_at.as_micros())
    }
}

/// An endpoint with its effective values.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Endpoint {
    /// `ep_…`
    pub id: EndpointId,
    /// Owning tenant.
    pub tenant: Tenant,
    /// Its settings; unset ones are `None`.
    pub settings: Settings,
    /// Its limits: what its settings leave out is the default.
    pub limits: EndpointLimits,
    /// Newest first; expired ones are still listed but no longer sign.
    pub keys: Vec<SigningKeys>,
    /// Reason for its pause; `None`: active.
    pub paused: Option<PauseReason>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change of its settings.
    pub updated_at: Timestamp,
    /// Version, raised by every change: the copy with the higher one is newer.
    pub version: i64,
}

impl Endpoint {
    /// Creates an endpoint without keys, with unset values filled from `defaults`.
    #[must_use]
    pub fn resolve(
        id: EndpointId,
        tenant: Tenant,
        settings: Settings,
        defaults: &EndpointLimits,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            tenant,
            limits: defaults.overridden_by(&settings),
            settings,
            keys: Vec::new(),
            paused: None,
            created_at,
            updated_at: created_at,
            version: 0,
        }
    }

    /// The limits that its breaker is held to.
    #[must_use]
    pub fn breaker_limits(&self) -> Limits {
        Limits {
            breaker_after: self.breaker_after(),
            concurrency: self.limits.concurrency,
        }
    }

    /// Returns the number of consecutive failures that open the breaker; `None`: no breaker.
    #[must_use]
    pub fn breaker_after(&self) -> Option<u32> {
        Some(self.limits.breaker_after).filter(|after| *after > 0)
    }

    /// Returns the keys that sign at `now`, newest first.
    pub fn valid_keys(&self, now: Timestamp) -> impl Iterator<Item = &SigningKeys> {
        self.keys
            .iter()
            .filter(move |keys| keys.expires_at.is_none_or(|end| now < end))
    }

    /// Returns the rotated keys that still sign at `now`, newest first, each with the end of its
    /// grace period.
    pub fn older_keys(&self, now: Timestamp) -> impl Iterator<Item = (&SigningKeys, Timestamp)> {
        self.valid_keys(now)
            .filter_map(|keys| Some((keys, keys.expires_at?)))
    }

    /// Returns the current keys, which a receiver should use.
    #[must_use]
    pub fn current_keys(&self) -> Option<&SigningKeys> {
        self.keys.iter().find(|keys| keys.expires_at.is_none())
    }

    /// Returns the key that verifies `v1a`; `None` unless the endpoint signs with `v1a`.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        let keys = self
            .current_keys()
            .filter(|_| self.settings.signing.contains(&Signing::V1a))?;
        Some(keys.private_key.public())
    }

    /// Returns whether the endpoint may be sent to, that is, is not paused.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.paused.is_none()
    }

    /// Returns the latest possible due time of a delivery: the longest retry delay from `now`, or
    /// the end of the endpoint's rest or breaker wait. `health` is within reach of `now`.
    #[must_use]
    pub fn latest_retry(&self, health: &Health, now: Timestamp) -> Timestamp {
        (now + self.limits.retry_schedule.longest_delay()).max(health.opens_at().unwrap_or(now))
    }

    /// Returns whether a failed delivery blocks later ones with the same ordering key.
    #[must_use]
    pub fn blocks_on_failure(&self) -> bool {
        self.settings.ordering == Ordering::Key && self.settings.on_failed == OnFailed::Block
    }
}

/// Backlog of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// Deliveries that are `pending`, including those on hold.
    pub pending: u64,
    /// Deliveries that are `sending`.
    pub sending: u64,
    /// Deliveries on hold.
    pub held: u64,
    /// Publishing time of the oldest pending delivery.
    pub oldest_pending_at: Option<Timestamp>,
}

impl std::ops::AddAssign for Backlog {
    fn add_assign(&mut self, other: Self) {
        self.pending += other.pending;
        self.sending += other.sending;
        self.held += other.held;
        let oldest = [self.oldest_pending_at, other.oldest_pending_at];
        self.oldest_pending_at = oldest.into_iter().flatten().min();
    }
}
