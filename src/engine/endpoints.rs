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
use crate::domain::secret::Secret;
use crate::domain::settings::{Change, EndpointChange, Settings};
use crate::store::query::{self, Page};
use crate::store::{Hint, Tx};

/// The longest that a rotated secret goes on signing: seven days.
pub const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The most keys of an endpoint that sign at once.
const MAX_KEYS: i64 = 5;

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
        change: EndpointChange,
        secret: Option<Secret>,
    ) -> Result<EndpointView, Error> {
        let settings = Settings::create(change)?;
        self.check_headers(&settings)?;
        self.judge(&settings).await?;
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
                    ..Endpoint::resolve(id.clone(), tenant.clone(), settings.clone(), codec.defaults(), now)
                };
                query::insert_endpoint(conn, codec, &endpoint)?;
                query::add_keys(conn, codec, &endpoint.id, &keys, now, now)?;
                Ok(endpoint)
            })
            .await?;
        tracing::info!(endpoint = %endpoint.id, "endpoint {} was created", endpoint.id);
        let _ = self.shared.happenings.send(Happening::Changed { endpoint: endpoint.id.clone() });
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
            self.judge(&changed).await?;
        }
        let orders = change.ordering != Change::Keep || change.on_failed != Change::Keep;
        let now = self.now();
        // Judged on what was read above, applied to what stands now.
        let endpoint =
            self.edit(id, false, move |_, endpoint| match endpoint.settings.changed(change.clone()) {
                Ok(settings) => {
                    endpoint.settings = settings;
                    endpoint.updated_at = now;
                    Ok(Ok(()))
                }
                Err(errors) => Ok(Err(Error::Invalid(errors))),
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
        let deleted =
            self.shared.committer.run(move |tx| query::delete_endpoint(tx.conn(), &of_id, now)).await?;
        if !deleted {
            return Err(Error::NotFound("endpoint"));
        }
        // To its supervisor a deleted endpoint is one that is paused for good.
        endpoint.paused = Some(PauseReason::Operator);
        endpoint.version = i64::MAX;
        self.tell(endpoint, false).await;
        let (shared, deleted) = (Arc::clone(&self.shared), vec![id.clone()]);
        tokio::spawn(async move {
            if let Err(error) = super::maintenance::fail_overdue(&shared, deleted).await {
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
        let endpoint = self.edit(id, false, move |tx, endpoint| {
            if endpoint.is_active() {
                endpoint.paused = Some(PauseReason::Operator);
                tx.announce_pause(endpoint, PauseReason::Operator, now)?;
            }
            Ok(Ok(()))
        });
        self.view(endpoint.await?).await
    }

    /// Goes on sending, whatever the reason for the pause was, and forgets failures.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume_endpoint(&self, id: &EndpointId) -> Result<EndpointView, Error> {
        let endpoint = self.edit(id, true, |tx, endpoint| {
            endpoint.paused = None;
            query::clear_health(tx.conn(), &endpoint.id)?;
            Ok(Ok(()))
        });
        self.view(endpoint.await?).await
    }

    /// The secret that a consumer should know.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn endpoint_secret(&self, id: &EndpointId) -> Result<Secret, Error> {
        let endpoint = self.find_endpoint(id).await?;
        endpoint.present_keys().map(|keys| keys.secret.clone()).ok_or(Error::NotFound("secret"))
    }

    /// Gives an endpoint new keys; those before sign beside them until `grace` ends. Returns the secret;
    /// the public key is shown with the endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a grace of more than seven days, and [`Error::ManyKeys`].
    pub async fn rotate_secret(
        &self,
        id: &EndpointId,
        secret: Option<Secret>,
        grace: Duration,
    ) -> Result<Secret, Error> {
        if grace > MAX_GRACE {
            return Err(Error::field("grace_s", "at most 604,800 seconds (7 days)"));
        }
        let (keys, now) = (LiveKeys::fresh(secret), self.now());
        let secret = keys.secret.clone();
        self.edit(id, false, move |tx, endpoint| {
            let (conn, codec) = tx.parts();
            // Each of them signs each attempt.
            if query::live_keys(conn, &endpoint.id, now)? >= MAX_KEYS {
                return Ok(Err(Error::ManyKeys(MAX_KEYS)));
            }
            query::add_keys(conn, codec, &endpoint.id, &keys, now, now + grace)?;
            Ok(Ok(()))
        })
        .await?;
        Ok(secret)
    }

    /// Publishes one `postrider.test` event to this endpoint alone, whatever it wants.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn test_endpoint(&self, id: &EndpointId) -> Result<Receipt, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let data = RawValue::from_string(r#"{"message":"This is a test event from Postrider."}"#.into())
            .map_err(|error| Error::field("data", error.to_string()))?;
        let event_type = EventType::parse("postrider.test").map_err(|detail| Error::field("type", detail))?;
        let event = NewEvent { tenant: endpoint.tenant, ..NewEvent::new(event_type, Content::Data(data)) };
        let sealed = event.seal(self.now()).map_err(|error| Error::of_event(error, ""))?;
        let only = Some(id.clone());
        let receipts = self.publish_sealed(vec![Arc::new(sealed)], only, |_| "id".into()).await?;
        receipts.into_iter().next().ok_or(Error::NotFound("endpoint"))
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
    pub async fn endpoints(&self, list: EndpointQuery) -> Result<(Vec<EndpointView>, Option<String>), Error> {
        let filter = query::EndpointFilter { tenant: list.tenant, paused: list.paused, search: list.search };
        let page = Page { after: list.after, limit: list.limit + 1 };
        let mut found = self
            .read("endpoints", move |conn, codec| query::endpoints_page(conn, codec, &filter, &page))
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
        let found = self.read("endpoint", move |conn, codec| query::endpoint(conn, codec, &id)).await?;
        found.ok_or(Error::NotFound("endpoint"))
    }

    /// Whose endpoint it is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn tenant_of_endpoint(&self, id: &EndpointId) -> Result<Tenant, Error> {
        let id = id.clone();
        let found = self.read("tenant", move |conn, _| query::tenant_of_endpoint(conn, &id)).await?;
        found.ok_or(Error::NotFound("endpoint"))
    }

    /// What is being done for an endpoint: as its supervisor knows, or where that is another process's, as
    /// the database does.
    pub(super) async fn inspect(&self, endpoint: &Endpoint) -> Option<Live> {
        let id = endpoint.id.clone();
        if self.shared.leases.of(Shard::of(&id)).is_some() {
            return self.registry.send(InspectEndpoint(id)).await.ok().flatten();
        }
        let (limit, clock) = (endpoint.rate_limit, Arc::clone(&self.shared.clock));
        let read = move |conn: &mut _, _: &_| {
            let in_flight = usize::try_from(query::backlog(conn, &id)?.sending).unwrap_or(usize::MAX);
            let mut limiter = Seed::read(conn, &id, limit, clock.now())?.limiter(&*clock, Vec::new());
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
        let (state, backlog) = self
            .read("health", move |conn, _| Ok((query::health(conn, &id)?, query::backlog(conn, &id)?)))
            .await?;
        let live = self.inspect(&endpoint).await;
        let estimated_drain =
            endpoint.rate_limit.drain_time(backlog.pending - backlog.held.min(backlog.pending));
        let next_slot_at = live.and_then(|live| live.next_slot_at);
        let health = EndpointHealth { state, backlog, next_slot_at, estimated_drain };
        Ok(EndpointView { endpoint, health })
    }

    /// Reads an endpoint, changes it and writes it in one transaction, then tells its supervisor.
    async fn edit<F>(&self, id: &EndpointId, resumed: bool, mut change: F) -> Result<Endpoint, Error>
    where
        F: FnMut(&mut Tx<'_>, &mut Endpoint) -> Result<Result<(), Error>, crate::store::StoreError>
            + Send
            + 'static,
    {
        let of_id = id.clone();
        let edited = self
            .shared
            .committer
            .run(move |tx| {
                let Some(mut endpoint) = tx.endpoint_to_change(&of_id)? else {
                    return Ok(Err(Error::NotFound("endpoint")));
                };
                if let Err(refused) = change(tx, &mut endpoint)? {
                    return Ok(Err(refused));
                }
                endpoint.version += 1;
                let (conn, codec) = tx.parts();
                query::update_endpoint(conn, codec, &endpoint)?;
                // With what the change wrote beside the endpoint's own row.
                Ok(query::endpoint(conn, codec, &of_id)?.ok_or(Error::NotFound("endpoint")))
            })
            .await??;
        self.tell(edited.clone(), resumed).await;
        Ok(edited)
    }

    async fn tell(&self, endpoint: Endpoint, resumed: bool) {
        let _ = self.shared.happenings.send(Happening::Changed { endpoint: endpoint.id.clone() });
        let changed = EndpointChanged { endpoint: Arc::new(endpoint), resumed };
        // An engine that is stopping sends nothing more in any case.
        let _ = self.registry.send(changed).await;
        self.shared.hints.send(Hint::Changed);
    }

    /// The header that carries the event's id is not an endpoint's to give.
    fn check_headers(&self, settings: &Settings) -> Result<(), Error> {
        let taken = self.shared.config.event_id_header.as_ref().map(|name| name.to_ascii_lowercase());
        match taken.filter(|name| settings.headers.contains_key(name)) {
            Some(name) => {
                let detail = "carries the event's id here (`event_id_header`) and cannot be given";
                Err(Error::field(format!("headers.{name}"), detail))
            }
            None => Ok(()),
        }
    }

    /// The address policy's verdict on a URL that is about to be stored.
    async fn judge(&self, settings: &Settings) -> Result<(), Error> {
        let policy = &self.shared.policy;
        let refuse = |blocked: crate::sender::guard::Blocked| Error::field("url", blocked.remedy());
        policy.check_literal(&settings.url).map_err(refuse)?;
        if let Some(Host::Domain(name)) = settings.url.host() {
            // A name that does not resolve yet is accepted, unless it is one for this machine.
            let addresses = self.shared.resolver.lookup(name.to_owned()).await.unwrap_or_default();
            policy.check_resolved(name, &addresses).map_err(refuse)?;
        }
        Ok(())
    }
}
