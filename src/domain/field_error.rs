//! Errors of single fields.

use serde::Serialize;

/// A problem with one field of a request, worded so that the caller can fix it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Path of the field as the caller wrote it, such as `rate_limit` or `events[17].type`; empty
    /// for the whole request.
    pub field: String,
    /// The problem, and what would be valid.
    pub detail: String,
}

impl FieldError {
    /// Creates an error at `field`.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.detail),
            field => write!(f, "{field}: {}", self.detail),
        }
    }
}
