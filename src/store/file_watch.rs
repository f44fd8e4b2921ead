//! Notices that the database's file is no longer where it was opened: moved, deleted or replaced.
//!
//! What is written to such a file is lost to the next start, so nothing may be answered as durable
//! from then on.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    std::fs::metadata(path)
        .ok()
        .map(|found| identity_of(&found))
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
    /// `None` while no writing connection is open: the last connection that closes removes them.
    companions: [(PathBuf, Option<Identity>); 2],
    /// How many writing connections are open.
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

    /// Looks whether every file is where it was.
    ///
    /// # Errors
    /// [`Unavailable::Moved`], also once a minute in the log.
    pub(crate) fn check(&self) -> Result<(), Unavailable> {
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

    /// Watches the companions as well, for as long as a writing connection is open that has read
    /// from the file.
    pub(super) fn watch_companions(&self) -> WatchedCompanions {
        let mut files = self.lock();
        files.writers += 1;
        for (path, known) in &mut files.companions {
            // What a check has missed stays missed, whoever opens the database anew.
            *known = known.or_else(|| identity(path));
        }
        WatchedCompanions {
            watch: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writing connection whose companions are watched. To be dropped before the connection is
/// closed.
#[derive(Debug)]
pub(super) struct WatchedCompanions {
    watch: FileWatch,
}

impl WatchedCompanions {
    /// As [`FileWatch::check`].
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
    /// The first file that is not where it was, and what it is.
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

/// Where a file that this process has open is now, if the system tells.
fn open_file_of(wanted: Identity) -> Option<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    let handle = open
        .map(|entry| entry.path())
        .find(|path| identity(path) == Some(wanted))?;
    let target = std::fs::read_link(handle).ok()?;
    // The system marks what has no name any more.
    (!target.to_string_lossy().ends_with(" (deleted)")).then_some(target)
}

/// Refuses to begin an empty database where the files that belong to one are: then it was moved
/// away.
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
