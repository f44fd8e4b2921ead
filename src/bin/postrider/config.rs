//! `postrider config`: whether the settings can stand, and where each is from.

use clap::parser::ValueSource;
use clap::{ArgMatches, Subcommand};
use postrider::config::EngineConfig;
use serde_json::{Map, Value, json};

use crate::output::{emit, print, tabulated};
use crate::serve::raise_file_limit;
use crate::settings::{Known, Place, SECRET, Settings, SettingsFile, Wrong, known, misspelt};

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check all settings as `serve` would, and name each that is wrong.
    Check(Box<Given>),
    /// Show the settings that hold, and where each is from.
    Show(Box<Given>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Given {
    #[command(flatten)]
    pub(crate) settings: Settings,

    #[command(flatten)]
    pub(crate) file: SettingsFile,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Config {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        raise_file_limit();
        match self {
            Self::Check(given) => given.check(),
            Self::Show(given) => given.show(),
        }
    }
}

impl Given {
    fn check(self) -> anyhow::Result<()> {
        let wrong = self.everything_wrong()?;
        let file = self
            .file
            .path
            .as_deref()
            .map(|path| path.display().to_string());
        let ok = wrong.is_empty();
        if self.json {
            emit(&format!(
                "{:#}",
                json!({"ok": ok, "file": file, "wrong": wrong})
            ));
        } else if ok {
            emit(&format!(
                "the settings are good (file: {})",
                file.as_deref().unwrap_or("none")
            ));
        }
        if ok {
            return Ok(());
        }
        let told = wrong
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n");
        Err(anyhow::anyhow!(told))
    }

    /// Each setting on its own, so that one mistake does not hide the next; then all together.
    pub(crate) fn everything_wrong(&self) -> anyhow::Result<Vec<Wrong>> {
        let (in_file, mut wrong) = match &self.file.path {
            Some(path) => Settings::read_file(path)?,
            None => Default::default(),
        };
        let merged = self.settings.over(in_file)?;
        let as_json = serde_json::to_value(&merged)?;
        for (name, value) in as_json
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null())
        {
            let alone: Settings = serde_json::from_value(json!({ name: value }))?;
            wrong.extend(judge(
                &Settings {
                    places: merged.places.clone(),
                    ..alone
                },
                Settings::read,
            ));
        }
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        wrong.extend(misspelt(variables));
        if wrong.is_empty() {
            wrong.extend(judge(&merged, |settings| {
                settings.token()?;
                settings.keep_alive()?;
                settings.cors_origins()?;
                settings.log_filter()?;
                settings.engine()
            }));
        }
        Ok(wrong)
    }

    fn show(self) -> anyhow::Result<()> {
        let settings = self.settings.over_file(self.file.path.as_deref())?;
        let effective = serde_json::to_value(settings.over(Settings::defaults()?)?)?;
        let given = arguments();
        let rows: Vec<Value> = known()
            .iter()
            .map(|known| {
                let from = origin(known, &given, settings.places.get(&known.name));
                let value = masked(&known.name, &effective[&known.name]);
                json!({"setting": known.name, "value": value, "from": from})
            })
            .collect();
        let by_name: Map<String, Value> = rows
            .iter()
            .filter_map(|row| {
                let name = row["setting"].as_str()?.to_owned();
                Some((name, json!({"value": row["value"], "from": row["from"]})))
            })
            .collect();
        let columns = [("SETTING", "setting"), ("VALUE", "value"), ("FROM", "from")];
        print(&Value::Object(by_name), self.json, |_| {
            tabulated(&rows, &columns)
        });
        Ok(())
    }
}

/// What is wrong with settings, if anything.
fn judge(
    settings: &Settings,
    read: impl Fn(&Settings) -> anyhow::Result<EngineConfig>,
) -> Option<Wrong> {
    let error = settings.database().err().or_else(|| read(settings).err())?;
    Some(match error.downcast::<Wrong>() {
        Ok(wrong) => wrong,
        Err(error) => Wrong {
            setting: None,
            place: None,
            detail: format!("{error:#}"),
        },
    })
}

/// The arguments of the command that runs.
fn arguments() -> ArgMatches {
    let mut matches = crate::environment::command().get_matches();
    while let Some((_, below)) = matches.subcommand() {
        matches = below.clone();
    }
    matches
}

fn origin(known: &Known, given: &ArgMatches, place: Option<&Place>) -> String {
    match (given.value_source(&known.name), place) {
        (Some(ValueSource::CommandLine), _) => format!("flag {}", known.flag),
        (Some(ValueSource::EnvVariable), _) => format!("environment {}", known.variable),
        (_, Some(place)) => format!("file {place}"),
        (_, None) => "default".to_owned(),
    }
}

/// A value without what is secret of it.
fn masked(name: &str, value: &Value) -> Value {
    match value {
        Value::String(url) if name == "database_url" => json!(without_password(url)),
        Value::Array(items) if SECRET.contains(&name) => json!(vec!["***"; items.len()]),
        Value::String(_) if SECRET.contains(&name) => json!("***"),
        other => other.clone(),
    }
}

/// A database's URL without what is secret of it.
pub(crate) fn without_password(url: &str) -> String {
    if !url.contains("://") || url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Ok(mut parsed) = url::Url::parse(url) else {
        return "***".to_owned();
    };
    let masked = parsed.password().is_none() || parsed.set_password(Some("***")).is_ok();
    let pairs: Vec<(String, String)> = parsed
        .query_pairs()
        .map(|(name, value)| {
            let value = if name.contains("password") {
                "***".into()
            } else {
                value
            };
            (name.into_owned(), value.into_owned())
        })
        .collect();
    if !pairs.is_empty() {
        parsed.query_pairs_mut().clear().extend_pairs(pairs);
    }
    if masked {
        parsed.to_string()
    } else {
        "***".to_owned()
    }
}
