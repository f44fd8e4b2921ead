//! Parsers of input from outside, for property tests and fuzz targets.

use crate::domain::event::NewEvent;
use crate::domain::settings::EndpointChange;
pub use crate::sender::guard::AddressPolicy;
pub use crate::sender::response_verdict::verdict_of_response;

/// Reads an event from the JSON of the HTTP API; `None` if it is not valid.
#[must_use]
pub fn read_event(body: &[u8]) -> Option<NewEvent> {
    crate::http::read_event(body)
}

/// Reads a change of an endpoint from the JSON of the HTTP API.
///
/// # Errors
/// Returns the problem's detail.
pub fn endpoint_change(json: &str) -> Result<EndpointChange, String> {
    crate::http::read_change(json)
}
