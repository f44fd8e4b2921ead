//! `postrider migrate`: schema migrations, for deployments where `serve` does not run them.

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use crate::output::emit;
use crate::progress::progress;
use crate::settings::DatabaseArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Run all pending migrations. If several run at once, one migrates and the others wait.
    Up(MigrateArgs),
    /// Revert the newest migration and delete the data in its tables.
    Down(RevertMigration),
    /// List the migrations and show which have been run. Changes nothing.
    Status(MigrateArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RevertMigration {
    #[command(flatten)]
    args: MigrateArgs,

    /// Confirm: this deletes the data in the affected tables
    #[arg(long)]
    yes: bool,
}

impl MigrateCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up(args) => up(args),
            Self::Down(revert) => down(revert),
            Self::Status(args) => status(args),
        }
    }
}

fn up(args: MigrateArgs) -> anyhow::Result<()> {
    let url = args.database.settings()?.database()?;
    // Waits while another process migrates.
    let bar = progress(None, "running migrations");
    let result = postrider::schema::migrate_at(&url);
    bar.finish_and_clear();
    result?;
    let newest = newest(&url)?;
    emit(&if args.json {
        json!({ "version": newest }).to_string()
    } else {
        format!("the schema is up to date: {}", newest.unwrap_or_default())
    });
    Ok(())
}

fn down(revert: RevertMigration) -> anyhow::Result<()> {
    let url = revert.args.database.settings()?.database()?;
    // Also fails on a missing SQLite file, which `revert_at` would create.
    let newest = newest(&url)?;
    if !revert.yes {
        let Some(newest) = newest else {
            bail!("no migration to revert");
        };
        bail!(
            "this would revert migration {newest} and delete the data in its tables: stop every server, make a backup, and confirm with --yes"
        );
    }
    let reverted = postrider::schema::revert_at(&url)?;
    emit(&if revert.args.json {
        json!({ "version": reverted }).to_string()
    } else {
        match &reverted {
            Some(version) => format!("migration {version} was reverted"),
            None => "no migration to revert".to_owned(),
        }
    });
    Ok(())
}

fn status(args: MigrateArgs) -> anyhow::Result<()> {
    let migrations = postrider::schema::migrations_at(&args.database.settings()?.database()?)?;
    if args.json {
        let rows = migrations
            .iter()
            .map(|one| json!({"version": one.version, "run_at": one.run_at, "known": one.known}));
        emit(&format!(
            "{:#}",
            json!({ "data": rows.collect::<Vec<_>>() })
        ));
        return Ok(());
    }
    for migration in migrations {
        let state = match (migration.run_at, migration.known) {
            (Some(at), true) => format!("run at {at}"),
            (Some(at), false) => format!("run at {at} by a newer release"),
            (None, _) => "not run".to_owned(),
        };
        emit(&format!("{}  {state}", migration.version));
    }
    Ok(())
}

/// Returns the version of the newest migration that has been run, if any.
fn newest(url: &postrider::config::DatabaseUrl) -> anyhow::Result<Option<String>> {
    let migrations = postrider::schema::migrations_at(url)?;
    let newest = migrations.into_iter().rfind(|one| one.run_at.is_some());
    Ok(newest.map(|migration| migration.version))
}
