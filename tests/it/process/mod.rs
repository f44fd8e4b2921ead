//! The real binary as a process, over loopback.

mod access;
mod browser;
mod certificates;
mod cli;
mod clocks;
mod cluster;
mod commands;
mod configuration;
mod contract;
mod dashboard;
mod database_file;
mod example;
mod hostile;
mod kill;
mod metrics;
mod mission;
mod names;
mod namespace;
mod neighbours;
mod nodes;
mod operation;
mod postgres;
mod receivers;
mod secrets;
mod verifiers;
mod wire;
