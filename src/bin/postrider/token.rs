//! The local API token: generated on first start and stored next to the SQLite database, readable
//! only by its owner.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use postrider::config::DatabaseUrl;
use postrider::domain::access::generate_token;

/// Path of the token file of a database; `None` for a database server.
pub(crate) fn path_of(database: &DatabaseUrl) -> Option<PathBuf> {
    match database {
        DatabaseUrl::Sqlite(path) => {
            let mut name = path.clone().into_os_string();
            name.push(".token");
            Some(name.into())
        }
        _ => None,
    }
}

/// Reads the token file, and creates it with a new token if it does not exist.
pub(crate) fn read_or_create(path: &Path) -> anyhow::Result<String> {
    if let Some(token) = read(path)? {
        return Ok(token);
    }
    let token = generate_token(&postrider::ports::OsRandom);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| {
        format!(
            "cannot create the token file {}: check that its folder exists and is writable",
            path.display()
        )
    })?;
    writeln!(file, "{token}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write the token file {}", path.display()))?;
    Ok(token)
}

/// Reads the token file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot read the token file {}: check its permissions",
                path.display()
            )
        }),
    }
}
