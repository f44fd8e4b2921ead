//! `postrider migrate`: the schema, for those who do not leave it to `serve`.

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use crate::output::emit;
use crate::progress::progress;
use crate::settings::DatabaseArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Bring the schema up to date. Of several that do so at once, one does; the others wait.
    Up(Args),
    /// Take the newest migration back, with everything that its tables hold.
    Down(Down),
    /// Show which migrations have been run. Changes nothing.
    Status(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    #[command(flatten)]
    args: Args,

    /// Needed: what the tables hold is lost
    #[arg(long)]
    yes: bool,
}

impl Migrate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up(args) => {
                let url = args.database.settings()?.database()?;
                // Somebody else may be at it, and is waited for.
                let bar = progress(None, "bringing the schema up to date");
                let done = postrider::migrate_at(&url);
                bar.finish_and_clear();
                done?;
                let newest = newest(&url)?;
                let human = format!("the schema is up to date: {newest}");
                emit(&if args.json {
                    json!({ "version": newest }).to_string()
                } else {
                    human
                });
            }
            Self::Down(down) => {
                let url = down.args.database.settings()?.database()?;
                let newest = newest(&url)?;
                if !down.yes {
                    bail!(
                        "this would take {newest} back, with everything that its tables hold: stop every server, make a backup, and say --yes"
                    );
                }
                let reverted = postrider::revert_at(&url)?;
                let human = match &reverted {
                    Some(version) => format!("{version} was taken back"),
                    None => "nothing was left to take back".to_owned(),
                };
                emit(&if down.args.json {
                    json!({ "version": reverted }).to_string()
                } else {
                    human
                });
            }
            Self::Status(args) => status(args)?,
        }
        Ok(())
    }
}

fn status(args: Args) -> anyhow::Result<()> {
    let all = postrider::migrations_at(&args.database.settings()?.database()?)?;
    if args.json {
        let all = all
            .iter()
            .map(|one| json!({"version": one.version, "run_at": one.run_at, "known": one.known}));
        emit(&format!("{:#}", json!({ "data": all.collect::<Vec<_>>() })));
        return Ok(());
    }
    for one in all {
        let state = match (one.run_at, one.known) {
            (Some(at), true) => format!("run at {at}"),
            (Some(at), false) => format!("run at {at} by a newer release"),
            (None, _) => "not run".to_owned(),
        };
        emit(&format!("{}  {state}", one.version));
    }
    Ok(())
}

/// The newest version that has been run.
fn newest(url: &postrider::config::DatabaseUrl) -> anyhow::Result<String> {
    let mut run = postrider::migrations_at(url)?
        .into_iter()
        .filter(|one| one.run_at.is_some());
    Ok(run
        .next_back()
        .map_or_else(|| "nothing".to_owned(), |one| one.version))
}
