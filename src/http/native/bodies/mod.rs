//! The JSON bodies of requests and responses, by subject.

pub(crate) mod attempt;
pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod endpoint_change;
pub(crate) mod event;
pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod problem;
pub(crate) mod recovery;
pub(crate) mod secret;
pub(crate) mod session;
pub(crate) mod stats;
pub(crate) mod token;
