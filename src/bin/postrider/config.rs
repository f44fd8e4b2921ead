//! `postrider config`: checking the settings, and showing their sources.

use clap::parser::ValueSource;
use clap::{ArgMatches, Subcommand};
use postrider::config::EngineConfig;
use serde_json::{Map, Value, json};

use crate::output::{emit, print, tabulated};
use crate::serve::raise_file_limit;
use crate::settings::{
    ConfigError, SECRET_SETTINGS, ServerSettings, SettingSpec, SettingsFile, SourceLocation,
    join_errors, setting_specs, unknown_variables,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check all settings as `serve` would, and report every mistake.
    Check(Box<ConfigArgs>),
    /// Show the effective settings and where each comes from.
    Show(Box<ConfigArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) settings: ServerSettings,

    #[command(flatten)]
    pub(crate) file: SettingsFile,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ConfigCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        raise_file_limit();
        match self {
            Self::Check(args) => args.check(),
            Self::Show(args) => args.show(),
        }
    }
}

impl ConfigArgs {
    fn check(self) -> anyhow::Result<()> {
        let errors = self.validate_all()?;
        let file = self
            .file
            .path
            .as_deref()
            .map(|path| path.display().to_string());
        let ok = errors.is_empty();
        if self.json {
            emit(&format!(
                "{:#}",
                json!({"ok": ok, "file": file, "wrong": errors})
            ));
        } else if ok {
            emit(&format!(
                "the settings are valid (file: {})",
                file.as_deref().unwrap_or("none")
            ));
        }
        if ok {
            return Ok(());
        }
        Err(anyhow::anyhow!(join_errors(&errors, "\n")))
    }

    /// Checks each setting separately, so that one mistake does not hide another, and then all
    /// together.
    pub(crate) fn validate_all(&self) -> anyhow::Result<Vec<ConfigError>> {
        let (in_file, mut errors) = match &self.file.path {
            Some(path) => ServerSettings::read_file(path)?,
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
            let single: ServerSettings = serde_json::from_value(json!({ name: value }))?;
            errors.extend(first_error(
                &ServerSettings {
                    locations: merged.locations.clone(),
                    ..single
                },
                ServerSettings::parse,
            ));
        }
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        errors.extend(unknown_variables(variables));
        if errors.is_empty() {
            errors.extend(first_error(&merged, |settings| {
                settings.token()?;
                settings.keep_alive()?;
                settings.cors_origins()?;
                settings.log_filter()?;
                settings.engine()
            }));
        }
        Ok(errors)
    }

    fn show(self) -> anyhow::Result<()> {
        let settings = self.settings.over_file(self.file.path.as_deref())?;
        let effective = serde_json::to_value(settings.over(ServerSettings::defaults()?)?)?;
        let matches = arguments();
        let rows: Vec<Value> = setting_specs()
            .iter()
            .map(|spec| {
                let source = source_of(spec, &matches, settings.locations.get(&spec.name));
                let value = masked(&spec.name, &effective[&spec.name]);
                json!({"setting": spec.name, "value": value, "from": source})
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

/// Returns the first mistake in settings, if any.
fn first_error(
    settings: &ServerSettings,
    parse: impl Fn(&ServerSettings) -> anyhow::Result<EngineConfig>,
) -> Option<ConfigError> {
    let error = settings
        .database()
        .err()
        .or_else(|| parse(settings).err())?;
    Some(match error.downcast::<ConfigError>() {
        Ok(error) => error,
        Err(error) => ConfigError {
            setting: None,
            location: None,
            detail: format!("{error:#}"),
        },
    })
}

/// Returns the parsed arguments of the innermost subcommand.
fn arguments() -> ArgMatches {
    let mut matches = crate::environment::command().get_matches();
    while let Some((_, subcommand)) = matches.subcommand() {
        matches = subcommand.clone();
    }
    matches
}

/// Describes the source of a setting: flag, environment, file or default.
fn source_of(
    spec: &SettingSpec,
    matches: &ArgMatches,
    location: Option<&SourceLocation>,
) -> String {
    match (matches.value_source(&spec.name), location) {
        (Some(ValueSource::CommandLine), _) => format!("flag {}", spec.flag),
        (Some(ValueSource::EnvVariable), _) => format!("environment {}", spec.variable),
        (_, Some(location)) => format!("file {location}"),
        (_, None) => "default".to_owned(),
    }
}

/// Masks the secrets in a value.
fn masked(name: &str, value: &Value) -> Value {
    match value {
        Value::String(url) if name == "database_url" => json!(without_password(url)),
        Value::Array(items) if SECRET_SETTINGS.contains(&name) => json!(vec!["***"; items.len()]),
        Value::String(_) if SECRET_SETTINGS.contains(&name) => json!("***"),
        other => other.clone(),
    }
}

/// Masks the passwords in a database URL.
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
