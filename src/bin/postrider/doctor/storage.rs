//! Checks of the database, and of the permissions of files with secrets.

use std::path::Path;

use postrider::StoreError;
use postrider::config::DatabaseUrl;
use postrider::schema::{MigrationStatus, inspect_at};

use super::check::Check;
use crate::config::without_password;
use crate::settings::ServerSettings;
use crate::token;

/// Checks that the database is reachable, has this program's schema, and is durable.
pub(super) fn database(settings: &ServerSettings) -> Vec<Check> {
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
            format!("{name} does not exist yet; `postrider serve` creates it"),
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
    let mut checks = vec![Check::ok("database", format!("{name} is reachable"))];
    checks.push(schema(&found.migrations));
    match found.hazards.as_slice() {
        [] => checks.push(Check::ok(
            "durability",
            "committed data survives a power failure",
        )),
        hazards => {
            let remedy = "fix this before the server accepts events";
            checks.extend(
                hazards
                    .iter()
                    .map(|hazard| Check::wrong("durability", hazard, remedy)),
            );
        }
    }
    checks
}

/// Checks that the database has exactly the migrations of this release.
fn schema(migrations: &[MigrationStatus]) -> Check {
    if migrations.iter().any(|migration| !migration.known) {
        return Check::wrong(
            "schema",
            "migrated by a newer release",
            "run that release, or a later one",
        );
    }
    let pending: Vec<&str> = migrations
        .iter()
        .filter(|migration| migration.run_at.is_none())
        .map(|migration| migration.version.as_str())
        .collect();
    if pending.is_empty() {
        return Check::ok("schema", "up to date");
    }
    let pending = pending.join(", ");
    Check::note(
        "schema",
        format!(
            "pending migrations {pending}; the next start, or `postrider migrate up`, runs them"
        ),
    )
}

fn remedy_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => {
            "follow the advice above; the URL is the setting `database_url`"
        }
        _ => "check `database_url`, and that this user has read and write permission",
    }
}

/// Checks the database's folder, and the permissions of files that hold secrets.
pub(super) fn files(settings: &ServerSettings, settings_file: Option<&Path>) -> Vec<Check> {
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
            Ok(_) => Check::ok("folder", format!("{} is writable", folder.display())),
            Err(error) => Check::wrong(
                "folder",
                format!("{} is not writable: {error}", folder.display()),
                "create the folder and give this user write permission: SQLite keeps its log next to the database",
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

/// Returns true if the file contains a secret setting.
fn holds_secrets(settings: &ServerSettings) -> bool {
    crate::settings::SECRET_SETTINGS
        .iter()
        .any(|name| settings.locations.contains_key(*name))
}

/// Checks that other users have no access to a file; `None` if the file does not exist.
///
/// Access of the group is accepted: settings files are often `root:postrider 640`.
#[cfg(unix)]
fn private(path: &Path) -> Option<Check> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let path = path.display();
    Some(if mode & 0o007 == 0 {
        Check::ok("permissions", format!("{path} is private ({mode:03o})"))
    } else {
        Check::wrong(
            "permissions",
            format!(
                "{path} contains secrets, and every user of this machine has access to it ({mode:03o})"
            ),
            format!("chmod 600 {path}"),
        )
    })
}

#[cfg(not(unix))]
fn private(_: &Path) -> Option<Check> {
    None
}
