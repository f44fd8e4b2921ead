//! Managing endpoints.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use url::Host;

use super::Postrider;
use super::handle::send;
use super::views::{EndpointView, Receipt};
use crate::domain::breaker::{Health, StoredHealth};
use crate::domain::endpoint::{Endpoint, PauseReason, SigningKeys};
use crate::domain::event::{Content, EventType, NewEvent};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::secret::SigningSecret;
use crate::domain::settings::{Change, EndpointChange, Settings, Signing};
use crate::domain::{Field, Resource};
use crate::engine::background::{fail_overdue, unblock_unordered};
use crate::engine::error::Error;
use crate::engine::notifications::Notification;
use crate::engine::registry::{EndpointChanged, EndpointDue};
use crate::sender::guard::Blocked;
use crate::store::{Hint, StoreError, Tx};

/// Timeout of the DNS lookup when an endpoint is written. A name that does not resolve by then is
/// accepted: it is checked on each send.
const WRITE_LOOKUP: Duration = Duration::from_secs(2);

/// The previous health, if the change has replaced it; or the reason to reject the change.
type Edited = Result<Option<StoredHealth>, Error>;

impl Postrider {
    /// Creates an endpoint. Without a `secret`, one is generated.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every invalid field, including the address policy's verdict on
    /// `url`.
    pub async fn create_endpoint(
        &self,
        tenant: Tenant,
        mut change: EndpointChange,
        secret: Option<SigningSecret>,
    ) -> Result<EndpointView, Error> {
        if matches!(secret, Some(SigningSecret::Private(_))) && change.signing == Change::Keep {
            // A caller's own key pair is meant to be used.
            change.signing = Change::Set(vec![Signing::V1a]);
        }
        let settings = Settings::create(change)?;
        self.check_headers(&settings)?;
        self.judge(&settings, &tenant).await?;
        let context = self.context();
        let now = self.now();
        let id = context.store.ids().endpoint(now);
        let keys = SigningKeys::generate(secret, context.random());
        let create = move |tx: &mut Tx<'_>| {
            let id = id.clone();
            let defaults = tx.endpoint_defaults();
            let endpoint = Endpoint::resolve(id, tenant.clone(), settings.clone(), defaults, now);
            let endpoint = Endpoint {
                keys: vec![keys.clone()],
                ..endpoint
            };
            if !tx.insert_endpoint(&endpoint)? {
                return Ok(None);
            }
            tx.add_keys(&endpoint.id, &keys, now, now)?;
            Ok(Some(endpoint))
        };
        let create = || {
            let created = context.committer.run(create.clone());
            async { Ok(created.await?) }
        };
        let endpoint = self.retry_taken(create).await?;
        tracing::info!(endpoint = %endpoint.id, "endpoint {} was created", endpoint.id);
        let created = Notification::Changed {
            endpoint: endpoint.id.clone(),
        };
        let _ = context.notifications.send(created);
        self.view(endpoint).await
    }

    /// Changes an endpoint. Its running supervisor applies the change before this returns.
    ///
    /// # Errors
    /// As [`create_endpoint`](Self::create_endpoint), and [`Error::NotFound`].
    pub async fn update_endpoint(
        &self,
        id: &EndpointId,
        change: EndpointChange,
    ) -> Result<EndpointView, Error> {
        let present = self.find_endpoint(id).await?;
        let changed = present.settings.changed(change.clone())?;
        if changed.headers != present.settings.headers {
            self.check_headers(&changed)?;
        }
        if changed.url != present.settings.url {
            self.judge(&changed, &present.tenant).await?;
        }
        let orders = change.changes_order();
        let closes_breaker = change.closes_breaker();
        let now = self.now();
        // Validated against the read endpoint, applied to the current one.
        let endpoint = self.edit(id, move |tx, endpoint| {
            match endpoint.settings.changed(change.clone()) {
                Ok(settings) => {
                    endpoint.settings = settings;
                    endpoint.updated_at = now;
                }
                Err(errors) => return Ok(Err(Error::Invalid(errors))),
            }
            if !closes_breaker {
                return Ok(Ok(None));
            }
            let health = tx.health(&endpoint.id)?.health;
            let stored = tx.replace_health(&endpoint.id, health.without_breaker())?;
            Ok(Ok(Some(stored)))
        });
        let endpoint = endpoint.await?;
        if orders {
            let context = Arc::clone(&self.inner.context);
            let id = id.clone();
            // In the background: there may be many, and the sweep retries after a failure.
            tokio::spawn(async move {
                if let Err(error) = unblock_unordered(&context, &id).await {
                    tracing::warn!(%error, "deliveries of {id} held for ordering are unblocked by the next sweep");
                }
            });
        }
        self.view(endpoint).await
    }

    /// Deletes an endpoint: nothing more is sent to it, and pending deliveries become `failed`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_endpoint(&self, id: &EndpointId) -> Result<(), Error> {
        let mut endpoint = self.find_endpoint(id).await?;
        let context = Arc::clone(&self.inner.context);
        let of = id.clone();
        let now = self.now();
        let deleted = context
            .committer
            .run(move |tx| tx.delete_endpoint(&of, now))
            .await?;
        if !deleted {
            return Err(Error::NotFound(Resource::Endpoint));
        }
        // Its supervisor treats a deleted endpoint as permanently paused: no change under way has a
        // higher version.
        endpoint.paused = Some(PauseReason::Operator);
        endpoint.version = i64::MAX;
        self.notify_changed(endpoint, None).await;
        let deleted = id.clone();
        // In the background: there may be many, and the sweep retries after a failure.
        tokio::spawn(async move {
            if let Err(error) = fail_overdue(&context, &deleted).await {
                tracing::warn!(%error, "the remaining pending deliveries are failed by the next sweep");
            }
        });
        tracing::info!(endpoint = %id, "endpoint {id} was deleted");
        Ok(())
    }

    /// Stops sending to an endpoint. Attempts in flight finish; everything else stays pending.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn pause_endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let now = self.now();
        let endpoint = self.edit(id, move |tx, endpoint| {
            if endpoint.is_active() {
                endpoint.paused = Some(PauseReason::Operator);
                tx.publish_pause_event(endpoint, PauseReason::Operator, now)?;
            }
            Ok(Ok(None))
        });
        self.view(endpoint.await?).await
    }

    /// Resumes sending after any pause, and resets failures.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume_endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let endpoint = self.edit(id, |tx, endpoint| {
            endpoint.paused = None;
            Ok(Ok(Some(
                tx.replace_health(&endpoint.id, Health::default())?,
            )))
        });
        self.view(endpoint.await?).await
    }

    /// Publishes one `postrider.test` event only to this endpoint, regardless of its subscriptions.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn test_endpoint(&self, id: &EndpointId) -> Result<Receipt, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let data =
            RawValue::from_string(r#"{"message":"This is a test event from Postrider."}"#.into())
                .map_err(|error| Error::field(Field::Data, error.to_string()))?;
        let event_type = EventType::parse("postrider.test")
            .map_err(|detail| Error::field(Field::EventType, detail))?;
        let event = NewEvent {
            tenant: endpoint.tenant,
            ..NewEvent::new(event_type, Content::Data(data))
        };
        let event = NewEvent {
            id: self.context().store.ids().event(),
            ..event
        };
        let stored = event
            .freeze(self.now())
            .map_err(|error| Error::of_event(error, None))?;
        let only = Some(id.clone());
        let receipts = self
            .publish_stored(vec![Arc::new(stored)], only, |_| None)
            .await?;
        receipts
            .into_iter()
            .next()
            .ok_or(Error::NotFound(Resource::Endpoint))
    }

    pub(super) async fn find_endpoint(&self, id: &EndpointId) -> Result<Endpoint, Error> {
        self.store()
            .endpoint(id)
            .await?
            .ok_or(Error::NotFound(Resource::Endpoint))
    }

    /// Returns an endpoint's tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn tenant_of_endpoint(&self, id: &EndpointId) -> Result<Tenant, Error> {
        self.store()
            .tenant_of_endpoint(id)
            .await?
            .ok_or(Error::NotFound(Resource::Endpoint))
    }

    /// Notifies the registry, or another node, that something is due at an endpoint.
    pub(super) fn notify_due(&self, id: &EndpointId) {
        if self.context().leases.for_new_work(id).is_some() {
            send(&self.inner.registry, EndpointDue(id.clone()));
        } else {
            self.inner.hints.send(Hint::Due(vec![id.clone()]));
        }
    }

    /// Reads an endpoint, changes it and writes it in one transaction, then notifies its supervisor.
    pub(super) async fn edit<F>(&self, id: &EndpointId, mut change: F) -> Result<Endpoint, Error>
    where
        F: FnMut(&mut Tx<'_>, &mut Endpoint) -> Result<Edited, StoreError> + Send + 'static,
    {
        let of = id.clone();
        let write = move |tx: &mut Tx<'_>| {
            let Some(mut endpoint) = tx.endpoint_to_change(&of)? else {
                return Ok(Err(Error::NotFound(Resource::Endpoint)));
            };
            let health = match change(tx, &mut endpoint)? {
                Ok(health) => health,
                Err(refused) => return Ok(Err(refused)),
            };
            endpoint.version += 1;
            tx.update_endpoint(&endpoint)?;
            // Includes rows that the change wrote beside the endpoint's own.
            let edited = tx.endpoint(&of)?.ok_or(Error::NotFound(Resource::Endpoint));
            Ok(edited.map(|edited| (edited, health)))
        };
        let (edited, health) = self.context().committer.run(write).await??;
        self.notify_changed(edited.clone(), health).await;
        Ok(edited)
    }

    async fn notify_changed(&self, endpoint: Endpoint, health: Option<StoredHealth>) {
        let changed = Notification::Changed {
            endpoint: endpoint.id.clone(),
        };
        let _ = self.context().notifications.send(changed);
        let changed = EndpointChanged {
            endpoint: Arc::new(endpoint),
            health,
        };
        // A stopping engine sends nothing more, so a lost message does no harm.
        let _ = self.inner.registry.send(changed).await;
        self.inner.hints.send(Hint::Changed);
    }

    /// Rejects the header that carries the event's id.
    fn check_headers(&self, settings: &Settings) -> Result<(), Error> {
        let taken = self
            .context()
            .config
            .event_id_header
            .as_ref()
            .map(|name| name.to_ascii_lowercase());
        match taken.filter(|name| settings.headers.contains_key(name)) {
            Some(name) => {
                let detail = "is reserved for the event's id (`event_id_header`)";
                Err(Error::field(Field::Header(name), detail))
            }
            None => Ok(()),
        }
    }

    /// Checks a URL against the address policy before it is stored.
    async fn judge(&self, settings: &Settings, tenant: &Tenant) -> Result<(), Error> {
        let policy = &self.inner.policy;
        let refuse = |blocked: Blocked| Error::field(Field::Url, blocked.remedy());
        policy.check_literal(&settings.url).map_err(refuse)?;
        if let Some(Host::Domain(name)) = settings.url.host() {
            // A name that does not resolve yet is accepted, unless it refers to this machine.
            let lookup = self.inner.resolver.lookup(name.to_owned(), tenant.clone());
            let addresses = tokio::time::timeout(WRITE_LOOKUP, lookup)
                .await
                .unwrap_or(Ok(Vec::new()));
            let addresses = addresses.unwrap_or_default();
            policy.check_resolved(name, &addresses).map_err(refuse)?;
        }
        Ok(())
    }
}
