//! Whether the database can be used, and its files are for nobody else.

use std::path::Path;

use postrider::config::DatabaseUrl;
use postrider::{StoreError, inspect_at};

use super::Check;
use crate::config::without_password;
use crate::settings::Settings;
use crate::token;

/// Reached, of this program's schema, and durable.
pub(super) fn database(settings: &Settings) -> Vec<Check> {
    let Ok(url) = settings.database() else {
        return Vec::new();
    };
    let name = settings
        .database_url
        .as_ref()
        .map(|url| without_password(&url.0));
    let name = name.unwrap_or_else(|| crate::settings::DEFAULT_DATABASE_URL.to_owned());
    if matches!(&url, DatabaseUrl::Sqlite(path) if !path.exists()) {
        return vec![Check::note(
            "database",
            format!("{name} is not there yet; `postrider serve` makes it"),
        )];
    }
    let found = match inspect_at(&url) {
        Ok(found) => found,
        Err(error) => {
            return vec![Check::wrong(
                "database",
                format!("{name}: {error}"),
                remedy_of(&error),
            )];
        }
    };
    let mut checks = vec![Check::ok("database", format!("{name} can be reached"))];
    let missing: Vec<&str> = found
        .migrations
        .iter()
        .filter(|migration| migration.run_at.is_none())
        .map(|migration| migration.version.as_str())
        .collect();
    checks.push(
        match (
            missing.as_slice(),
            found.migrations.iter().all(|migration| migration.known),
        ) {
            (_, false) => Check::wrong(
                "schema",
                "a newer release has been here",
                "run the release that made it, or a later one",
            ),
            ([], true) => Check::ok("schema", "up to date"),
            (missing, true) => Check::note(
                "schema",
                format!(
                    "lacks {}; `postrider migrate up`, or the next start, brings it",
                    missing.join(", ")
                ),
            ),
        },
    );
    match found.hazards.as_slice() {
        [] => checks.push(Check::ok(
            "durability",
            "what is committed survives a power cut",
        )),
        hazards => {
            let remedy = "do what is said there before anything is accepted";
            checks.extend(
                hazards
                    .iter()
                    .map(|hazard| Check::wrong("durability", hazard, remedy)),
            );
        }
    }
    checks
}

fn remedy_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "what is said there; the URL is `database_url`",
        _ => "check `database_url`, and that this user may read and write there",
    }
}

/// Files that hold secrets, and the folder of the database.
pub(super) fn files(settings: &Settings, settings_file: Option<&Path>) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Ok(url @ DatabaseUrl::Sqlite(_)) = settings.database() {
        let DatabaseUrl::Sqlite(database) = &url else {
            return checks;
        };
        let folder = database
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        checks.push(match tempfile::tempfile_in(folder) {
            Ok(_) => Check::ok("folder", format!("{} can be written", folder.display())),
            Err(error) => Check::wrong(
                "folder",
                format!("{} cannot be written: {error}", folder.display()),
                "make it, and give this user write permission: the database keeps its log beside it",
            ),
        });
        for path in [Some(database.clone()), token::path_of(&url)]
            .into_iter()
            .flatten()
        {
            checks.extend(private(&path));
        }
    }
    if let Some(path) = settings_file.filter(|_| holds_secrets(settings)) {
        checks.extend(private(path));
    }
    checks
}

/// Whether a setting that is secret is from the file.
fn holds_secrets(settings: &Settings) -> bool {
    crate::settings::SECRET
        .iter()
        .any(|name| settings.places.contains_key(*name))
}

/// That nobody but its owner (and, for a settings file, its group) can read a file; nothing if it
/// is not there.
#[cfg(unix)]
fn private(path: &Path) -> Option<Check> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let shown = path.display();
    Some(if mode & 0o007 == 0 {
        Check::ok("permissions", format!("{shown} is private ({mode:03o})"))
    } else {
        Check::wrong(
            "permissions",
            format!(
                "everybody on this machine can open {shown} ({mode:03o}), and it holds secrets"
            ),
            format!("chmod 600 {shown}"),
        )
    })
}

#[cfg(not(unix))]
fn private(_: &Path) -> Option<Check> {
    None
}
