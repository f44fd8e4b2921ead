//! `postrider doctor`: what could keep a server from working here, each with what to do about it.

mod machine;
mod server;
mod storage;

use anyhow::bail;
use postrider::config::EngineConfig;
use reqwest::Url;
use serde::Serialize;
use serde_json::json;

use crate::config::Given;
use crate::output::{Failure, emit};
use crate::serve::raise_file_limit;
use crate::settings::Settings;

/// Check settings, database, files, clock, names, port and server, and say what to do.
///
/// Takes what `serve` takes. Changes nothing. Exit code 1 if something is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    given: Given,

    /// A server that must answer [default: one that may, at `listen`]
    #[arg(long, env = "POSTRIDER_SERVER", value_name = "URL", value_parser = crate::environment::trimmed::<Url>)]
    server: Option<Url>,

    /// A name on the internet to look up
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    resolve: String,
}

/// What was found of one thing.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do, where something is to be done.
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Worth knowing.
    Note,
    Wrong,
}

impl Check {
    fn ok(name: &'static str, found: impl ToString) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.to_string(),
            remedy: None,
        }
    }

    fn note(name: &'static str, found: impl ToString) -> Self {
        Self {
            state: State::Note,
            ..Self::ok(name, found)
        }
    }

    fn wrong(name: &'static str, found: impl ToString, remedy: impl ToString) -> Self {
        Self {
            state: State::Wrong,
            remedy: Some(remedy.to_string()),
            ..Self::ok(name, found)
        }
    }
}

impl Doctor {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        raise_file_limit();
        let mut checks = Vec::new();
        match self.settings(&mut checks)? {
            Some((settings, config)) => {
                let answer = server::look(&settings, self.server.as_ref()).await;
                checks.extend(storage::database(&settings));
                checks.extend(storage::files(&settings, self.given.file.path.as_deref()));
                checks.push(machine::clock(&settings, answer.date()));
                checks.push(machine::names(&self.resolve).await);
                checks.push(machine::port(&settings, answer.is_ours()));
                checks.push(machine::file_limit(&config));
                checks.push(answer.check(&settings).await);
            }
            // Without settings there is little to look at.
            None => checks.push(machine::names(&self.resolve).await),
        }
        let wrong = checks
            .iter()
            .filter(|check| check.state == State::Wrong)
            .count();
        if self.given.json {
            emit(&format!(
                "{:#}",
                json!({"ok": wrong == 0, "checks": checks})
            ));
        } else {
            checks.iter().for_each(|check| emit(&line(check)));
        }
        match wrong {
            0 => Ok(()),
            1 => Err(anyhow::anyhow!("1 thing is wrong").into()),
            wrong => Err(anyhow::anyhow!("{wrong} things are wrong").into()),
        }
    }

    /// The settings, if they can stand.
    fn settings(
        &self,
        checks: &mut Vec<Check>,
    ) -> anyhow::Result<Option<(Settings, EngineConfig)>> {
        let file = self.given.file.path.as_deref();
        let read = || -> anyhow::Result<(Settings, EngineConfig)> {
            let wrong = self.given.everything_wrong()?;
            if !wrong.is_empty() {
                bail!(
                    wrong
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("; ")
                );
            }
            let settings = self.given.settings.over_file(file)?;
            let config = settings.engine()?;
            Ok((settings, config))
        };
        let read = match read() {
            Ok(read) => read,
            Err(error) => {
                let remedy =
                    "mend what is named; `postrider config show` tells where each setting is from";
                checks.push(Check::wrong("settings", format!("{error:#}"), remedy));
                return Ok(None);
            }
        };
        let from = file.map_or("no file".to_owned(), |path| path.display().to_string());
        checks.push(Check::ok("settings", format!("good ({from})")));
        if read.1.encryption_keys.is_empty() {
            checks.push(Check::note(
                "encryption",
                "secrets are stored in the clear; `postrider keys generate` makes a key for encryption_keys",
            ));
        }
        Ok(Some(read))
    }
}

fn line(check: &Check) -> String {
    let state = match check.state {
        State::Ok => "ok",
        State::Note => "note",
        State::Wrong => "WRONG",
    };
    let remedy = check
        .remedy
        .as_ref()
        .map_or(String::new(), |remedy| format!("\n       -> {remedy}"));
    format!("{state:5}  {}: {}{remedy}", check.name, check.found)
}
