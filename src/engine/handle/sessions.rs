//! Browser sessions, and portal links for tenants.
//!
//! They are signed with a database key, so that all nodes accept them; nothing else is stored.

use std::time::Duration;

use super::Postrider;
use crate::domain::Field;
use crate::domain::access::{Grant, Scope, TokenHash};
use crate::domain::clock::Timestamp;
use crate::domain::ids::Tenant;
use crate::domain::random::bytes;
use crate::domain::session::{
    MAX_LINK_LASTS, PORTAL_SESSION_LASTS, Purpose, SESSION_LASTS, Session, SessionKey,
    SessionSubject,
};
use crate::engine::error::Error;

/// An open session.
#[derive(Debug, Clone)]
pub(crate) struct OpenSession {
    /// The credential for the browser. A secret.
    pub(crate) credential: String,
    /// The CSRF token, required on state-changing requests.
    pub(crate) csrf: String,
    /// Content of the session.
    pub(crate) session: Session,
}

/// A link that lets a tenant manage its own endpoints.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PortalLink {
    /// The credential in the link. A secret.
    pub credential: String,
    /// Time at which it expires.
    pub expires_at: Timestamp,
}

impl Postrider {
    fn nonce(&self) -> u64 {
        u64::from_be_bytes(bytes(self.context().random()))
    }

    fn session_key(&self) -> &SessionKey {
        &self.inner.session_key
    }

    /// Opens a session for the bearer of a token, which is checked on each request.
    pub(crate) fn open_session(&self, token: TokenHash) -> OpenSession {
        self.open(SessionSubject::Token(token), SESSION_LASTS)
    }

    /// Opens a session for a portal link; `None` if it is invalid or expired.
    pub(crate) fn redeem_portal_link(&self, credential: &str) -> Option<OpenSession> {
        let link = self
            .session_key()
            .verify(Purpose::PortalLink, credential, self.now())?;
        Some(self.open(link.subject, PORTAL_SESSION_LASTS))
    }

    fn open(&self, subject: SessionSubject, lasts: Duration) -> OpenSession {
        let session = Session {
            subject,
            expires_at: self.now() + lasts,
        };
        let credential = self
            .session_key()
            .sign(Purpose::Session, &session, self.nonce());
        let csrf = self.session_key().csrf(&credential);
        OpenSession {
            credential,
            csrf,
            session,
        }
    }

    /// Returns a browser's session; `None` if it is invalid or expired.
    pub(crate) fn session(&self, credential: &str) -> Option<OpenSession> {
        let session = self
            .session_key()
            .verify(Purpose::Session, credential, self.now())?;
        let csrf = self.session_key().csrf(credential);
        Some(OpenSession {
            credential: credential.to_owned(),
            csrf,
            session,
        })
    }

    /// Checks the CSRF token of a session, in constant time.
    pub(crate) fn is_csrf_of(&self, credential: &str, given: &str) -> bool {
        self.session_key().is_csrf(credential, given)
    }

    /// Returns the current grant of a session's subject, or of a token's bearer; `None` if the
    /// token is unknown or revoked.
    pub(crate) fn grant_of_subject(&self, subject: &SessionSubject) -> Option<Grant> {
        match subject {
            SessionSubject::Token(hash) => self.inner.tokens.grant(hash),
            SessionSubject::Portal(tenant) => Some(Grant {
                scope: Scope::Portal,
                tenant: Some(tenant.clone()),
            }),
        }
    }

    /// Creates a link that lets a tenant manage its own endpoints and deliveries, and nothing else.
    ///
    /// # Errors
    /// [`Error::Invalid`] for less than a minute, or more than a week.
    pub fn portal_link(&self, tenant: Tenant, lasts: Duration) -> Result<PortalLink, Error> {
        if !(Duration::from_secs(60)..=MAX_LINK_LASTS).contains(&lasts) {
            let most = MAX_LINK_LASTS.as_secs();
            return Err(Error::field(
                Field::Lifetime,
                format!("must be 60 to {most} (a week)"),
            ));
        }
        let expires_at = self.now() + lasts;
        let link = Session {
            subject: SessionSubject::Portal(tenant),
            expires_at,
        };
        Ok(PortalLink {
            credential: self
                .session_key()
                .sign(Purpose::PortalLink, &link, self.nonce()),
            expires_at,
        })
    }
}
