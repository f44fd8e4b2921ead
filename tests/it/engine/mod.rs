//! The engine on virtual time.

mod faults;
mod lifecycle;
mod limits;
mod maintenance;
