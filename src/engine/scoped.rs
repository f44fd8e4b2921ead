//! The handle for one caller: each call checks the caller's grant and delegates.
//!
//! A call is defined on the scope that it needs, and a [`Scoped`] of that scope exists only for a
//! grant that includes it. Each call also checks the tenant: objects of other tenants are not
//! found.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;

use super::{
    DeliveryView, EndpointStats, EndpointView, Error, EventView, MetricsFormat, Node, Notification,
    OlderKey, Overview, PortalLink, Postrider, Receipt, RecoveryPreview,
};
use crate::domain::access::{Forbidden, Grant, Scope, Token};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::event::{NewEvent, StoredEvent};
use crate::domain::idempotency;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, RecoveryId, Tenant, TokenId};
use crate::domain::query::{DeliveryQuery, EndpointQuery, EventQuery, Listed, Page, TokenQuery};
use crate::domain::recovery::{Include, Recovery};
use crate::domain::secret::{Secret, SigningSecret};
use crate::domain::settings::EndpointChange;
use crate::domain::{Field, Resource};

/// A scope as a type.
pub(crate) trait Needs {
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident)+) => { $(
        #[derive(Debug)]
        pub(crate) struct $name;
        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+ };
}
needs! { Read Publish Portal Admin }

/// The handle of a caller whose grant includes the scope `N`.
#[derive(Debug)]
pub(crate) struct Scoped<N> {
    postrider: Postrider,
    grant: Grant,
    scope: PhantomData<N>,
}

impl Postrider {
    /// Returns the calls that `grant` allows.
    ///
    /// # Errors
    /// [`Forbidden::Scope`].
    pub(crate) fn as_caller<N: Needs>(&self, grant: Grant) -> Result<Scoped<N>, Forbidden> {
        grant.require(N::SCOPE)?;
        Ok(Scoped {
            postrider: self.clone(),
            grant,
            scope: PhantomData,
        })
    }
}

/// Calls about one endpoint or delivery: each checks its tenant, and then is the handle's.
macro_rules! delegate {
    ($owner:ident: $id:ty; $($call:ident($($arg:ident: $of:ty),*) -> $answer:ty;)+) => { $(
        pub(crate) async fn $call(&self, id: &$id $(, $arg: $of)*) -> Result<$answer, Error> {
            self.$owner(id).await?.$call(id $(, $arg)*).await
        }
    )+ };
}

impl<N> Scoped<N> {
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Returns the tenant of objects that the caller creates without naming one.
    pub(crate) fn own_tenant(&self) -> Result<Tenant, Error> {
        Ok(self.grant.tenant(None)?)
    }

    fn require(&self, tenant: &Tenant, what: Resource) -> Result<(), Error> {
        // Objects of other tenants do not exist for the caller: 403 would reveal them.
        if self.grant.allows_tenant(tenant) {
            Ok(())
        } else {
            Err(Error::NotFound(what))
        }
    }

    async fn of_endpoint(&self, id: &EndpointId) -> Result<&Postrider, Error> {
        if self.grant.tenant.is_some() {
            let tenant = self.postrider.tenant_of_endpoint(id).await?;
            self.require(&tenant, Resource::Endpoint)?;
        }
        Ok(&self.postrider)
    }

    async fn of_delivery(&self, id: &DeliveryId) -> Result<&Postrider, Error> {
        if self.grant.tenant.is_some() {
            let tenant = self.postrider.tenant_of_delivery(id).await?;
            self.require(&tenant, Resource::Delivery)?;
        }
        Ok(&self.postrider)
    }
}

impl Scoped<Read> {
    delegate! { of_endpoint: EndpointId;
        endpoint() -> EndpointView;
        endpoint_stats(window: Duration) -> EndpointStats;
        preview_recovery(include: Include, since: Timestamp, until: Option<Timestamp>) -> RecoveryPreview;
    }

    delegate! { of_delivery: DeliveryId;
        delivery() -> DeliveryView;
    }

    pub(crate) async fn endpoints(
        &self,
        mut query: EndpointQuery,
        page: Page,
    ) -> Result<Listed<EndpointView>, Error> {
        query.tenant = self.grant.tenant_filter(query.tenant)?;
        self.postrider.endpoints(query, page).await
    }

    pub(crate) async fn recovery(&self, id: &RecoveryId) -> Result<Recovery, Error> {
        let recovery = self.postrider.recovery(id).await?;
        self.require(&recovery.tenant, Resource::Recovery)?;
        Ok(recovery)
    }

    pub(crate) async fn deliveries(
        &self,
        mut query: DeliveryQuery,
        page: Page,
    ) -> Result<Listed<Delivery>, Error> {
        query.tenant = self.grant.tenant_filter(query.tenant)?;
        self.postrider.deliveries(query, page).await
    }

