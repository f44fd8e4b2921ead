//! Errors as `application/problem+json` (RFC 9457): the only place that maps an error to a status.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use crate::domain::FieldError;
use crate::engine::Error;
use crate::store::StoreError;

/// Seconds after which a caller may try again what the database did not take.
const RETRY_AFTER_S: u64 = 1;

/// What a problem is of. The name is the contract; title and status belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
    /// Its name, its title and its status.
    pub(super) const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::MalformedJson => (
                "malformed-json",
                "The body is not JSON",
                StatusCode::BAD_REQUEST,
            ),
            Self::Unauthorized => (
                "unauthorized",
                "A valid token is needed",
                StatusCode::UNAUTHORIZED,
            ),
            Self::Forbidden => (
                "forbidden",
                "The token is not good for that",
                StatusCode::FORBIDDEN,
            ),
            Self::Csrf => (
                "csrf",
                "The call may come from another page",
                StatusCode::FORBIDDEN,
            ),
            Self::NotFound => ("not-found", "There is no such thing", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                "That cannot be done here",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            Self::EventIdConflict => (
                "event-id-conflict",
                "The id belongs to another event",
                StatusCode::CONFLICT,
            ),
            Self::StateConflict => (
                "state-conflict",
                "Its present state does not allow it",
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
                "The body came too slowly",
                StatusCode::REQUEST_TIMEOUT,
            ),
            Self::Unavailable => (
                "unavailable",
                "The database does not take writes",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Internal => (
                "internal",
                "This is our fault",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
        }
    }
}

/// An answer that is no success.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    /// After how many seconds it may be tried again.
    retry_after_s: Option<u64>,
    /// The methods that would have done (RFC 9110, section 10.2.1).
    allow: Option<String>,
}

/// The most errors that one answer lists: who has mended these may ask again.
const MAX_ERRORS: usize = 100;

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let retry_after_s = (kind == Kind::Unavailable).then_some(RETRY_AFTER_S);
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s,
            allow: None,
        }
    }

    pub(super) fn method_not_allowed(detail: String, allowed: String) -> Self {
        Self {
            allow: Some(allowed),
            ..Self::new(Kind::MethodNotAllowed, detail)
        }
    }

    pub(super) fn too_many(detail: &str, wait: Duration) -> Self {
        let retry_after_s = Some(wait.as_secs() + 1);
        Self {
            retry_after_s,
            ..Self::new(Kind::TooManyRequests, detail)
        }
    }

    pub(super) fn invalid(mut errors: Vec<FieldError>) -> Self {
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

    pub(super) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(field, detail)])
    }
}

/// The URI that stands for a problem.
pub(super) fn type_of(name: &str) -> String {
    format!("urn:postrider:problem:{name}")
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
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
        let body = Body {
            r#type: type_of(name),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        response
            .insert_header((CONTENT_TYPE, "application/problem+json"))
            .body(serde_json::to_string(&body).unwrap_or_default())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound(what) => Self::new(Kind::NotFound, format!("there is no such {what}")),
            Error::Invalid(errors) => Self::invalid(errors),
            Error::TooLarge { field, detail } => {
                let whole = field.is_empty();
                let errors = if whole {
                    Vec::new()
                } else {
                    vec![FieldError::new(field, detail.clone())]
                };
                Self {
                    errors,
                    ..Self::new(Kind::TooLarge, detail)
                }
            }
            Error::EventIdConflict { field, .. } => {
                let errors = vec![FieldError::new(
                    field,
                    "belongs to an event with other content",
                )];
                Self {
                    errors,
                    ..Self::new(Kind::EventIdConflict, detail)
                }
            }
            Error::Refused(_) | Error::EndpointDeleted | Error::ManyKeys(_) => {
                Self::new(Kind::StateConflict, detail)
            }
            Error::Store(StoreError::Unavailable(_)) => Self::new(Kind::Unavailable, detail),
            Error::Store(_) => {
                tracing::error!(%detail, "a request failed");
                Self::new(Kind::Internal, "the request failed; the log says why")
            }
        }
    }
}
