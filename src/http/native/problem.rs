//! Errors as `application/problem+json` (RFC 9457): the only place that maps an error to a status.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, ResponseError};

use super::bodies::problem::ProblemBody;
use super::field::{InvalidField, name_of};
use crate::engine::Error;
use crate::http::caller::rejection::{Credential, CsrfRule, Rejection};
use crate::http::caller::session::CSRF_HEADER;

/// Value of `Retry-After` in seconds, when the database is unavailable.
const RETRY_AFTER_S: u64 = 1;

/// Kind of a problem. Its name is part of the API and determines title and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MalformedJson,
    Unauthorized,
    Forbidden,
    Csrf,
    NotFound,
    MethodNotAllowed,
    EventIdConflict,
    StateConflict,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    RequestTimeout,
    Unavailable,
    Internal,
}

impl Kind {
    /// Returns name, title and status.
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub(crate) const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::MalformedJson => (
                "malformed-json",
                "The body is not JSON",
                StatusCode::BAD_REQUEST,
            ),
            Self::Unauthorized => (
                "unauthorized",
                "Authentication required",
                StatusCode::UNAUTHORIZED,
            ),
            Self::Forbidden => (
                "forbidden",
                "The token does not allow this",
                StatusCode::FORBIDDEN,
            ),
            Self::Csrf => ("csrf", "Missing or wrong CSRF token", StatusCode::FORBIDDEN),
            Self::NotFound => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                "Method not allowed",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            Self::EventIdConflict => (
                "event-id-conflict",
                "The id belongs to another event",
                StatusCode::CONFLICT,
            ),
            Self::StateConflict => (
                "state-conflict",
                "Not allowed in the current state",
                StatusCode::CONFLICT,
            ),
            Self::TooLarge => (
                "too-large",
                "The request is too large",
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                "The body must be JSON",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ),
            Self::Invalid => (
                "invalid",
                "The request is not valid",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::TooManyRequests => (
                "too-many-requests",
                "Too many requests",
                StatusCode::TOO_MANY_REQUESTS,
            ),
            Self::RequestTimeout => (
                "request-timeout",
                "Request timeout",
                StatusCode::REQUEST_TIMEOUT,
            ),
            Self::Unavailable => (
                "unavailable",
                "Database unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Internal => (
                "internal",
                "Internal server error",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
        }
    }
}

/// An error response.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<InvalidField>,
    /// Value of `Retry-After` in seconds.
    retry_after_s: Option<u64>,
    /// The allowed methods (RFC 9110, section 10.2.1).
    allow: Option<String>,
}

/// Maximum number of errors listed in one response.
const MAX_ERRORS: usize = 100;

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let retry_after_s = (kind == Kind::Unavailable).then_some(RETRY_AFTER_S);
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s,
            allow: None,
        }
    }

    pub(crate) fn method_not_allowed(detail: String, allowed: String) -> Self {
        Self {
            allow: Some(allowed),
            ..Self::new(Kind::MethodNotAllowed, detail)
        }
    }

    pub(crate) fn too_many(detail: &str, wait: Duration) -> Self {
        let retry_after_s = Some(wait.as_secs() + 1);
        Self {
            retry_after_s,
            ..Self::new(Kind::TooManyRequests, detail)
        }
    }

    pub(crate) fn invalid(mut errors: Vec<InvalidField>) -> Self {
        errors.truncate(MAX_ERRORS);
        let detail = errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            errors,
            ..Self::new(Kind::Invalid, detail)
        }
    }

    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![InvalidField::new(field, detail)])
    }
}

/// Returns the URI of a problem.
pub(crate) fn type_of(name: &str) -> String {
    format!("urn:postrider:problem:{name}")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.parts().2
    }

    fn error_response(&self) -> HttpResponse {
        let (name, title, status) = self.kind.parts();
        let mut response = HttpResponse::build(status);
        if self.kind == Kind::Unauthorized {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(allowed) = &self.allow {
            response.insert_header((ALLOW, allowed.as_str()));
        }
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds));
        }
        let body = ProblemBody {
            r#type: type_of(name),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            errors: (!self.errors.is_empty()).then(|| self.errors.clone()),
        };
        response
            .insert_header((CONTENT_TYPE, "application/problem+json"))
            .body(serde_json::to_string(&body).unwrap_or_default())
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let (kind, detail) = match rejection {
            Rejection::NoCredential => (
                Kind::Unauthorized,
                "send a token as `Authorization: Bearer TOKEN`",
            ),
            Rejection::NoSession => (Kind::Unauthorized, "not signed in"),
            Rejection::UnknownCredential(Credential::Token) => {
                (Kind::Unauthorized, "the token is not valid")
            }
            Rejection::UnknownCredential(Credential::Session) => {
                (Kind::Unauthorized, "the session has expired: sign in again")
            }
            Rejection::UnknownCredential(Credential::PortalLink) => (
                Kind::Unauthorized,
                "the link is not valid or has expired: ask for a new one",
            ),
            Rejection::TooManyTries(wait) => {
                return Self::too_many("too many wrong tokens from this network", wait);
            }
            Rejection::Forbidden(why) => return Self::new(Kind::Forbidden, why.to_string()),
            Rejection::Csrf(CsrfRule::SameSite) => (
                Kind::Csrf,
                "a state-changing request must come from this site",
            ),
            Rejection::Csrf(CsrfRule::Header) => {
                let detail = format!(
                    "a state-changing request with a cookie requires the header {CSRF_HEADER}"
                );
                return Self::new(Kind::Csrf, detail);
            }
        };
        Self::new(kind, detail)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound(what) => Self::new(Kind::NotFound, format!("there is no such {what}")),
            Error::Forbidden(_) => Self::new(Kind::Forbidden, detail),
            Error::Invalid(errors) => Self::invalid(errors.into_iter().map(Into::into).collect()),
            Error::TooLarge { field, detail } => {
                let errors = match name_of(&field) {
                    whole if whole.is_empty() => Vec::new(),
                    name => vec![InvalidField::new(name, detail.clone())],
                };
                Self {
                    errors,
                    ..Self::new(Kind::TooLarge, detail)
                }
            }
            Error::EventIdConflict { field, .. } => {
                let detail_of_field = "belongs to an event with different content";
                Self {
                    errors: vec![InvalidField::new(name_of(&field), detail_of_field)],
                    ..Self::new(Kind::EventIdConflict, detail)
                }
            }
            Error::Refused(_) | Error::EndpointDeleted | Error::ManyKeys(_) => {
                Self::new(Kind::StateConflict, detail)
            }
            Error::Store(error) if error.is_unavailable() => Self::new(Kind::Unavailable, detail),
            Error::Store(_) => {
                tracing::error!(%detail, "a request failed");
                Self::new(Kind::Internal, "the request failed; see the server's log")
            }
        }
    }
}

// Handlers without a fallible step return a `Problem` directly.
impl actix_web::Responder for Problem {
    type Body = actix_web::body::BoxBody;
    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        actix_web::ResponseError::error_response(&self)
    }
}
