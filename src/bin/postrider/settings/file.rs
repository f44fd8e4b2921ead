//! The settings file. It is read key by key, so that all mistakes are reported at once, each with its
//! location and a suggested fix. Values of secrets are never repeated.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as _;
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ServerSettings;

/// Settings whose values are secret.
pub(crate) const SECRET_SETTINGS: [&str; 3] = ["api_token", "encryption_keys", "database_url"];

/// Locations of the settings that come from a file, by name.
pub(crate) type SourceLocations = BTreeMap<String, SourceLocation>;

/// A location in the settings file. Lines and columns start at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SourceLocation {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl SourceLocation {
    fn at(file: &Path, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, line {}, column {}",
            self.file.display(),
            self.line,
            self.column
        )
    }
}

/// A mistake in the settings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ConfigError {
    /// `None` if the mistake is not in a single setting.
    pub(crate) setting: Option<String>,
    #[serde(rename = "place")]
    pub(crate) location: Option<SourceLocation>,
    pub(crate) detail: String,
}

impl ConfigError {
    pub(super) fn new(setting: &str, location: Option<SourceLocation>, detail: String) -> Self {
        Self {
            setting: Some(setting.to_owned()),
            location,
            detail,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "in the settings file {location}: ")?;
        }
        if let Some(setting) = &self.setting {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.detail)
    }
}

impl std::error::Error for ConfigError {}

/// Joins the messages of several errors.
pub(crate) fn join_errors(errors: &[ConfigError], separator: &str) -> String {
    let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
    messages.join(separator)
}

/// The names and the help text of a setting.
pub(crate) struct SettingSpec {
    pub(crate) name: String,
    pub(crate) flag: String,
    pub(crate) variable: String,
    pub(crate) help: String,
}

/// Returns all settings, in the order of the struct.
pub(crate) fn setting_specs() -> Vec<SettingSpec> {
    let command = ServerSettings::augment_args(clap::Command::new("settings"));
    let specs = command.get_arguments().map(|arg| SettingSpec {
        name: arg.get_id().to_string(),
        flag: format!("--{}", arg.get_long().unwrap_or_default()),
        variable: arg
            .get_env()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
    });
    specs.collect()
}

impl ServerSettings {
    /// Reads a file; returns its valid settings and all mistakes.
    pub(crate) fn read_file(path: &Path) -> anyhow::Result<(Self, Vec<ConfigError>)> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read the settings file {}: check its name and its permissions",
                path.display()
            )
        })?;
        let table = match DeTable::parse(&text) {
            Ok(table) => table,
            // Without the line itself, which may contain a secret.
            Err(error) => {
                let location = error
                    .span()
                    .map(|span| SourceLocation::at(path, &text, span.start));
                let error = ConfigError {
                    setting: None,
                    location,
                    detail: error.message().to_owned(),
                };
                return Ok((Self::default(), vec![error]));
            }
        };
        let mut settings = Self::default();
        let mut errors = Vec::new();
        for (key, value) in table.get_ref() {
            let location = SourceLocation::at(path, &text, key.span().start);
            match read_one(&text, key, value) {
                Ok(one) => {
                    settings = one.over(settings)?;
                    settings
                        .locations
                        .insert(key.get_ref().to_string(), location);
                }
                Err((offset, detail)) => {
                    let location =
                        offset.map_or(location, |offset| SourceLocation::at(path, &text, offset));
                    errors.push(ConfigError::new(key.get_ref(), Some(location), detail));
                }
            }
        }
        errors.sort_by_key(|error| {
            let location = error.location.as_ref()?;
            Some((location.line, location.column))
        });
        Ok((settings, errors))
    }
}

/// Reads one setting of a file. An error has its offset, if it is not at the name, and the detail.
fn read_one(
    text: &str,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<ServerSettings, (Option<usize>, String)> {
    let name = key.get_ref().as_ref();
    let specs = setting_specs();
    let Some(setting) = specs.iter().find(|spec| spec.name == name) else {
        return Err((None, format!("unknown setting; {}", nearest(name, &specs))));
    };
    let start = key.span().start;
    let assignment = if value.get_ref().is_table() {
        None
    } else {
        text.get(start..value.span().end)
    };
    let Some(assignment) = assignment else {
        return Err((
            None,
            format!("must be a value, not a table ({})", setting.help),
        ));
    };
    toml::from_str(assignment).map_err(|error| {
        // The location of the value; in an array, of the invalid item.
        let offset = error.span().map_or(value.span().start, |span| {
            (start + span.start).max(value.span().start)
        });
        let detail = if SECRET_SETTINGS.contains(&name) {
            format!("cannot be a {}", value.get_ref().type_str())
        } else {
            error
                .message()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        (Some(offset), format!("{detail} ({})", setting.help))
    })
}

/// Similarity at which a setting is suggested for a misspelt key.
const SIMILAR: f64 = 0.8;

/// Similarity at which a variable counts as a misspelt setting.
const ALMOST_EQUAL: f64 = 0.93;

/// Returns an error for each variable that is almost, but not exactly, the name of a setting. (Other
/// variables may have nothing to do with Postrider: Kubernetes derives some from service names.)
pub(crate) fn unknown_variables(variables: impl Iterator<Item = String>) -> Vec<ConfigError> {
    let specs = setting_specs();
    let known: Vec<&str> = specs.iter().map(|spec| spec.variable.as_str()).collect();
    variables
        .filter_map(|variable| {
            let meant = misspelt_setting(&variable, &known)?;
            let detail = format!("unknown setting; did you mean {meant}?");
            Some(ConfigError::new(&variable, None, detail))
        })
        .collect()
}

/// Returns the setting that an unknown variable was probably meant to be.
fn misspelt_setting<'s>(variable: &str, known: &[&'s str]) -> Option<&'s str> {
    let name = variable
        .strip_prefix("POSTRIDER_")
        .filter(|_| !known.contains(&variable))?;
    let scores = known.iter().map(|setting| {
        let likeness = strsim::jaro_winkler(name, setting.trim_start_matches("POSTRIDER_"));
        (*setting, likeness)
    });
    let (best, likeness) = scores.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (likeness >= ALMOST_EQUAL).then_some(best)
}

fn nearest(name: &str, specs: &[SettingSpec]) -> String {
    let name = name.replace('-', "_").to_lowercase();
    let scores = specs
        .iter()
        .map(|spec| (&spec.name, strsim::jaro_winkler(&name, &spec.name)));
    let best = scores.max_by(|(_, a), (_, b)| a.total_cmp(b));
    match best.filter(|(_, likeness)| *likeness >= SIMILAR) {
        Some((best, _)) => format!("did you mean `{best}`?"),
        None => "`postrider config show` lists all settings".to_owned(),
    }
}
