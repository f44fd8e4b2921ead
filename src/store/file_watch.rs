//! Detects that the database's file was moved, deleted or replaced while it is open.
//!
//! Writes to such a file are lost at the next start, so nothing may be reported as durable from
//! then on.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Unavailable;

/// Interval between log messages about the same problem.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Files that SQLite keeps next to an open database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Identity of a file: device and inode.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity_of(found: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

/// Without inodes only a missing file is detected.
#[cfg(not(unix))]
fn identity_of(_: &Metadata) -> Identity {
    (0, 0)
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path)
        .ok()
        .map(|found| identity_of(&found))
}

/// Watches an open database file and its companions. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct FileWatch {
    files: Arc<Mutex<Files>>,
}

#[derive(Debug)]
struct Files {
    database: PathBuf,
    database_is: Identity,
    /// `None` while no writing connection is open: closing the last connection removes the files.
    companions: [(PathBuf, Option<Identity>); 2],
    /// Number of open writing connections.
    writers: usize,
    logged_at: Option<Instant>,
}

impl FileWatch {
    /// Watches a file that is open now.
    pub(super) fn new(database: &Path) -> Option<Self> {
        let database_is = identity(database)?;
        let companion = |end| {
            let mut name = database.as_os_str().to_owned();
            name.push(end);
            (PathBuf::from(name), None)
        };
        let files = Files {
            database: database.to_owned(),
            database_is,
            companions: COMPANIONS.map(companion),
            writers: 0,
            logged_at: None,
        };
        Some(Self {
            files: Arc::new(Mutex::new(files)),
        })
    }

    /// Checks that every file is in its place.
    ///
    /// # Errors
    /// [`Unavailable::Moved`], also once a minute in the log.
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        let mut files = self.lock();
        let Some((path, was)) = files.displaced() else {
            return Ok(());
        };
        let now_at = open_file_of(was)
            .map_or_else(|| "deleted".to_owned(), |path| path.display().to_string());
        let moved = Unavailable::Moved {
            path: path.display().to_string(),
            now_at,
        };
        if files.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            files.logged_at = Some(Instant::now());
            tracing::error!("{moved}");
        }
        Err(moved)
    }

    /// Watches the companion files as well, while a writing connection is open that has read from
    /// the database.
    pub(super) fn watch_companions(&self) -> WatchedCompanions {
        let mut files = self.lock();
        files.writers += 1;
        for (path, known) in &mut files.companions {
            // A detected problem stays, even if the database is opened again.
            *known = known.or_else(|| identity(path));
        }
        WatchedCompanions {
            watch: self.clone(),
        }
    }

    // Each field is assigned as a whole, so a poisoned lock is still usable.
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writing connection whose companion files are watched. Drop it before closing the connection.
#[derive(Debug)]
pub(super) struct WatchedCompanions {
    watch: FileWatch,
}

impl WatchedCompanions {
    /// Same as [`FileWatch::check`].
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        self.watch.check()
    }
}

impl Drop for WatchedCompanions {
    fn drop(&mut self) {
        let mut files = self.watch.lock();
        files.writers -= 1;
        if files.writers == 0 && files.displaced().is_none() {
            files
                .companions
                .iter_mut()
                .for_each(|(_, known)| *known = None);
        }
    }
}

impl Files {
    /// Returns the first file that is not in its place, with its identity.
    fn displaced(&self) -> Option<(PathBuf, Identity)> {
        let companions = self
            .companions
            .iter()
            .filter_map(|(path, known)| Some((path, (*known)?)));
        let mut all = std::iter::once((&self.database, self.database_is)).chain(companions);
        let (path, was) = all.find(|(path, was)| identity(path) != Some(*was))?;
        Some((path.clone(), was))
    }
}

/// Returns the current path of an open file, if the system reports it.
fn open_file_of(wanted: Identity) -> Option<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    let handle = open
        .map(|entry| entry.path())
        .find(|path| identity(path) == Some(wanted))?;
    let target = std::fs::read_link(handle).ok()?;
    // The system marks files that no longer have a name.
    (!target.to_string_lossy().ends_with(" (deleted)")).then_some(target)
}

/// Rejects creating an empty database if its companion files exist: then the database was moved
/// away.
///
/// # Errors
/// Names the missing and the existing files.
pub(super) fn refuse_if_missing(database: &Path) -> Result<(), String> {
    if database.exists() {
        return Ok(());
    }
    let beside = |end: &&str| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        Path::new(&name).exists()
    };
    let there: Vec<&str> = ["-wal", ".token", ".lock"]
        .into_iter()
        .filter(beside)
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let database = database.display();
    let names = there
        .iter()
        .map(|end| format!("{database}{end}"))
        .collect::<Vec<_>>()
        .join(", ");
    Err(format!(
        "the database {database} is missing, but {names} is there: put the database back, or start with --create to create an empty one"
    ))
}

/// Creates the file if it does not exist, readable only by its owner: it contains secrets and
/// payloads. SQLite's companion files inherit the mode.
pub(super) fn make_private(database: &Path) -> std::io::Result<()> {
    if database.exists() {
        return Ok(());
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(database).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_replaced_or_deleted_is_noticed_and_one_that_is_back_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(&path, "database").unwrap();
        let held = std::fs::File::open(&path).unwrap();
        let watch = FileWatch::new(&path).unwrap();
        assert_eq!(watch.check(), Ok(()));
        std::fs::rename(&path, at("b.db")).unwrap();
        let Err(Unavailable::Moved { path: from, now_at }) = watch.check() else {
            panic!("moved")
        };
        assert!(
            from.ends_with("a.db") && now_at.ends_with("b.db"),
            "{from} {now_at}"
        );
        std::fs::write(&path, "another").unwrap();
        assert!(watch.check().is_err(), "another file at the same path");
        std::fs::rename(at("b.db"), &path).unwrap();
        assert_eq!(watch.check(), Ok(()), "it is back");
        std::fs::write(at("a.db-wal"), "log").unwrap();
        let writer = watch.watch_companions();
        assert_eq!(watch.check(), Ok(()));
        std::fs::rename(at("a.db-wal"), at("elsewhere")).unwrap();
        assert!(
            watch.check().is_err(),
            "a companion is gone while it is in use"
        );
        drop(writer);
        let writer = watch.watch_companions();
        assert!(
            watch.check().is_err(),
            "also for who opens the database anew"
        );
        std::fs::rename(at("elsewhere"), at("a.db-wal")).unwrap();
        assert_eq!(watch.check(), Ok(()), "it is back");
        drop(writer);
        std::fs::remove_file(at("a.db-wal")).unwrap();
        assert_eq!(watch.check(), Ok(()), "a database that is closed has none");
        drop(held);
    }

    #[test]
    fn a_database_that_is_missing_beside_its_companions_is_not_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert!(refuse_if_missing(&path).is_ok(), "a first start");
        std::fs::write(folder.path().join("a.db.token"), "token").unwrap();
        let error = refuse_if_missing(&path).unwrap_err();
        assert!(
            error.contains("a.db.token") && error.contains("--create"),
            "{error}"
        );
        std::fs::write(&path, "").unwrap();
        assert!(refuse_if_missing(&path).is_ok());
    }
}
