//! `postrider-campaign`: nodes are killed, stopped, frozen and restarted under load; then what was
//! accepted, what was received and what the database says are compared.
//!
//! The publisher and the receiver are processes of their own, each with a ledger that is only
//! appended to: what a fault does to the nodes, it does not do to the evidence.

mod faults;
mod fleet;
mod judge;
mod ledger;
mod publisher;
mod receiver;
mod report;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Attack a cluster of nodes under load, and count what was lost.
#[derive(Debug, Parser)]
#[command(name = "postrider-campaign", version)]
struct CampaignCli {
    #[command(subcommand)]
    role: Option<Role>,

    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Publish events, and log the accepted ones (started by the campaign).
    #[command(hide = true)]
    Publisher(publisher::PublisherArgs),
    /// Receive webhooks, and log them (started by the campaign).
    #[command(hide = true)]
    Receiver(receiver::ReceiverArgs),
}

fn main() -> ExitCode {
    let cli = CampaignCli::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = actix_web::rt::System::new().block_on(async {
        match cli.role {
            None => cli.run.run().await,
            Some(Role::Publisher(publisher)) => publisher.run().await.map(|()| true),
            Some(Role::Receiver(receiver)) => receiver.run().await.map(|()| true),
        }
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("postrider-campaign: {error:#}");
            ExitCode::from(2)
        }
    }
}
