//! The real binary as a process, over loopback.

mod cli;
mod contract;
mod kill;
mod neighbours;
mod operation;
mod wire;