    pub(crate) async fn event(
        &self,
        tenant: Option<Tenant>,
        id: &EventId,
    ) -> Result<EventView, Error> {
        self.postrider.event(&self.grant.tenant(tenant)?, id).await
    }

    pub(crate) async fn events(
        &self,
        mut query: EventQuery,
        page: Page,
    ) -> Result<Listed<Arc<StoredEvent>>, Error> {
        query.tenant = self.grant.tenant_filter(query.tenant)?;
        self.postrider.events(query, page).await
    }

    pub(crate) async fn overview(
        &self,
        tenant: Option<Tenant>,
        max_age: Duration,
    ) -> Result<Arc<Overview>, Error> {
        let tenant = self.grant.tenant_filter(tenant)?;
        self.postrider.recent_overview(&tenant, max_age).await
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.grant.all_tenants()?;
        self.postrider.nodes().await
    }

    pub(crate) async fn metrics(&self, format: MetricsFormat) -> Result<String, Error> {
        self.grant.all_tenants()?;
        Ok(self.postrider.metrics(format).await)
    }

    /// Subscribes to all tenants' notifications; filter them with
    /// [`owns_endpoint`](Self::owns_endpoint).
    pub(crate) fn subscribe(&self) -> Receiver<Notification> {
        self.postrider.subscribe()
    }

    pub(crate) async fn owns_endpoint(&self, id: &EndpointId) -> Result<bool, Error> {
        let tenant = self.postrider.tenant_of_endpoint(id).await?;
        Ok(self.grant.allows_tenant(&tenant))
    }
}

impl Scoped<Publish> {
    pub(crate) fn idempotent_event_id(&self, request: &idempotency::Request<'_>) -> EventId {
        self.postrider.idempotent_event_id(request)
    }

    pub(crate) async fn publish(&self, event: NewEvent) -> Result<Receipt, Error> {
        self.grant.tenant(Some(event.tenant.clone()))?;
        self.postrider.publish(event).await
    }

    pub(crate) async fn publish_once(&self, event: NewEvent) -> Result<Receipt, Error> {
        self.grant.tenant(Some(event.tenant.clone()))?;
        self.postrider.publish_once(event).await
    }

    pub(crate) async fn publish_batch(&self, events: Vec<NewEvent>) -> Result<Vec<Receipt>, Error> {
        for event in &events {
            self.grant.tenant(Some(event.tenant.clone()))?;
        }
        self.postrider.publish_batch(events).await
    }
}

impl Scoped<Portal> {
    delegate! { of_endpoint: EndpointId;
        update_endpoint(change: EndpointChange) -> EndpointView;
        delete_endpoint() -> ();
        pause_endpoint() -> EndpointView;
        resume_endpoint() -> EndpointView;
        test_endpoint() -> Receipt;
        endpoint_secrets() -> (Secret, Vec<OlderKey>);
        rotate_secret(secret: Option<SigningSecret>, grace: Duration) -> SigningSecret;
        end_key(key: &str) -> ();
        recover_endpoint(include: Include, since: Timestamp, until: Option<Timestamp>) -> Recovery;
    }

    delegate! { of_delivery: DeliveryId;
        retry_delivery() -> DeliveryView;
        cancel_delivery() -> DeliveryView;
        release_delivery() -> DeliveryView;
    }

    pub(crate) async fn create_endpoint(
        &self,
        tenant: Option<Tenant>,
        change: EndpointChange,
        secret: Option<SigningSecret>,
    ) -> Result<EndpointView, Error> {
        let tenant = self.grant.tenant(tenant)?;
        self.postrider.create_endpoint(tenant, change, secret).await
    }
}

impl Scoped<Admin> {
    /// Creates a token that has no more rights than the caller.
    pub(crate) async fn create_token(
        &self,
        name: &str,
        scope: Scope,
        tenant: Option<Tenant>,
    ) -> Result<(Token, String), Error> {
        let tenant = self.grant.tenant_filter(tenant)?;
        if scope == Scope::Portal && tenant.is_none() {
            let detail = "is required with the scope `portal`, which belongs to one tenant";
            return Err(Error::field(Field::Tenant, detail));
        }
        self.postrider
            .create_token(name, Grant { scope, tenant })
            .await
    }

    pub(crate) async fn tokens(
        &self,
        mut query: TokenQuery,
        page: Page,
    ) -> Result<Listed<Token>, Error> {
        query.tenant = self.grant.tenant_filter(query.tenant)?;
        self.postrider.tokens(query, page).await
    }

    pub(crate) async fn revoke_token(&self, id: &TokenId) -> Result<(), Error> {
        let tenant = self.grant.tenant.as_ref();
        self.postrider.revoke_token(id, tenant).await
    }

    pub(crate) fn portal_link(&self, tenant: Tenant, lasts: Duration) -> Result<PortalLink, Error> {
        let tenant = self.grant.tenant(Some(tenant))?;
        self.postrider.portal_link(tenant, lasts)
    }
}
