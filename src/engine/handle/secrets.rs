//! Signing secrets of endpoints, and their rotation.

use std::time::Duration;

use super::Postrider;
use super::views::OlderKey;
use crate::domain::endpoint::SigningKeys;
use crate::domain::ids::EndpointId;
use crate::domain::secret::{Secret, SigningSecret};
use crate::domain::{Field, Resource};
use crate::engine::error::Error;

/// Maximum grace period of a rotated secret: seven days.
const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum number of older keys that sign beside an endpoint's current ones.
const MAX_OLDER_KEYS: usize = 10;

impl Postrider {
    /// Returns the secret that the receiver should have.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint_secret(&self, id: &EndpointId) -> Result<Secret, Error> {
        let endpoint = self.find_endpoint(id).await?;
        endpoint
            .current_keys()
            .map(|keys| keys.secret.clone())
            .ok_or(Error::NotFound(Resource::Secret))
    }

    /// Returns the secret that the receiver should have, and the older keys that still sign, newest
    /// first.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint_secrets(
        &self,
        id: &EndpointId,
    ) -> Result<(Secret, Vec<OlderKey>), Error> {
        let endpoint = self.find_endpoint(id).await?;
        let now = self.now();
        let current = endpoint.current_keys().map(|keys| keys.secret.clone());
        let older = endpoint
            .older_keys(now)
            .map(|(keys, signs_until)| OlderKey {
                id: keys.id(),
                signs_until,
            });
        Ok((
            current.ok_or(Error::NotFound(Resource::Secret))?,
            older.collect(),
        ))
    }

    /// Rotates an endpoint's keys; the previous ones also sign for the grace period. Without a
    /// grace, all older keys stop signing now, including those of earlier rotations. Returns the
    /// secret; the public key is shown with the endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a grace of more than seven days, and
    /// [`Error::ManyKeys`], except without a grace.
    pub async fn rotate_secret(
        &self,
        id: &EndpointId,
        secret: Option<SigningSecret>,
        grace: Duration,
    ) -> Result<SigningSecret, Error> {
        if grace > MAX_GRACE {
            return Err(Error::field(
                Field::Grace,
                "must be at most 604,800 seconds (7 days)",
            ));
        }
        let asymmetric = matches!(secret, Some(SigningSecret::Private(_)));
        let now = self.now();
        let keys = SigningKeys::generate(secret, self.context().random());
        let shown = keys.signing_secret(asymmetric);
        self.edit(id, move |tx, endpoint| {
            if grace.is_zero() {
                tx.end_older_keys(&endpoint.id, None)?;
            } else if endpoint.older_keys(now).count() >= MAX_OLDER_KEYS {
                // Every key signs every attempt.
                return Ok(Err(Error::ManyKeys(MAX_OLDER_KEYS)));
            }
            tx.add_keys(&endpoint.id, &keys, now, now + grace)?;
            Ok(Ok(None))
        })
        .await?;
        Ok(shown)
    }

    /// Revokes an older key of an endpoint: it no longer signs.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for the current key and for one that no longer signs.
    pub async fn end_key(&self, id: &EndpointId, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        let now = self.now();
        self.edit(id, move |tx, endpoint| {
            let found = endpoint.older_keys(now).find(|(keys, _)| keys.id() == key);
            let Some((keys, _)) = found else {
                return Ok(Err(Error::NotFound(Resource::Key)));
            };
            tx.end_older_keys(&endpoint.id, Some(keys.created_at))?;
            Ok(Ok(None))
        })
        .await?;
        Ok(())
    }
}
