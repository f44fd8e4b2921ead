//! The `postrider` command: the server, and its command line client.
//!
//! Wiring only: nothing here is of use to who embeds the library.

#![allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "commands run on real time"
)]

mod api;
mod completions;
mod config;
mod deliveries;
mod demo;
mod doctor;
mod endpoints;
mod environment;
mod events;
mod input;
mod keys;
mod listen;
mod log;
mod look;
mod migrate;
mod nodes;
mod output;
mod overview;
mod portal_link;
mod progress;
mod recoveries;
mod send;
mod serve;
mod settings;
mod token;
mod tokens;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Failure;

/// Measured: a fifth less time for a delivery than with the C library's (docs/performance.md).
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Webhooks that are not lost.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the server cannot be reached, 4 the server
/// refused.
#[derive(Debug, Parser)]
#[command(
    name = "postrider",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: the HTTP API and the engine.
    Serve(Box<serve::Serve>),
    /// Run a receiver for development: it verifies and prints each webhook.
    Listen(listen::Listen),
    /// Show in some seconds what Postrider does, and leave nothing behind.
    Demo(demo::Demo),
    /// Publish an event, or many.
    Send(send::Send),
    /// Look at what was published.
    #[command(subcommand, visible_alias = "event")]
    Events(events::Events),
    /// Manage endpoints.
    #[command(subcommand, visible_alias = "endpoint")]
    Endpoints(endpoints::Endpoints),
    /// Look at deliveries, follow them, and retry, cancel or release them.
    #[command(subcommand, visible_alias = "delivery")]
    Deliveries(deliveries::Deliveries),
    /// Look at recoveries (`endpoints recover` begins one).
    #[command(subcommand, visible_alias = "recovery")]
    Recoveries(recoveries::Recoveries),
    /// Show how it goes, in a few lines.
    Overview(overview::Overview),
    /// Make, list and revoke tokens of the API.
    #[command(subcommand, visible_alias = "token")]
    Tokens(tokens::Tokens),
    /// Make a link by which a tenant sees to its own endpoints.
    PortalLink(portal_link::PortalLink),
    /// List the processes that send.
    Nodes(nodes::Nodes),
    /// Check the settings, or show them and where each is from.
    #[command(subcommand)]
    Config(config::Config),
    /// Check everything that a server needs here, and say what to do.
    Doctor(Box<doctor::Doctor>),
    /// Bring the database's schema up to date, look at it, or take it back.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Make and change the keys that secrets are encrypted with in the database.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Print what a shell needs to complete this command.
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let cli = environment::parse();
    // A process-wide default, which a library must not set and a program may.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = actix_web::rt::System::new().block_on(async {
        match cli.command {
            Command::Serve(serve) => serve.run().await.map_err(Failure::Other),
            Command::Listen(listen) => listen.run().await,
            Command::Demo(demo) => demo.run().await,
            Command::Send(send) => send.run().await,
            Command::Events(events) => events.run().await,
            Command::Endpoints(endpoints) => endpoints.run().await,
            Command::Deliveries(deliveries) => deliveries.run().await,
            Command::Recoveries(recoveries) => recoveries.run().await,
            Command::Overview(overview) => overview.run().await,
            Command::Tokens(tokens) => tokens.run().await,
            Command::PortalLink(link) => link.run().await,
            Command::Nodes(nodes) => nodes.run().await,
            Command::Config(config) => config.run().map_err(Failure::Other),
            Command::Doctor(doctor) => doctor.run().await,
            Command::Migrate(migrate) => migrate.run().map_err(Failure::Other),
            Command::Keys(keys) => keys.run().map_err(Failure::Other),
            Command::Completions(completions) => completions.run().map_err(Failure::Other),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("postrider: {failure}");
            failure.exit_code()
        }
    }
}
