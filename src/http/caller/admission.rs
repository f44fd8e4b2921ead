//! Admission of a request: behind a host's login, by a bearer token, or by a session's cookie.

use actix_web::HttpRequest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::gate::Gate;
use super::rejection::{Credential, CsrfRule, Rejection};
use super::session::{CSRF_HEADER, bearer};
use crate::domain::access::{Grant, TokenHash};
use crate::domain::clock::Timestamp;
use crate::domain::session::SessionSubject;

/// The rights that a request was admitted with.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    pub(super) grant: Grant,
    by: By,
}

/// Credential of an admission.
#[derive(Debug, Clone)]
enum By {
    /// The host has authenticated the caller.
    Host,
    Bearer(SessionSubject),
    Session(SessionSubject, Timestamp),
}

impl Admission {
    /// Admits a request.
    pub(crate) async fn of(request: &HttpRequest) -> Result<Self, Rejection> {
        let gate = Gate::of(request).ok_or(Rejection::NoCredential)?;
        if gate.is_trusting() {
            return by_host(request);
        }
        match bearer(request) {
            Some(token) => by_bearer(&gate, request, &token).await,
            None => by_cookie(&gate, request).await,
        }
    }

    /// Returns a text that is the same for each call with the same credential.
    pub(super) fn caller(&self) -> String {
        match &self.by {
            By::Host => "host".to_owned(),
            By::Bearer(subject) | By::Session(subject, _) => match subject {
                SessionSubject::Token(hash) => {
                    format!("token:{}", BASE64_STANDARD.encode(hash.bytes()))
                }
                SessionSubject::Portal(tenant) => format!("portal:{tenant}"),
            },
        }
    }

    /// Returns true while the credential is still valid with the same rights.
    pub(super) fn still_holds(&self, gate: &Gate) -> bool {
        let subject = match &self.by {
            By::Host => return true,
            By::Session(_, until) if *until <= gate.postrider.now() => return false,
            By::Session(subject, _) | By::Bearer(subject) => subject,
        };
        gate.known_grant(subject).as_ref() == Some(&self.grant)
    }
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r str> {
    request.headers().get(name)?.to_str().ok()
}

fn by_host(request: &HttpRequest) -> Result<Admission, Rejection> {
    // Browsers send the host's cookie with requests from any page, and name the page's site in this
    // header (Fetch Metadata).
    let site = header(request, "sec-fetch-site").unwrap_or("none");
    if !request.method().is_safe() && !["same-origin", "none"].contains(&site) {
        return Err(Rejection::Csrf(CsrfRule::SameSite));
    }
    Ok(Admission {
        grant: Grant::ALL,
        by: By::Host,
    })
}

async fn by_bearer(
    gate: &Gate,
    request: &HttpRequest,
    token: &str,
) -> Result<Admission, Rejection> {
    let subject = SessionSubject::Token(TokenHash::of(token));
    let grant = gate.grant(request, &subject).await;
    Ok(Admission {
        grant: grant.ok_or_else(|| gate.refuse(request, Credential::Token))?,
        by: By::Bearer(subject),
    })
}

async fn by_cookie(gate: &Gate, request: &HttpRequest) -> Result<Admission, Rejection> {
    let open = gate.session_of(request).ok_or(Rejection::NoCredential)?;
    let given = header(request, CSRF_HEADER).unwrap_or_default();
    // The cookie is sent with a request from any page; the CSRF value is not.
    if !request.method().is_safe() && !gate.postrider.is_csrf_of(&open.credential, given) {
        return Err(Rejection::Csrf(CsrfRule::Header));
    }
    let subject = open.session.subject;
    let grant = gate.grant(request, &subject).await;
    Ok(Admission {
        grant: grant.ok_or(Rejection::UnknownCredential(Credential::Session))?,
        by: By::Session(subject, open.session.expires_at),
    })
}
