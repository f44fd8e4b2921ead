//! The gate: the tokens that an API is mounted with, and the engine behind it.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use actix_web::{HttpRequest, web};
use subtle::ConstantTimeEq;

use super::rejection::{Credential, Rejection};
use super::throttle::Throttle;
use crate::domain::access::{Grant, TokenHash, check_token};
use crate::domain::session::SessionSubject;
use crate::engine::Postrider;

/// The operator's token, which may do everything. Only its hash is kept.
#[derive(Clone)]
pub struct ApiToken {
    hash: Arc<RwLock<TokenHash>>,
    throttle: Arc<Throttle>,
}

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiToken(***)")
    }
}

impl ApiToken {
    /// Creates the token from its text.
    ///
    /// # Errors
    /// If it is shorter than [`crate::domain::access::MIN_TOKEN_CHARS`], or cannot be sent in a
    /// header.
    pub fn new(token: &str) -> Result<Self, String> {
        check_token(token)?;
        Ok(Self {
            hash: Arc::new(RwLock::new(TokenHash::of(token))),
            throttle: Arc::default(),
        })
    }

    /// Replaces the token wherever this one, or a clone of it, is mounted.
    ///
    /// # Errors
    /// As [`new`](Self::new); the present token stays then.
    pub fn replace(&self, token: &str) -> Result<(), String> {
        check_token(token)?;
        *self.hash.write().unwrap_or_else(PoisonError::into_inner) = TokenHash::of(token);
        Ok(())
    }

    /// Compares hashes in constant time, so that timing does not even reveal the length.
    fn is(&self, hash: &TokenHash) -> bool {
        let own = self.hash.read().unwrap_or_else(PoisonError::into_inner);
        own.bytes().ct_eq(hash.bytes()).into()
    }
}

/// Callers that the API is mounted for.
pub(crate) enum Callers {
    /// Bearers of this token, or of one that was created with it.
    Bearers(ApiToken),
    /// Everyone who gets that far: the host has authenticated them.
    Trusted,
}

/// The engine, and the callers that the API is mounted for.
pub(crate) struct Gate {
    pub(crate) postrider: Postrider,
    pub(crate) callers: Callers,
}

impl Gate {
    /// Returns the gate that a request came through.
    pub(crate) fn of(request: &HttpRequest) -> Option<web::Data<Self>> {
        request.app_data::<web::Data<Self>>().cloned()
    }

    pub(crate) fn is_trusting(&self) -> bool {
        matches!(self.callers, Callers::Trusted)
    }

    fn operator_token(&self) -> Option<&ApiToken> {
        match &self.callers {
            Callers::Bearers(own) => Some(own),
            Callers::Trusted => None,
        }
    }

    /// Returns the current rights of a session's or token's subject, as far as this node knows.
    pub(super) fn known_grant(&self, subject: &SessionSubject) -> Option<Grant> {
        match (subject, self.operator_token()) {
            (SessionSubject::Token(hash), Some(own)) if own.is(hash) => Some(Grant::ALL),
            _ => self.postrider.grant_of_subject(subject),
        }
    }

    /// Returns the current rights of a session's or token's subject.
    pub(super) async fn grant(
        &self,
        request: &HttpRequest,
        subject: &SessionSubject,
    ) -> Option<Grant> {
        let known = self.known_grant(subject);
        match (known, subject) {
            // Another node may have created it a moment ago. A network above the limit of wrong
            // tokens causes no read: it waits until this node learns of the token.
            (None, SessionSubject::Token(hash)) if self.may_guess(request) => {
                self.postrider.grant_of_new(hash).await
            }
            (known, _) => known,
        }
    }

    fn throttle(&self, request: &HttpRequest) -> Option<(&Throttle, IpAddr)> {
        let own = self.operator_token()?;
        Some((&own.throttle, request.peer_addr()?.ip()))
    }

    /// Returns true while the caller's network is below the limit of wrong credentials.
    fn may_guess(&self, request: &HttpRequest) -> bool {
        let throttle = self.throttle(request);
        throttle.is_none_or(|(throttle, address)| throttle.has_room(address))
    }

    /// Counts a wrong credential, and returns the rejection.
    pub(super) fn refuse(&self, request: &HttpRequest, credential: Credential) -> Rejection {
        let throttle = self.throttle(request);
        match throttle.map(|(throttle, address)| throttle.count(address)) {
            Some(Err(wait)) => Rejection::TooManyTries(wait),
            _ => Rejection::UnknownCredential(credential),
        }
    }
}
