//! The `postrider` command: the server, and its command line client.
//!
//! Wiring only: nothing here is of use to who embeds the library.

mod api;
mod deliveries;
mod endpoints;
mod keys;
mod listen;
mod log;
mod migrate;
mod nodes;
mod output;
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
#[command(name = "postrider", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: the HTTP API and the engine.
    Serve(serve::Serve),
    /// Run a receiver for development: it verifies and prints each webhook.
    Listen(listen::Listen),
    /// Publish an event.
    Send(send::Send),
    /// Manage endpoints.
    #[command(subcommand, visible_alias = "endpoint")]
    Endpoints(endpoints::Endpoints),
    /// Make, list and revoke tokens of the API.
    #[command(subcommand, visible_alias = "token")]
    Tokens(tokens::Tokens),
    /// List the processes that send.
    Nodes(nodes::Nodes),
    /// Bring the database's schema up to date, look at it, or take it back.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Make and change the keys that secrets are encrypted with in the database.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Look at deliveries, and retry them.
    #[command(subcommand, visible_alias = "delivery")]
    Deliveries(deliveries::Deliveries),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A process-wide default, which a library must not set and a program may.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = actix_web::rt::System::new().block_on(async {
        match cli.command {
            Command::Serve(serve) => serve.run().await.map_err(Failure::Other),
            Command::Listen(listen) => listen.run().await,
            Command::Send(send) => send.run().await,
            Command::Endpoints(endpoints) => endpoints.run().await,
            Command::Tokens(tokens) => tokens.run().await,
            Command::Nodes(nodes) => nodes.run().await,
            Command::Migrate(migrate) => migrate.run().map_err(Failure::Other),
            Command::Keys(keys) => keys.run().map_err(Failure::Other),
            Command::Deliveries(deliveries) => deliveries.run().await,
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
