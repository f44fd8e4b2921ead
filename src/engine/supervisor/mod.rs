//! The supervisor: the one actor that sends to an endpoint.
//!
//! `lane` decides; `actor` carries out. It owns the endpoint's window of due deliveries, its rate
//! limiter, its concurrency count and one timer. It claims only what can start now, and checks
//! again right before each start. Its memory is only a copy of the database.
//!
//! It never writes (the committer does) and never reads on its own thread (the store does).

mod actions;
mod actor;
mod attempt;
mod carry_out;
mod lane;
mod messages;
mod outcome;
mod read_ahead;
mod report;
mod wakeup;
mod window;

pub(crate) use self::actor::{EndpointSupervisor, ToRegistry};
pub(crate) use self::attempt::AttemptTasks;
#[cfg(feature = "testing")]
pub(crate) use self::messages::InjectPanic;
pub(crate) use self::messages::{
    Changed, Drain, Inspect, NewlyDue, Polled, SupervisorStatus, TailEnded,
};
pub(crate) use self::read_ahead::Share;
