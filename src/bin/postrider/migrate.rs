//! `postrider migrate`: the schema, for those who do not leave it to `serve`.

use anyhow::bail;
use clap::Subcommand;

use crate::settings::DatabaseArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Bring the schema up to date. Of several that do so at once, one does; the others wait.
    Up(DatabaseArgs),
    /// Take the newest migration back, with everything that its tables hold.
    Down(Down),
    /// Show which migrations have been run. Changes nothing.
    Status(DatabaseArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Needed: what the tables hold is lost
    #[arg(long)]
    yes: bool,
}

impl Migrate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up(database) => {
                let url = database.settings()?.database()?;
                postrider::migrate_at(&url)?;
                println!("the schema is up to date: {}", newest(&url)?);
            }
            Self::Down(down) => {
                let url = down.database.settings()?.database()?;
                let newest = newest(&url)?;
                if !down.yes {
                    bail!(
                        "this would take {newest} back, with everything that its tables hold: stop every server, make a backup, and say --yes"
                    );
                }
                match postrider::revert_at(&url)? {
                    Some(version) => println!("{version} was taken back"),
                    None => println!("nothing was left to take back"),
                }
            }
            Self::Status(database) => {
                for one in postrider::migrations_at(&database.settings()?.database()?)? {
                    let state = match (one.run_at, one.known) {
                        (Some(at), true) => format!("run at {at}"),
                        (Some(at), false) => format!("run at {at} by a newer release"),
                        (None, _) => "not run".to_owned(),
                    };
                    println!("{}  {state}", one.version);
                }
            }
        }
        Ok(())
    }
}

/// The newest version that has been run.
fn newest(url: &postrider::config::DatabaseUrl) -> anyhow::Result<String> {
    let mut run = postrider::migrations_at(url)?.into_iter().filter(|one| one.run_at.is_some());
    Ok(run.next_back().map_or_else(|| "nothing".to_owned(), |one| one.version))
}
