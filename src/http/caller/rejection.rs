//! Reasons to reject a request before it reaches the engine.

use std::time::Duration;

use crate::domain::access::Forbidden;

/// Reason to reject a request. Each API renders it in its own format.
#[derive(Debug, Clone)]
pub(crate) enum Rejection {
    /// No token and no session.
    NoCredential,
    /// No session, where a session is required.
    NoSession,
    /// An invalid, revoked or expired credential.
    UnknownCredential(Credential),
    /// Too many wrong tokens from the caller's network; the time to wait.
    TooManyTries(Duration),
    /// A known caller without the rights.
    Forbidden(Forbidden),
    /// A state-changing request that another page may have sent.
    Csrf(CsrfRule),
}

/// Kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    Token,
    Session,
    PortalLink,
}

/// CSRF rule that a state-changing request broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CsrfRule {
    /// Behind a host's login, the request must come from the same site.
    SameSite,
    /// With a cookie, the request must carry the session's CSRF value.
    Header,
}

impl From<Forbidden> for Rejection {
    fn from(why: Forbidden) -> Self {
        Self::Forbidden(why)
    }
}
