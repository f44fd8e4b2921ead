//! The `postrider` command: the server and its command-line client.
//!
//! Wiring only: nothing here is part of the library.

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
mod show;
mod token;
mod tokens;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::CommandError;

/// The global allocator; measured to take a fifth less time per delivery than the C library's
/// (docs/performance.md).
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Webhooks that are not lost.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server unreachable, 4 request refused by the
/// server.
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
    /// Run the server: the HTTP API and the delivery engine.
    Serve(Box<serve::ServeArgs>),
    /// Run a development receiver that verifies and prints each webhook.
    Listen(listen::ListenArgs),
    /// Run a self-contained demo (a few seconds, leaves nothing behind).
    Demo(demo::DemoArgs),
    /// Publish one event, or a file of events.
    Send(send::SendArgs),
    /// List and show events.
    #[command(subcommand, visible_alias = "event")]
    Events(events::EventsCommand),
    /// Manage endpoints.
    #[command(subcommand, visible_alias = "endpoint")]
    Endpoints(endpoints::EndpointsCommand),
    /// List, show and follow deliveries; retry, cancel or release them.
    #[command(subcommand, visible_alias = "delivery")]
    Deliveries(deliveries::DeliveriesCommand),
    /// Show recoveries (start one with `endpoints recover`).
    #[command(subcommand, visible_alias = "recovery")]
    Recoveries(recoveries::RecoveriesCommand),
    /// Show a summary of traffic and endpoints in trouble.
    Overview(overview::OverviewArgs),
    /// Create, list and revoke API tokens.
    #[command(subcommand, visible_alias = "token")]
    Tokens(tokens::TokensCommand),
    /// Create a portal link for a tenant.
    PortalLink(portal_link::PortalLinkArgs),
    /// List nodes.
    Nodes(nodes::NodesArgs),
    /// Check or show the effective settings and their sources.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check the settings and this machine, and suggest fixes.
    Doctor(Box<doctor::DoctorArgs>),
    /// Run, show or revert schema migrations.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Generate and rotate encryption keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Generate shell completions.
    Completions(completions::CompletionsArgs),
}

fn main() -> ExitCode {
    let cli = environment::parse();
    #[cfg(feature = "testing")]
    let _failpoints = postrider::testing::FailScenario::setup();
    // A process-wide default, which a library must not set and a program may.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = actix_web::rt::System::new().block_on(async {
        match cli.command {
            Command::Serve(serve) => serve.run().await.map_err(CommandError::Other),
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
            Command::Config(config) => config.run().map_err(CommandError::Other),
            Command::Doctor(doctor) => doctor.run().await,
            Command::Migrate(migrate) => migrate.run().map_err(CommandError::Other),
            Command::Keys(keys) => keys.run().map_err(CommandError::Other),
            Command::Completions(completions) => completions.run().map_err(CommandError::Other),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postrider: {error}");
            error.exit_code()
        }
    }
}
