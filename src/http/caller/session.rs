//! Credentials of a request, and the sessions that browsers exchange them for.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::header::AUTHORIZATION;

use super::gate::Gate;
use super::rejection::{Credential, Rejection};
use crate::domain::access::{Grant, TokenHash};
use crate::engine::OpenSession;

/// The cookie that holds a session.
pub(crate) const COOKIE: &str = "postrider_session";

/// The header with the CSRF value, required on state-changing requests with a cookie.
pub(crate) const CSRF_HEADER: &str = "x-csrf-token";

/// Credential to exchange for a session.
pub(crate) enum Exchange {
    Token(String),
    PortalLink(String),
}

/// Returns the token in the `Authorization` header (RFC 6750).
pub(crate) fn bearer(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| given.trim().to_owned())
}

/// Builds the cookie: for this mount only, hidden from scripts, not sent by other sites.
pub(crate) fn cookie(
    path: String,
    secure: bool,
    credential: String,
    lasts: Duration,
) -> Cookie<'static> {
    let seconds = lasts.as_secs().try_into().unwrap_or(0);
    Cookie::build(COOKIE, credential)
        .path(path)
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(secure)
        .max_age(actix_web::cookie::time::Duration::seconds(seconds))
        .finish()
}

impl Gate {
    /// Opens a session for a valid credential.
    pub(crate) async fn open_session(
        &self,
        request: &HttpRequest,
        exchange: Exchange,
    ) -> Result<(OpenSession, Grant), Rejection> {
        let (opened, credential) = match exchange {
            Exchange::Token(token) => {
                let opened = self.postrider.open_session(TokenHash::of(&token));
                (Some(opened), Credential::Token)
            }
            Exchange::PortalLink(link) => {
                let opened = self.postrider.redeem_portal_link(&link);
                (opened, Credential::PortalLink)
            }
        };
        let opened = opened.ok_or_else(|| self.refuse(request, credential))?;
        let grant = self.grant(request, &opened.session.subject).await;
        let grant = grant.ok_or_else(|| self.refuse(request, credential))?;
        Ok((opened, grant))
    }

    /// Returns the session in the cookie, with its current rights.
    pub(crate) async fn current_session(
        &self,
        request: &HttpRequest,
    ) -> Result<(OpenSession, Grant), Rejection> {
        let open = self.session_of(request).ok_or(Rejection::NoSession)?;
        let grant = self.grant(request, &open.session.subject).await;
        Ok((open, grant.ok_or(Rejection::NoSession)?))
    }

    pub(super) fn session_of(&self, request: &HttpRequest) -> Option<OpenSession> {
        self.postrider.session(request.cookie(COOKIE)?.value())
    }
}
