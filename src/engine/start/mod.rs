//! Starting an engine: settings, parts, and joining the cluster.

mod assemble;
mod builder;
mod join;

pub use self::builder::Builder;
