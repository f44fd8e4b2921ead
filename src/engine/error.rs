//! What the handle's calls can fail of.

use crate::domain::FieldError;
use crate::domain::event::EventError;
use crate::domain::lifecycle;
use crate::store::{StoreError, Unavailable};

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The named thing is not there.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// Fields are wrong; each says how.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// The body to send is too large.
    #[error("{field}: {detail}")]
    TooLarge {
        /// Which field, or empty for the whole event.
        field: String,
        /// How large, and what is allowed.
        detail: String,
    },
    /// The event's id belongs to a different event.
    #[error("{field}: the id `{id}` belongs to an event with other content")]
    EventIdConflict {
        /// `id`, or `events[i].id` in a batch.
        field: String,
        /// The id.
        id: String,
    },
    /// The delivery's endpoint is gone, so nothing would send it.
    #[error("its endpoint was deleted, so it can not be sent any more")]
    EndpointDeleted,
    /// As many older keys of the endpoint sign as may sign at once.
    #[error(
        "{0} older keys sign already: end one, wait until its grace has ended, or rotate with `grace_s` 0"
    )]
    ManyKeys(usize),
    /// The delivery's state does not allow it.
    #[error(transparent)]
    Refused(#[from] lifecycle::Refused),
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Unavailable> for Error {
    fn from(why: Unavailable) -> Self {
        Self::Store(why.into())
    }
}

impl From<Vec<FieldError>> for Error {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::Invalid(errors)
    }
}

impl Error {
    /// One wrong field.
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, detail)])
    }

    /// What is wrong with an event whose fields are at `prefix`.
    pub(super) fn of_event(error: EventError, prefix: &str) -> Self {
        match error {
            EventError::Invalid(error) => {
                Self::field(format!("{prefix}{}", error.field), error.detail)
            }
            too_large @ EventError::TooLarge { .. } => Self::TooLarge {
                field: prefix.trim_end_matches('.').to_owned(),
                detail: too_large.to_string(),
            },
        }
    }
}
