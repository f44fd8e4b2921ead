//! Invalid fields, under their names in the API.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Field, FieldError};

/// An invalid field.
#[derive(Debug, Clone, ToSchema, Serialize)]
#[schema(as = FieldError)]
pub(crate) struct InvalidField {
    /// Path of the field, such as `events[17].type`; empty for the whole body.
    field: String,
    detail: String,
}

impl InvalidField {
    pub(crate) fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.detail),
            field => write!(f, "{field}: {}", self.detail),
        }
    }
}

impl From<FieldError> for InvalidField {
    fn from(error: FieldError) -> Self {
        Self::new(name_of(&error.field), error.detail)
    }
}

/// Returns the name of a field in the API.
pub(crate) fn name_of(field: &Field) -> String {
    match field {
        Field::Lifetime => "expires_s".to_owned(),
        Field::Grace => "grace_s".to_owned(),
        Field::Timeout => "timeout_ms".to_owned(),
        Field::RetrySchedule => "retry_delays_s".to_owned(),
        Field::MaxAge => "max_age_s".to_owned(),
        Field::Event => String::new(),
        other => other.to_string(),
    }
}
