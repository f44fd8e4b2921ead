//! Sessions and portal links.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::access::{Grant, Scope};
use crate::domain::clock::Timestamp;
use crate::domain::ids::Tenant;
use crate::domain::session::SessionSubject;
use crate::engine::OpenSession;
use crate::http::native::body::whole;

/// The credential that opened a session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SessionKind {
    Token,
    Portal,
    /// No session: the host authenticates callers.
    Host,
}

/// A browser's session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionBody {
    pub(crate) scope: Scope,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) kind: SessionKind,
    /// Value of the header `x-csrf-token`, required on state-changing requests.
    pub(crate) csrf: Option<String>,
    pub(crate) expires_at: Option<Timestamp>,
}

impl SessionBody {
    pub(crate) const HOST: Self = Self {
        scope: Scope::Admin,
        tenant: None,
        kind: SessionKind::Host,
        csrf: None,
        expires_at: None,
    };

    pub(crate) fn new(open: &OpenSession, grant: Grant) -> Self {
        let kind = match open.session.subject {
            SessionSubject::Token(_) => SessionKind::Token,
            SessionSubject::Portal(_) => SessionKind::Portal,
        };
        let (csrf, expires_at) = (Some(open.csrf.clone()), Some(open.session.expires_at));
        Self {
            scope: grant.scope,
            tenant: grant.tenant,
            kind,
            csrf,
            expires_at,
        }
    }
}

/// The credential to exchange, unless it is a bearer token in the header.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSession, example = json!({"token": "the operator's token"}))]
pub(crate) struct SessionRequest {
    pub(crate) token: Option<String>,
    pub(crate) portal: Option<String>,
}

/// Validity of a portal link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPortalLink, example = json!({"expires_s": 3600}))]
pub(crate) struct LinkRequest {
    /// Seconds; default: one hour.
    #[schema(minimum = 60, maximum = 604800)]
    #[serde(default, deserialize_with = "whole")]
    pub(crate) expires_s: Option<u64>,
}

/// A link to a tenant's portal.
#[derive(Serialize, ToSchema)]
#[schema(as = PortalLink)]
pub(crate) struct LinkBody {
    #[schema(example = "https://webhooks.example.com/#portal=…")]
    pub(crate) url: String,
    pub(crate) expires_at: Timestamp,
}
