//! The settings file: read key by key, so that everything that is wrong in it is told at once, with
//! its place and what would be right. Of a secret nothing is repeated.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as _;
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Settings;

/// Settings whose values are for nobody's eyes.
pub(crate) const SECRET: [&str; 3] = ["api_token", "encryption_keys", "database_url"];

/// Where each setting that is from a file is.
pub(crate) type Places = BTreeMap<String, Place>;

/// Where something is in a file. Lines and columns begin at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
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

impl fmt::Display for Place {
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

/// A setting that cannot stand, and why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Wrong {
    /// `None` where the file as a whole cannot be read.
    pub(crate) setting: Option<String>,
    pub(crate) place: Option<Place>,
    pub(crate) detail: String,
}

impl Wrong {
    pub(super) fn new(setting: &str, place: Option<Place>, detail: String) -> Self {
        Self {
            setting: Some(setting.to_owned()),
            place,
            detail,
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "in the settings file {place}: ")?;
        }
        if let Some(setting) = &self.setting {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Wrong {}

/// A setting as flag, variable and key.
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) flag: String,
    pub(crate) variable: String,
    pub(crate) help: String,
}

/// Everything that can be set, in the order of the struct.
pub(crate) fn known() -> Vec<Known> {
    let command = Settings::augment_args(clap::Command::new("settings"));
    let known = command.get_arguments().map(|arg| Known {
        name: arg.get_id().to_string(),
        flag: format!("--{}", arg.get_long().unwrap_or_default()),
        variable: arg
            .get_env()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
    });
    known.collect()
}

impl Settings {
    /// What a file says, and everything that is wrong with it.
    pub(crate) fn read_file(path: &Path) -> anyhow::Result<(Self, Vec<Wrong>)> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read the settings file {}: check its name and its permissions",
                path.display()
            )
        })?;
        let table = match DeTable::parse(&text) {
            Ok(table) => table,
            // Not the line itself: it may hold a secret.
            Err(error) => {
                let place = error.span().map(|span| Place::at(path, &text, span.start));
                let wrong = Wrong {
                    setting: None,
                    place,
                    detail: error.message().to_owned(),
                };
                return Ok((Self::default(), vec![wrong]));
            }
        };
        let (mut settings, mut wrong) = (Self::default(), Vec::new());
        for (key, value) in table.get_ref() {
            let place = Place::at(path, &text, key.span().start);
            match read_one(&text, key, value) {
                Ok(one) => {
                    settings = one.over(settings)?;
                    settings.places.insert(key.get_ref().to_string(), place);
                }
                Err((offset, detail)) => {
                    let place = offset.map_or(place, |offset| Place::at(path, &text, offset));
                    wrong.push(Wrong::new(key.get_ref(), Some(place), detail));
                }
            }
        }
        wrong.sort_by_key(|one| one.place.as_ref().map(|place| (place.line, place.column)));
        Ok((settings, wrong))
    }
}

/// One setting of a file; or where what is wrong with it is, if not at its name, and what.
fn read_one(
    text: &str,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Settings, (Option<usize>, String)> {
    let (name, known) = (key.get_ref().as_ref(), known());
    let Some(setting) = known.iter().find(|known| known.name == name) else {
        return Err((None, format!("unknown setting; {}", nearest(name, &known))));
    };
    let start = key.span().start;
    let alone = if value.get_ref().is_table() {
        None
    } else {
        text.get(start..value.span().end)
    };
    let Some(alone) = alone else {
        return Err((
            None,
            format!("must be a value, not a table ({})", setting.help),
        ));
    };
    toml::from_str(alone).map_err(|error| {
        // At the value; within an array, at the very one.
        let offset = error.span().map_or(value.span().start, |span| {
            (start + span.start).max(value.span().start)
        });
        let detail = if SECRET.contains(&name) {
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

/// How alike two names must be for one to be meant by the other.
const ALIKE: f64 = 0.8;

/// Variables of the environment that are no settings, and all but one. (Others may be anybody's:
/// Kubernetes makes some of the names of services.)
pub(crate) fn misspelt(variables: impl Iterator<Item = String>) -> Vec<Wrong> {
    const ALL_BUT: f64 = 0.93;
    let known = known();
    let all: Vec<&str> = known.iter().map(|known| known.variable.as_str()).collect();
    let wrong = |variable: String| {
        let name = variable
            .strip_prefix("POSTRIDER_")
            .filter(|_| !all.contains(&variable.as_str()))?;
        let likeness =
            |other: &&str| strsim::jaro_winkler(name, other.trim_start_matches("POSTRIDER_"));
        let best = all
            .iter()
            .copied()
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        let detail = format!("unknown setting: did you mean {best}?");
        (likeness(&best) >= ALL_BUT).then(|| Wrong::new(&variable, None, detail))
    };
    variables.filter_map(wrong).collect()
}

fn nearest(name: &str, known: &[Known]) -> String {
    let name = name.replace('-', "_").to_lowercase();
    let likeness = |known: &Known| strsim::jaro_winkler(&name, &known.name);
    let best = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|best| likeness(best) >= ALIKE) {
        Some(best) => format!("did you mean `{}`?", best.name),
        None => "`postrider config show` lists all that can be set".to_owned(),
    }
}
