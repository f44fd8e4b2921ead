//! The API's OpenAPI 3.1 document.

mod document;
mod words;

pub use self::document::openapi;
pub(super) use self::document::routes;
