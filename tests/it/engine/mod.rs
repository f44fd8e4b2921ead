//! The engine on virtual time.

mod etiquette;
mod faults;
mod lifecycle;
mod limits;
mod maintenance;
mod notices;
