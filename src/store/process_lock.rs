//! A lock beside the database that ends with its process, however that ends: whoever gets it knows
//! that the process that had it before is gone.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::rows::NodeRow;
use super::{Source, StoreError};
use crate::config::EngineConfig;

/// What a process that sends holds for as long as it lives.
pub(crate) enum ProcessLock {
    /// On a file beside an SQLite database: there is no other sender.
    Sole { _lock: FileLock },
    /// On a node's name, on this host. `id` is the lock's own, whatever the process.
    Name { _lock: FileLock, id: String },
    /// Another process of this host has that name: this is its lock's id.
    Taken { id: String },
    /// There is no place for one.
    Nowhere,
}

impl ProcessLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn acquire(source: &Source, config: &EngineConfig) -> Result<Self, StoreError> {
        match source.file()? {
            Some(path) => {
                if !config.create_database {
                    super::file_watch::refuse_if_missing(&path).map_err(StoreError::Setup)?;
                }
                Self::of_file(&path)
            }
            None => Self::of_name(&source.identity()?, &config.node_name),
        }
    }

    fn of_file(database: &Path) -> Result<Self, StoreError> {
        super::pool::make_private(database).map_err(|error| {
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
                "another process (pid {}) already sends from {}: stop it, or give this one a database of its own",
                owner.trim(),
                database.display()
            ))
        })?;
        lock.write(&format!("{}\n", std::process::id()))
            .map_err(cannot)?;
        Ok(Self::Sole { _lock: lock })
    }

    /// Two processes of one host that have one name are told apart here; those of two hosts, by the
    /// database.
    fn of_name(database: &str, node_name: &str) -> Result<Self, StoreError> {
        // One name may be a node's of several databases. (Its URL may hold a password.)
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
            // A copy of a machine has a copy of the file; only its boot is its own.
            let of_host = |id: &str| format!("{id}@{}", this_boot());
            let mut lock = match locked {
                Ok(lock) => lock,
                Err(id) => return Ok(Self::Taken { id: of_host(&id) }),
            };
            let mut id = lock.read()?;
            if id.is_empty() {
                id = uuid::Uuid::new_v4().simple().to_string();
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
                tracing::debug!(%error, "no lock on the node's name: after a crash its shards are free once their leases have run out");
                Ok(Self::Nowhere)
            }
        }
    }

    /// What others may know it by.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Self::Name { id, .. } => Some(id),
            Self::Sole { .. } | Self::Taken { .. } | Self::Nowhere => None,
        }
    }

    /// Whether a process that was another one's is gone for sure.
    pub(crate) fn proves_gone(&self, other: &NodeRow) -> bool {
        match self {
            Self::Sole { .. } => true,
            Self::Name { id, .. } => other.lock.as_deref() == Some(id),
            Self::Taken { .. } | Self::Nowhere => false,
        }
    }

    /// Whether a process of the same name is there for sure.
    pub(crate) fn proves_alive(&self, other: &NodeRow) -> bool {
        matches!(self, Self::Taken { id } if other.lock.as_deref() == Some(id))
    }
}

/// What tells one run of this machine from another.
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
    /// Takes the lock on the file, which is made if there is none. Where another process has it,
    /// what the file says of that.
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

/// Two names for one file must not be two locks.
fn beside(database: &Path) -> PathBuf {
    let real = database
        .canonicalize()
        .unwrap_or_else(|_| database.to_owned());
    let mut name = real.into_os_string();
    name.push(".lock");
    name.into()
}
