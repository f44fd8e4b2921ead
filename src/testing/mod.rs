//! Test support for hosts and for Postrider itself: [`TestBed`], an engine on virtual time with
//! scripted receivers.
//!
//! Its parts can be used separately: a clock that follows tokio's, and [`ScriptedReceivers`].

mod bed;
mod clock;
#[cfg(feature = "http")]
pub mod parsers;
mod receivers;

pub use self::bed::{START, TestBed, TestReceiver, launch};
pub use fail::FailScenario;

pub use self::clock::{TokioClock, on_virtual_time, pass};
#[cfg(feature = "http")]
pub use self::parsers::endpoint_change;
pub use self::receivers::{Received, Reply, ScriptedReceivers};
pub use crate::sender::{
    BoxFuture, Transport, TransportError, TransportResult, WireAnswer, WireRequest,
};
