//! The real binary as a process, over loopback.

mod cli;
mod contract;
mod kill;
mod mission;
mod neighbours;
mod operation;
mod wire;
