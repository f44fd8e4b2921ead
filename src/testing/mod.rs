//! Test support for hosts and for Postrider itself: [`TestBed`], an engine on virtual time with
//! scripted receivers.
//!
//! Its parts can be used separately: a clock that follows tokio's, and [`ScriptedReceivers`].

mod bed;
mod clock;
#[cfg(feature = "http")]
pub mod invariants;
mod receivers;

#[cfg(feature = "http")]
pub use self::bed::endpoint_change;
pub use self::bed::{START, TestBed, TestReceiver, launch};
pub use self::clock::{TokioClock, on_virtual_time, pass};
pub use self::receivers::{Received, Reply, ScriptedReceivers};
pub use crate::sender::{
    BoxFuture, Transport, TransportError, TransportResult, WireAnswer, WireRequest,
};
