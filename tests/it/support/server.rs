//! The real binary as a process.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::api::Api;
use super::until;

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

/// The command, in a folder and without settings of the machine's.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("POSTRIDER_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments);
    command
}

/// `postrider serve` on a free port, unless the arguments name one.
pub fn serve(folder: &Path, arguments: &[&str]) -> Command {
    let mut all = vec!["serve"];
    if !arguments.contains(&"--listen") {
        all.extend(["--listen", "127.0.0.1:0"]);
    }
    all.extend_from_slice(arguments);
    command(folder, &all)
}

/// Runs a command to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

pub struct Server {
    pub folder: PathBuf,
    pub base: String,
    child: Child,
    log: Arc<Mutex<String>>,
    /// Copies the child's standard error into `log`; ends with the child.
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts `serve` with loopback opened, and waits until it listens.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["--allow-network", "127.0.0.0/8"];
        all.extend_from_slice(arguments);
        Self::spawn(folder, serve(folder, &all))
    }

    /// Starts a command that [`serve`] made, and waits until it listens.
    pub fn spawn(folder: &Path, mut command: Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let copy = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut server = Self {
            folder: folder.to_owned(),
            base: String::new(),
            child,
            log,
            reader: Some(reader),
        };
        let mut found = None;
        until("the server listens", Duration::from_secs(30), || {
            let log = server.log();
            found = log
                .split_once("listens on ")
                .and_then(|(_, rest)| Some(rest.lines().next()?.trim().to_owned()));
            found.is_some() || server.child.try_wait().unwrap().is_some()
        });
        server.base =
            found.unwrap_or_else(|| panic!("the server did not start:\n{}", server.log()));
        server
    }

    /// The log up to now. A line that was written a moment ago may be missing: see
    /// [`logs`](Self::logs).
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log contains `words`, and returns the log.
    #[track_caller]
    pub fn logs(&self, words: &str) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            if log.contains(words) {
                return log;
            }
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{words:?} is not in the log:\n{log}"
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Waits until the child has ended and its whole log is read.
    fn wait(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.log())
    }

    pub fn database(&self) -> PathBuf {
        self.folder.join("postrider.db")
    }

    pub fn api(&self) -> Api {
        let token = std::fs::read_to_string(self.folder.join("postrider.db.token")).unwrap();
        Api::new(&self.base, token.trim())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its end, which comes by itself.
    pub fn ended(mut self) -> ExitStatus {
        self.wait().0
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its end.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        if std::thread::panicking() {
            let _ = self.child.wait();
            return;
        }
        // Whatever a test did: no secret is in the log.
        let (_, log) = self.wait();
        let token =
            std::fs::read_to_string(self.folder.join("postrider.db.token")).unwrap_or_default();
        for secret in [token.trim(), "whsec_", "whsk_", "prk_"] {
            assert!(
                secret.is_empty() || !log.contains(secret),
                "{secret} is in the log:\n{log}"
            );
        }
    }
}
