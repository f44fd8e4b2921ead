//! Callers: their identity and rights, independent of any API's format.
//!
//! A [`gate`] knows the tokens, an [`admission`] is what one request was admitted with, and
//! [`access`] is the engine as that caller may use it. Errors are a [`rejection`], which each API
//! renders as its own.

pub(super) mod access;
pub(super) mod admission;
pub(super) mod gate;
pub(super) mod rejection;
pub(super) mod session;
mod throttle;

pub use self::gate::ApiToken;
