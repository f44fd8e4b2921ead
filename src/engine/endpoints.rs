//! Managing endpoints.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use url::Host;

use super::happenings::Happening;
use super::publishing::next_key;
use super::registry::{EndpointChanged, InspectEndpoint, Nudge};
use super::seed::Seed;
use super::supervisor::Live;
use super::{Error, Postrider, Receipt};
use crate::domain::breaker::Health;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::{Backlog, Endpoint, LiveKeys, PauseReason};
use crate::domain::event::{Content, EventType, NewEvent};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lease::Shard;
use crate::domain::secret::{Secret, SigningSecret};
use crate::domain::settings::{Change, EndpointChange, Settings, Signing};
use crate::store::query::{self, Page, StoredHealth};
use crate::store::{Hint, Tx};

/// The longest that a rotated secret goes on signing: seven days.
pub const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a name is looked up when an endpoint is written. One that does not resolve by then is
/// accepted: it is judged on each send.
const WRITE_LOOKUP: Duration = Duration::from_secs(2);

/// The most older keys of an endpoint that sign beside its present ones.
const MAX_OLDER_KEYS: usize = 10;

/// What a change of an endpoint made of its health, if anything; or why there was no change.
type Edited = Result<Option<StoredHealth>, Error>;

/// A key that signs beside the present one after a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OlderKey {
    /// Names it, as in [`Postrider::end_key`].
    pub id: String,
    /// The end of its grace.
    pub signs_until: Timestamp,
}

/// An endpoint and how it is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointView {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How it is doing.
    pub health: EndpointHealth,
}

/// How an endpoint is doing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EndpointHealth {
    /// Breaker, rests and failures.
    pub state: Health,
    /// What waits.
    pub backlog: Backlog,
    /// When its rate limit next lets an attempt start, if it does not now.
    pub next_slot_at: Option<Timestamp>,
    /// How long what waits takes at the rate limit; `None` where that sets no bound.
    pub estimated_drain: Option<Duration>,
}

/// Which endpoints a list is to show, newest first.
#[derive(Debug, Clone, Default)]
pub struct EndpointQuery {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only the paused ones, or only the others.
    pub paused: Option<bool>,
    /// Only those with this in their URL or description, whatever its case.
    pub search: Option<String>,
    /// Where the page before ended.
    pub after: Option<String>,
    /// At most so many.
    pub limit: i64,
}

impl Postrider {
    /// Creates an endpoint. Without a `secret` it gets a fresh one.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every field that is wrong, the address policy's verdict on `url`
    /// included.
    pub async fn create_endpoint(
        &self,
        tenant: Tenant,
        mut change: EndpointChange,
        secret: Option<SigningSecret>,
    ) -> Result<EndpointView, Error> {
        if matches!(secret, Some(SigningSecret::Private(_))) && change.signing == Change::Keep {
            // Who brings a key pair wants it used.
            change.signing = Change::Set(vec![Signing::V1a.to_string()]);
        }
        let settings = Settings::create(change)?;
        self.check_headers(&settings)?;
        self.judge(&settings, &tenant).await?;
        let now = self.now();
        let id = EndpointId::generate(now);
        let keys = LiveKeys::fresh(secret);
        let endpoint = self
            .shared
            .committer
            .run(move |tx| {
                let (conn, codec) = tx.parts();
                let endpoint = Endpoint {
                    keys: vec![keys.clone()],
                    ..Endpoint::resolve(
                        id.clone(),
                        tenant.clone(),
                        settings.clone(),
                        codec.defaults(),
                        now,
                    )
                };
                query::insert_endpoint(conn, codec, &endpoint)?;
                query::add_keys(conn, codec, &endpoint.id, &keys, now, now)?;
                Ok(endpoint)
            })
            .await?;
        tracing::info!(endpoint = %endpoint.id, "endpoint {} was created", endpoint.id);
        let _ = self.shared.happenings.send(Happening::Changed {
            endpoint: endpoint.id.clone(),
        });
        self.view(endpoint).await
    }

