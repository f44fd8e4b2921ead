//! Sessions of browsers, and links to a tenant's own page.
//!
//! What they say is signed with a key that the database keeps, so that each of its processes
//! understands those that another one has given out; nothing else is stored.

use std::time::Duration;

use super::{Error, Postrider};
use crate::domain::access::{Grant, Scope, TokenHash};
use crate::domain::clock::Timestamp;
use crate::domain::ids::Tenant;
use crate::domain::session::{
    Holder, MAX_LINK_LASTS, PORTAL_SESSION_LASTS, Purpose, SESSION_LASTS, Session, SessionKey,
};

/// A session that was opened.
#[derive(Debug, Clone)]
pub(crate) struct OpenSession {
    /// What the browser shows from now on. A secret.
    pub(crate) credential: String,
    /// What it sends beside it with whatever changes something.
    pub(crate) csrf: String,
    /// What it says.
    pub(crate) session: Session,
}

/// A link that opens a tenant's own page.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PortalLink {
    /// What the link has to carry. A secret.
    pub credential: String,
    /// How long it is good for.
    pub expires_at: Timestamp,
}

impl Postrider {
    fn session_key(&self) -> &SessionKey {
        &self.shared.session_key
    }

    /// Opens a session for the bearer of a token; whether it is a right one is asked of each call.
    pub(crate) fn open_session(&self, token: TokenHash) -> OpenSession {
        self.open(Holder::Token(token), SESSION_LASTS)
    }

    /// Opens a session for who has a portal link; `None` where it is none, or has ended.
    pub(crate) fn redeem_portal_link(&self, credential: &str) -> Option<OpenSession> {
        let link = self
            .session_key()
            .verify(Purpose::PortalLink, credential, self.now())?;
        Some(self.open(link.holder, PORTAL_SESSION_LASTS))
    }

    fn open(&self, holder: Holder, lasts: Duration) -> OpenSession {
        let session = Session {
            holder,
            expires_at: self.now() + lasts,
        };
        let credential = self.session_key().sign(Purpose::Session, &session);
        let csrf = self.session_key().csrf(&credential);
        OpenSession {
            credential,
            csrf,
            session,
        }
    }

    /// The session that a browser shows; `None` where it is none, or has ended.
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

    /// Whether `given` is what belongs to this session, in constant time.
    pub(crate) fn is_csrf_of(&self, credential: &str, given: &str) -> bool {
        self.session_key().is_csrf(credential, given)
    }

    /// What the holder of a session, or a token's bearer, may do now; `None` where the token is
    /// none, or gone.
    pub(crate) fn grant_of_holder(&self, holder: &Holder) -> Option<Grant> {
        match holder {
            Holder::Token(hash) => self.shared.tokens.grant(hash),
            Holder::Portal(tenant) => Some(Grant {
                scope: Scope::Portal,
                tenant: Some(tenant.clone()),
            }),
        }
    }

    /// Makes a link that opens the tenant's own page: its endpoints and deliveries, and no one
    /// else's.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is to last for less than a minute, or for more than a week.
    pub fn portal_link(&self, tenant: Tenant, lasts: Duration) -> Result<PortalLink, Error> {
        if !(Duration::from_secs(60)..=MAX_LINK_LASTS).contains(&lasts) {
            let most = MAX_LINK_LASTS.as_secs();
            return Err(Error::field(
                "expires_s",
                format!("must be 60 to {most} (a week)"),
            ));
        }
        let expires_at = self.now() + lasts;
        let link = Session {
            holder: Holder::Portal(tenant),
            expires_at,
        };
        Ok(PortalLink {
            credential: self.session_key().sign(Purpose::PortalLink, &link),
            expires_at,
        })
    }
}
