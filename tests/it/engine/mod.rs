//! The engine on virtual time, and two of them on real time.

mod etiquette;
mod faults;
mod health;
mod lifecycle;
mod limits;
mod lost_connections;
mod maintenance;
mod notices;
mod observed;
mod seed;
mod together;
