//! `postrider doctor`: checks of everything that a server needs on this machine, each with a remedy.

mod check;
mod machine;
mod server;
mod storage;

use std::path::Path;

use anyhow::bail;
use postrider::config::EngineConfig;
use reqwest::Url;
use serde_json::json;

use self::check::{Check, CheckState, format_check};
use crate::config::ConfigArgs;
use crate::output::{CommandError, emit};
use crate::serve::raise_file_limit;
use crate::settings::{ServerSettings, join_errors};

/// Check the settings and this machine, and suggest fixes.
///
/// Checks settings, database, files, clock, DNS, port and server. Takes the same options as `serve`
/// and changes nothing. Exit code 1 if a check fails.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    args: ConfigArgs,

    /// Server that must be reachable [default: the one at `listen`, which may be stopped]
    #[arg(long, env = "POSTRIDER_SERVER", value_name = "URL", value_parser = crate::environment::trimmed::<Url>)]
    server: Option<Url>,

    /// Host name to look up
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    resolve: String,
}

impl DoctorArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        raise_file_limit();
        let mut checks = Vec::new();
        match self.settings(&mut checks) {
            Some((settings, config)) => {
                let server = server::contact(&settings, self.server.as_ref()).await;
                checks.extend(storage::database(&settings));
                checks.extend(storage::files(&settings, self.args.file.path.as_deref()));
                checks.push(machine::clock(&settings, server.date()));
                checks.push(machine::names(&self.resolve).await);
                checks.push(machine::port(&settings, server.is_postrider()));
                checks.push(machine::file_limit(&config));
                checks.push(server.check(&settings).await);
            }
            // The other checks need valid settings.
            None => checks.push(machine::names(&self.resolve).await),
        }
        let failed = checks
            .iter()
            .filter(|check| check.state == CheckState::Wrong)
            .count();
        if self.args.json {
            emit(&format!(
                "{:#}",
                json!({"ok": failed == 0, "checks": checks})
            ));
        } else {
            checks.iter().for_each(|check| emit(&format_check(check)));
        }
        match failed {
            0 => Ok(()),
            1 => Err(anyhow::anyhow!("1 check failed").into()),
            failed => Err(anyhow::anyhow!("{failed} checks failed").into()),
        }
    }

    /// Reads the settings and adds the checks of them; `None` if they are invalid.
    fn settings(&self, checks: &mut Vec<Check>) -> Option<(ServerSettings, EngineConfig)> {
        let file = self.args.file.path.as_deref();
        let (settings, config) = match self.validated(file) {
            Ok(valid) => valid,
            Err(error) => {
                let remedy = "fix the settings named above; `postrider config show` shows where each comes from";
                checks.push(Check::wrong("settings", format!("{error:#}"), remedy));
                return None;
            }
        };
        let from = file.map_or("no file".to_owned(), |path| path.display().to_string());
        checks.push(Check::ok("settings", format!("valid ({from})")));
        if config.encryption_keys.is_empty() {
            checks.push(Check::note(
                "encryption",
                "secrets are stored in the clear; `postrider keys generate` prints a key for encryption_keys",
            ));
        }
        Some((settings, config))
    }

    /// Reads the settings; an error names every mistake.
    fn validated(&self, file: Option<&Path>) -> anyhow::Result<(ServerSettings, EngineConfig)> {
        let errors = self.args.validate_all()?;
        if !errors.is_empty() {
            bail!(join_errors(&errors, "; "));
        }
        let settings = self.args.settings.over_file(file)?;
        let config = settings.engine()?;
        Ok((settings, config))
    }
}
