//! The engine on virtual time, and two of them on real time.

mod faults;
mod health;
mod lifecycle;
mod limits;
mod lost_connections;
mod maintenance;
mod observed;
mod operational_events;
mod response_verdict;
mod seed;
mod together;
