//! The committer: the engine's only writer. Writes that queue up during a commit go into the next
//! one, and each is answered only once it is durable.
//!
//! If the database supports concurrent writers, publishers have a separate lane and connection.
//!
//! It adds no delay: a single write is a group of one. It never decides a transition, and one write
//! of a group never fails another: after an error that does not concern the database's own state,
//! the group's writes run one by one.

mod commit_loop;
#[expect(clippy::module_inception, reason = "the folder's main type")]
mod committer;
mod driver;
mod queue;
mod resolution;

pub(crate) use self::commit_loop::{Observers, OnCommit};
pub(crate) use self::committer::Committer;
pub(crate) use self::driver::{Driver, start};
