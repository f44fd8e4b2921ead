//! Errors of the handle's calls, and of starting an engine.

use crate::domain::access::Forbidden;
use crate::domain::event::EventError;
use crate::domain::lifecycle;
use crate::domain::{Field, FieldError, Resource, SettingError};
use crate::store::{StoreError, Unavailable};

/// Reason for which a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's grant does not allow it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The requested object does not exist.
    #[error("no such {0}")]
    NotFound(Resource),
    /// Invalid fields.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// The body to send is too large.
    #[error("{field}: {detail}")]
    TooLarge {
        /// The event.
        field: Field,
        /// The size, and the limit.
        detail: String,
    },
    /// The event's id belongs to a different event.
    #[error("{field}: the id `{id}` belongs to an event with different content")]
    EventIdConflict {
        /// The event's id, in a batch with the index of the event.
        field: Field,
        /// The id.
        id: String,
    },
    /// The delivery's endpoint was deleted, so it cannot be sent.
    #[error("its endpoint was deleted, so it can no longer be sent")]
    EndpointDeleted,
    /// The maximum number of older keys already sign.
    #[error(
        "{0} older keys still sign: revoke one, wait until its grace period ends, or rotate with `grace_s` 0"
    )]
    ManyKeys(usize),
    /// The delivery's state does not allow it.
    #[error(transparent)]
    Refused(#[from] lifecycle::TransitionError),
    /// The database operation failed.
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
    /// Creates the error of one invalid field.
    pub(crate) fn field(field: Field, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, detail)])
    }

    /// Creates the error of an event, at its index in a batch.
    pub(crate) fn of_event(error: EventError, index: Option<usize>) -> Self {
        match error {
            EventError::Invalid(error) => Self::field(error.field.of_event(index), error.detail),
            too_large @ EventError::TooLarge { .. } => Self::TooLarge {
                field: Field::Event.of_event(index),
                detail: too_large.to_string(),
            },
        }
    }
}

/// Reason for which an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is invalid.
    #[error("{0}")]
    Setting(SettingError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sending could not be set up.
    #[error("cannot set up sending: {0}")]
    Sender(String),
    /// The operating system did not start a thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The engine's thread ended before it had started.
    #[error("the engine's thread ended while it was starting: this is a defect, please report it")]
    Died,
}
