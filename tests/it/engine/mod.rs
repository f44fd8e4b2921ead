//! The engine on virtual time, and two of them on real time.

mod etiquette;
mod faults;
mod lifecycle;
mod limits;
mod maintenance;
mod notices;
mod observed;
mod together;
