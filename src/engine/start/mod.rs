//! Starting an engine: settings, parts, and joining the cluster.

mod assemble;
mod builder;

pub use self::builder::Builder;
