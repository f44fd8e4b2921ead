//! The local token: made at the first start, kept beside the database, readable by its owner alone.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use postrider::config::DatabaseUrl;
use postrider::domain::access::generate_token;

/// Where the token of that database is kept.
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

/// The token kept at `path`; made if there is none.
pub(crate) fn read_or_make(path: &Path) -> anyhow::Result<String> {
    if let Some(token) = read(path)? {
        return Ok(token);
    }
    let token = generate_token();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| {
        format!(
            "cannot write the token file {}: check that its folder exists and is writable",
            path.display()
        )
    })?;
    writeln!(file, "{token}").and_then(|()| file.sync_all())?;
    Ok(token)
}

/// The token kept at `path`, if there is one.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the token file {}", path.display()))
        }
    }
}
