//! A wall clock that is moved while a server runs, by libfaketime (package faketime).

use std::path::{Path, PathBuf};
use std::process::Command;

pub struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    /// A clock in `folder` that shows `offset`, such as `-1h`, from now; `None`, loudly, where it
    /// is not installed, which under CI is a failure.
    pub fn new(folder: &Path, offset: &str) -> Option<Self> {
        let folders = std::fs::read_dir("/usr/lib")
            .into_iter()
            .flatten()
            .flatten();
        let paths = folders.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let Some(library) = paths.into_iter().find(|path| path.exists()) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "libfaketime is needed (package faketime)"
            );
            eprintln!("SKIPPED: libfaketime is not installed (package faketime)");
            return None;
        };
        let clock = Self {
            file: folder.join("offset"),
            library,
        };
        clock.step(offset);
        Some(clock)
    }

    /// Moves the wall clock, and no other.
    pub fn step(&self, offset: &str) {
        std::fs::write(&self.file, offset).unwrap();
    }

    /// A command that sees it.
    pub fn set(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.envs([
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ]);
    }
}
