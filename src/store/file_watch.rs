//! Notices that the database's file is no longer where it was opened: moved, deleted or replaced.
//!
//! What is written to such a file is lost to the next start, so nothing may be answered as durable from then on.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Unavailable;

/// How often the log tells of it.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What SQLite keeps beside the database while it is open.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// What tells one file from another: its device and its inode.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity_of(found: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

/// Without inodes only a missing file is noticed.
#[cfg(not(unix))]
fn identity_of(_: &Metadata) -> Identity {
    (0, 0)
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|found| identity_of(&found))
}

/// Watches an open database file and its companions. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct FileWatch {
    files: Arc<Mutex<Files>>,
}

#[derive(Debug)]
struct Files {
    database: PathBuf,
    database_is: Identity,
    /// `None` until it has been seen.
    companions: [(PathBuf, Option<Identity>); 2],
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
            logged_at: None,
        };
        Some(Self { files: Arc::new(Mutex::new(files)) })
    }

    /// Looks whether every file is where it was.
    ///
    /// # Errors
    /// [`Unavailable::Moved`], also once a minute in the log.
    pub(crate) fn check(&self) -> Result<(), Unavailable> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((path, was)) = files.displaced() else { return Ok(()) };
        let now_at =
            open_file_of(was).map_or_else(|| "deleted".to_owned(), |path| path.display().to_string());
        let moved = Unavailable::Moved { path: path.display().to_string(), now_at };
        if files.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            files.logged_at = Some(Instant::now());
            tracing::error!("{moved}");
        }
        Err(moved)
    }

    /// A connection was opened while all was well: SQLite may have made its companions anew.
    pub(super) fn relearn(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.displaced().is_none() {
            for (path, known) in &mut files.companions {
                *known = identity(path);
            }
        }
    }
}

impl Files {
    /// The first file that is not where it was, and what it is.
    fn displaced(&mut self) -> Option<(PathBuf, Identity)> {
        if identity(&self.database) != Some(self.database_is) {
            return Some((self.database.clone(), self.database_is));
        }
        for (path, known) in &mut self.companions {
            let found = identity(path);
            match *known {
                Some(was) if found != Some(was) => return Some((path.clone(), was)),
                Some(_) => {}
                None => *known = found,
            }
        }
        None
    }
}

/// Where a file that this process has open is now, if the system tells.
fn open_file_of(wanted: Identity) -> Option<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?;
    let mut paths = open.flatten().map(|entry| entry.path());
    let found = paths.find(|path| identity(path) == Some(wanted))?;
    let target = std::fs::read_link(found).ok()?;
    // The system marks what has no name any more.
    (!target.to_string_lossy().ends_with(" (deleted)")).then_some(target)
}

/// Refuses to begin an empty database where the files that belong to one are: then it was moved away.
///
/// # Errors
/// Names what is missing and what is there.
pub(super) fn refuse_if_missing(database: &Path) -> Result<(), String> {
    if database.exists() {
        return Ok(());
    }
    let beside = |end: &&str| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        Path::new(&name).exists()
    };
    let there: Vec<&str> = ["-wal", ".token", ".lock"].into_iter().filter(beside).collect();
    if there.is_empty() {
        return Ok(());
    }
    let database = database.display();
    let names = there.iter().map(|end| format!("{database}{end}")).collect::<Vec<_>>().join(", ");
    Err(format!(
        "the database {database} is missing, but {names} is there: put the database back, or start with --create to begin an empty one"
    ))
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
        let Err(Unavailable::Moved { path: from, now_at }) = watch.check() else { panic!("moved") };
        assert!(from.ends_with("a.db") && now_at.ends_with("b.db"), "{from} {now_at}");
        std::fs::write(&path, "another").unwrap();
        assert!(watch.check().is_err(), "another file at the same path");
        std::fs::rename(at("b.db"), &path).unwrap();
        assert_eq!(watch.check(), Ok(()), "it is back");
        std::fs::write(at("a.db-wal"), "log").unwrap();
        assert_eq!(watch.check(), Ok(()), "seen for the first time");
        std::fs::remove_file(at("a.db-wal")).unwrap();
        assert!(watch.check().is_err(), "a companion is gone");
        drop(held);
    }

    #[test]
    fn a_database_that_is_missing_beside_its_companions_is_not_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert!(refuse_if_missing(&path).is_ok(), "a first start");
        std::fs::write(folder.path().join("a.db.token"), "token").unwrap();
        let error = refuse_if_missing(&path).unwrap_err();
        assert!(error.contains("a.db.token") && error.contains("--create"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(refuse_if_missing(&path).is_ok());
    }
}