    /// Changes an endpoint. Its running supervisor knows before this returns.
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
        let orders = change.ordering != Change::Keep || change.on_failed != Change::Keep;
        let closes_breaker = matches!(change.breaker_after, Change::Reset | Change::Set(0));
        let now = self.now();
        // Judged on what was read above, applied to what stands now.
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
            let health = query::health(tx.conn(), &endpoint.id)?.health;
            let stored = query::replace_health(tx.conn(), &endpoint.id, health.without_breaker())?;
            Ok(Ok(Some(stored)))
        });
        let endpoint = endpoint.await?;
        if orders {
            let (shared, id) = (Arc::clone(&self.shared), id.clone());
            tokio::spawn(async move {
                if let Err(error) = super::maintenance::let_go_on(&shared, &id).await {
                    tracing::warn!(%error, "what waits for its turn at {id} is let go on by the next sweep");
                }
            });
        }
        self.view(endpoint).await
    }

    /// Deletes an endpoint: nothing is sent to it any more, what waits becomes `failed`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_endpoint(&self, id: &EndpointId) -> Result<(), Error> {
        let mut endpoint = self.find_endpoint(id).await?;
        let (of_id, now) = (id.clone(), self.now());
        let deleted = self
            .shared
            .committer
            .run(move |tx| query::delete_endpoint(tx.conn(), &of_id, now))
            .await?;
        if !deleted {
            return Err(Error::NotFound("endpoint"));
        }
        // To its supervisor a deleted endpoint is one that is paused for good.
        endpoint.paused = Some(PauseReason::Operator);
        endpoint.version = i64::MAX;
        self.tell(endpoint, None).await;
        let (shared, deleted) = (Arc::clone(&self.shared), id.clone());
        tokio::spawn(async move {
            if let Err(error) = super::maintenance::fail_overdue(&shared, &deleted).await {
                tracing::warn!(%error, "the rest of what waited is failed by the next sweep");
            }
        });
        tracing::info!(endpoint = %id, "endpoint {id} was deleted");
        Ok(())
    }

    /// Stops sending to an endpoint; what is in flight ends, everything else waits.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn pause_endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let now = self.now();
        let endpoint = self.edit(id, move |tx, endpoint| {
            if endpoint.is_active() {
                endpoint.paused = Some(PauseReason::Operator);
                tx.announce_pause(endpoint, PauseReason::Operator, now)?;
            }
            Ok(Ok(None))
        });
        self.view(endpoint.await?).await
    }

    /// Goes on sending, whatever the reason for the pause was, and forgets failures.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume_endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let endpoint = self.edit(id, |tx, endpoint| {
            endpoint.paused = None;
            Ok(Ok(Some(query::replace_health(
                tx.conn(),
                &endpoint.id,
                Health::default(),
            )?)))
        });
        self.view(endpoint.await?).await
    }

    /// The secret that a consumer should know.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint_secret(&self, id: &EndpointId) -> Result<Secret, Error> {
        let endpoint = self.find_endpoint(id).await?;
        endpoint
            .present_keys()
            .map(|keys| keys.secret.clone())
            .ok_or(Error::NotFound("secret"))
    }

    /// The secret that a consumer should know, and the older keys that sign beside it, newest
    /// first.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint_secrets(
        &self,
        id: &EndpointId,
    ) -> Result<(Secret, Vec<OlderKey>), Error> {
        let (endpoint, now) = (self.find_endpoint(id).await?, self.now());
        let present = endpoint.present_keys().map(|keys| keys.secret.clone());
        let older = endpoint
            .older_keys(now)
            .map(|(keys, signs_until)| OlderKey {
                id: keys.id(),
                signs_until,
            });
        Ok((present.ok_or(Error::NotFound("secret"))?, older.collect()))
    }

    /// Gives an endpoint new keys; those before sign beside them until `grace` ends. Without a
    /// grace every older key ends at once, those of earlier rotations included. Returns the secret;
    /// the public key is shown with the endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a grace of more than seven days, and
    /// [`Error::ManyKeys`], which no rotation without a grace meets.
    pub async fn rotate_secret(
        &self,
        id: &EndpointId,
        secret: Option<SigningSecret>,
        grace: Duration,
    ) -> Result<SigningSecret, Error> {
        if grace > MAX_GRACE {
            return Err(Error::field("grace_s", "at most 604,800 seconds (7 days)"));
        }
        let asymmetric = matches!(secret, Some(SigningSecret::Private(_)));
        let (keys, now) = (LiveKeys::fresh(secret), self.now());
        let shown = keys.signing_secret(asymmetric);
        self.edit(id, move |tx, endpoint| {
            let (conn, codec) = tx.parts();
            if grace.is_zero() {
                query::end_older_keys(conn, &endpoint.id, None)?;
            } else if endpoint.older_keys(now).count() >= MAX_OLDER_KEYS {
                // Each of them signs each attempt.
                return Ok(Err(Error::ManyKeys(MAX_OLDER_KEYS)));
            }
            query::add_keys(conn, codec, &endpoint.id, &keys, now, now + grace)?;
            Ok(Ok(None))
        })
        .await?;
        Ok(shown)
    }

    /// Ends one older key of an endpoint: it signs nothing more.
    ///
    /// # Errors
    /// [`Error::NotFound`], also of a key that has ended or is the present one.
    pub async fn end_key(&self, id: &EndpointId, key: &str) -> Result<(), Error> {
        let (key, now) = (key.to_owned(), self.now());
        self.edit(id, move |tx, endpoint| {
            let found = endpoint.older_keys(now).find(|(keys, _)| keys.id() == key);
            let Some((keys, _)) = found else {
                return Ok(Err(Error::NotFound("key")));
            };
            query::end_older_keys(tx.conn(), &endpoint.id, Some(keys.created_at))?;
            Ok(Ok(None))
        })
        .await?;
        Ok(())
    }

    /// Publishes one `postrider.test` event to this endpoint alone, whatever it wants.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn test_endpoint(&self, id: &EndpointId) -> Result<Receipt, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let data =
            RawValue::from_string(r#"{"message":"This is a test event from Postrider."}"#.into())
                .map_err(|error| Error::field("data", error.to_string()))?;
        let event_type =
            EventType::parse("postrider.test").map_err(|detail| Error::field("type", detail))?;
        let event = NewEvent {
            tenant: endpoint.tenant,
            ..NewEvent::new(event_type, Content::Data(data))
        };
        let sealed = event
            .seal(self.now())
            .map_err(|error| Error::of_event(error, ""))?;
        let only = Some(id.clone());
        let receipts = self
            .publish_sealed(vec![Arc::new(sealed)], only, |_| "id".into())
            .await?;
        receipts
            .into_iter()
            .next()
            .ok_or(Error::NotFound("endpoint"))
    }

    /// One endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let endpoint = self.find_endpoint(id).await?;
        self.view(endpoint).await
    }

    /// A page of endpoints, newest first, and where the next one begins.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn endpoints(
        &self,
        list: EndpointQuery,
    ) -> Result<(Vec<EndpointView>, Option<String>), Error> {
        let filter = query::EndpointFilter {
            tenant: list.tenant,
            paused: list.paused,
            search: list.search,
        };
        let page = Page {
            after: list.after,
            limit: list.limit + 1,
        };
        let mut found = self
            .read("endpoints", move |conn, codec| {
                query::endpoints_page(conn, codec, &filter, &page)
            })
            .await?;
        let next = next_key(&mut found, list.limit, |endpoint| endpoint.id.to_string());
        let mut views = Vec::with_capacity(found.len());
        for endpoint in found {
            views.push(self.view(endpoint).await?);
        }
        Ok((views, next))
    }

    pub(super) async fn find_endpoint(&self, id: &EndpointId) -> Result<Endpoint, Error> {
        let id = id.clone();
        let found = self
            .read("endpoint", move |conn, codec| {
                query::endpoint(conn, codec, &id)
            })
            .await?;
        found.ok_or(Error::NotFound("endpoint"))
    }

    /// Whose endpoint it is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn tenant_of_endpoint(&self, id: &EndpointId) -> Result<Tenant, Error> {
        let id = id.clone();
        let found = self
            .read("tenant", move |conn, _| {
                query::tenant_of_endpoint(conn, &id)
            })
            .await?;
        found.ok_or(Error::NotFound("endpoint"))
    }

    /// What is being done for an endpoint: as its supervisor knows, or where that is another
    /// process's, as the database does.
    pub(super) async fn inspect(&self, endpoint: &Endpoint) -> Option<Live> {
        let id = endpoint.id.clone();
        if self.shared.leases.of(Shard::of(&id)).is_some() {
            return self.registry.send(InspectEndpoint(id)).await.ok().flatten();
        }
        let (limit, clock) = (endpoint.rate_limit, Arc::clone(&self.shared.clock));
        let read = move |conn: &mut _, _: &_| {
            let in_flight =
                usize::try_from(query::backlog(conn, &id)?.sending).unwrap_or(usize::MAX);
            let mut limiter = Seed::read(conn, &id, limit, &*clock)?.limiter(&*clock, Vec::new());
            Ok(Live::new(in_flight, false, &mut limiter, &*clock))
        };
        self.read("another node's endpoint", read).await.ok()
    }

    /// Tells the registry that something is due at an endpoint.
    pub(super) fn nudge(&self, id: &EndpointId) {
        if self.shared.leases.for_new_work(id).is_some() {
            self.registry.do_send(Nudge(id.clone()));
        } else {
            self.shared.hints.send(Hint::Due(vec![id.clone()]));
        }
    }

    async fn view(&self, endpoint: Endpoint) -> Result<EndpointView, Error> {
        let id = endpoint.id.clone();
        let (stored, backlog) = self
            .read("health", move |conn, _| {
                Ok((query::health(conn, &id)?, query::backlog(conn, &id)?))
            })
            .await?;
        let state = stored.health;
        let live = self.inspect(&endpoint).await;
        let estimated_drain = endpoint
            .rate_limit
            .drain_time(backlog.pending - backlog.held.min(backlog.pending));
        let next_slot_at = live.and_then(|live| live.next_slot_at);
        let health = EndpointHealth {
            state,
            backlog,
            next_slot_at,
            estimated_drain,
        };
        Ok(EndpointView { endpoint, health })
    }

    /// Reads an endpoint, changes it and writes it in one transaction, then tells its supervisor.
    async fn edit<F>(&self, id: &EndpointId, mut change: F) -> Result<Endpoint, Error>
    where
        F: FnMut(&mut Tx<'_>, &mut Endpoint) -> Result<Edited, crate::store::StoreError>
            + Send
            + 'static,
    {
        let of_id = id.clone();
        let (edited, health) = self
            .shared
            .committer
            .run(move |tx| {
                let Some(mut endpoint) = tx.endpoint_to_change(&of_id)? else {
                    return Ok(Err(Error::NotFound("endpoint")));
                };
                let health = match change(tx, &mut endpoint)? {
                    Ok(health) => health,
                    Err(refused) => return Ok(Err(refused)),
                };
                endpoint.version += 1;
                let (conn, codec) = tx.parts();
                query::update_endpoint(conn, codec, &endpoint)?;
                // With what the change wrote beside the endpoint's own row.
                let edited =
                    query::endpoint(conn, codec, &of_id)?.ok_or(Error::NotFound("endpoint"));
                Ok(edited.map(|edited| (edited, health)))
            })
            .await??;
        self.tell(edited.clone(), health).await;
        Ok(edited)
    }

    async fn tell(&self, endpoint: Endpoint, health: Option<StoredHealth>) {
        let _ = self.shared.happenings.send(Happening::Changed {
            endpoint: endpoint.id.clone(),
        });
        let changed = EndpointChanged {
            endpoint: Arc::new(endpoint),
            health,
        };
        // An engine that is stopping sends nothing more in any case.
        let _ = self.registry.send(changed).await;
        self.shared.hints.send(Hint::Changed);
    }

    /// The header that carries the event's id is not an endpoint's to give.
    fn check_headers(&self, settings: &Settings) -> Result<(), Error> {
        let taken = self
            .shared
            .config
            .event_id_header
            .as_ref()
            .map(|name| name.to_ascii_lowercase());
        match taken.filter(|name| settings.headers.contains_key(name)) {
            Some(name) => {
                let detail = "carries the event's id here (`event_id_header`) and cannot be given";
                Err(Error::field(format!("headers.{name}"), detail))
            }
            None => Ok(()),
        }
    }

    /// The address policy's verdict on a URL that is about to be stored.
    async fn judge(&self, settings: &Settings, tenant: &Tenant) -> Result<(), Error> {
        let policy = &self.shared.policy;
        let refuse = |blocked: crate::sender::guard::Blocked| Error::field("url", blocked.remedy());
        policy.check_literal(&settings.url).map_err(refuse)?;
        if let Some(Host::Domain(name)) = settings.url.host() {
            // A name that does not resolve yet is accepted, unless it is one for this machine.
            let lookup = self.shared.resolver.lookup(name.to_owned(), tenant.clone());
            let addresses = tokio::time::timeout(WRITE_LOOKUP, lookup)
                .await
                .unwrap_or(Ok(Vec::new()));
            let addresses = addresses.unwrap_or_default();
            policy.check_resolved(name, &addresses).map_err(refuse)?;
        }
        Ok(())
    }
}
