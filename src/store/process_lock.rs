//! A lock next to the database that the system releases when its process ends: the next holder
//! knows that the former one is gone.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use super::file_watch::{make_private, refuse_if_missing};
use super::source::Source;
use crate::config::EngineConfig;
use crate::domain::node::NodeRecord;
use crate::domain::random::{Random, bytes};

/// The lock of a sending process, held as long as it lives.
pub(crate) enum ProcessLock {
    /// Lock file of an SQLite database: there is no other sender.
    Sole { _lock: FileLock },
    /// Lock on a node's name, on this host. `id` identifies the lock, not the process.
    Name { _lock: FileLock, id: String },
    /// Another process of this host has that name; `id` identifies its lock.
    Taken { id: String },
    /// There is no place for a lock file.
    Nowhere,
}

impl ProcessLock {
    /// Takes the lock, or fails with its owner.
    pub(crate) fn acquire(
        source: &Source,
        config: &EngineConfig,
        random: &dyn Random,
    ) -> Result<Self, StoreError> {
        match source.file()? {
            Some(path) => {
                if !config.create_database {
                    refuse_if_missing(&path).map_err(StoreError::Setup)?;
                }
                Self::of_file(&path)
            }
            None => Self::of_name(&source.identity()?, &config.node_name, random),
        }
    }

    fn of_file(database: &Path) -> Result<Self, StoreError> {
        make_private(database).map_err(|error| {
            let what = format!("cannot open {}: {error}", database.display());
            StoreError::Setup(format!(
                "{what}: check that its folder exists and is writable"
            ))
        })?;
        let path = beside(database);
        let cannot = |error: std::io::Error| {
            StoreError::Setup(format!(
                "cannot open the lock file {}: {error}: give this user write permission to the folder",
                path.display()
            ))
        };
        let mut lock = FileLock::acquire(&path).map_err(cannot)?.map_err(|owner| {
            StoreError::Setup(format!(
                "another process (pid {}) already sends from {}: stop it, or give this one a separate database",
                owner.trim(),
                database.display()
            ))
        })?;
        lock.write(&format!("{}\n", std::process::id()))
            .map_err(cannot)?;
        Ok(Self::Sole { _lock: lock })
    }

    /// Distinguishes two processes with the same name on one host; on two hosts the database does.
    fn of_name(database: &str, node_name: &str, random: &dyn Random) -> Result<Self, StoreError> {
        // Several databases may have nodes of the same name. (The URL may contain a password.)
        let database = Sha256::digest(database);
        let database: String = database
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let folder =
            std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = folder.join(format!("postrider-{database}-{node_name}.lock"));
        let locked = FileLock::acquire(&path).and_then(|locked| {
            // A copied machine has a copy of the file; only its boot id differs.
            let of_host = |id: &str| format!("{id}@{}", this_boot());
            let mut lock = match locked {
                Ok(lock) => lock,
                Err(id) => return Ok(Self::Taken { id: of_host(&id) }),
            };
            let mut id = lock.read()?;
            if id.is_empty() {
                id = uuid::Builder::from_random_bytes(bytes(random))
                    .into_uuid()
                    .simple()
                    .to_string();
                lock.write(&id)?;
            }
            Ok(Self::Name {
                id: of_host(&id),
                _lock: lock,
            })
        });
        match locked {
            Ok(lock) => Ok(lock),
            Err(error) => {
                tracing::debug!(%error, "no lock on the node's name: after a crash its shards are free once their leases expire");
                Ok(Self::Nowhere)
            }
        }
    }

    /// Returns the id by which other processes recognise it.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Self::Name { id, .. } => Some(id),
            Self::Sole { .. } | Self::Taken { .. } | Self::Nowhere => None,
        }
    }

    /// Returns true if the process of `other` has certainly ended.
    pub(crate) fn proves_gone(&self, other: &NodeRecord) -> bool {
        match self {
            Self::Sole { .. } => true,
            Self::Name { id, .. } => other.lock.as_deref() == Some(id),
            Self::Taken { .. } | Self::Nowhere => false,
        }
    }

    /// Returns true if a process of the same name is certainly running.
    pub(crate) fn proves_alive(&self, other: &NodeRecord) -> bool {
        matches!(self, Self::Taken { id } if other.lock.as_deref() == Some(id))
    }
}

/// Returns an id of this run of the machine.
fn this_boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// An exclusive lock on a whole file.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock on the file, creating it if needed. If another process has it, returns the
    /// file's content.
    fn acquire(path: &Path) -> std::io::Result<Result<Self, String>> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut lock = Self {
            file: options.open(path)?,
        };
        match lock.file.try_lock() {
            Ok(()) => Ok(Ok(lock)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(Err(lock.read().unwrap_or_default())),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn read(&mut self) -> std::io::Result<String> {
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())
    }
}

/// Resolves links, so that two names of one file share a lock.
fn beside(database: &Path) -> PathBuf {
    let real = database
        .canonicalize()
        .unwrap_or_else(|_| database.to_owned());
    let mut name = real.into_os_string();
    name.push(".lock");
    name.into()
}
