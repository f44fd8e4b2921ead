//! Paths of endpoints in the API.

use crate::api::segment;

/// Returns the API path of an endpoint, or of a path below it.
pub(crate) fn path_of(id: &str, below: &str) -> String {
    format!("/endpoints/{}{below}", segment(id))
}
