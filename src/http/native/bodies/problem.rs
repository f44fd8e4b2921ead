//! Errors (RFC 9457).

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::native::field::InvalidField;

/// An error (RFC 9457).
#[derive(ToSchema, Serialize)]
#[schema(as = Problem, example = json!({
    "type": "urn:postrider:problem:invalid", "title": "The request is not valid", "status": 422,
    "detail": "concurrency: must be 1 to 1,000",
    "errors": [{"field": "concurrency", "detail": "must be 1 to 1,000"}]
}))]
pub(crate) struct ProblemBody {
    /// `urn:postrider:problem:` and a stable name.
    pub(crate) r#type: String,
    pub(crate) title: String,
    pub(crate) status: u16,
    pub(crate) detail: String,
    /// Every invalid field, with its remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errors: Option<Vec<InvalidField>>,
}
