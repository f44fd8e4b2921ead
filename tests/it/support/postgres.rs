//! A private Postgres, thrown away at the end: its own folder, a free port on loopback, the
//! installed server's binaries, and a user that is not root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel::prelude::*;
use postrider::config::DatabaseUrl;

use super::until;

pub struct Cluster {
    port: u16,
    folder: PathBuf,
    binaries: PathBuf,
    settings: Vec<String>,
    /// Its input is held open for as long as this cluster lives: with that, or with this process,
    /// ends the server.
    watcher: Child,
}

/// Where the server's binaries are: on Debian they are not in the path.
fn binaries() -> Option<PathBuf> {
    let told = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .ok()
        .filter(|output| output.status.success());
    let told = told.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<_> = installed
        .map(|version| version.path().join("bin"))
        .chain(told)
        .collect();
    folders.sort();
    folders
        .into_iter()
        .rev()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// A command as the user that may run a server: root may not.
pub fn as_user(program: &Path) -> Command {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if id(&["-u"]).as_deref() != Some("0") {
        return Command::new(program);
    }
    let user = ["postgres", "nobody"]
        .into_iter()
        .find(|user| id(&["-u", user]).is_some())
        .unwrap();
    let mut command = Command::new("setpriv");
    let (uid, gid) = (id(&["-u", user]).unwrap(), id(&["-g", user]).unwrap());
    command
        .args(["--reuid", &uid, "--regid", &gid, "--clear-groups"])
        .arg(program);
    command
}

impl Cluster {
    /// The one that all tests of this process share; `None` where no server is installed, which is
    /// loud, and a failure under CI. It does not wait for the disk: faults are for clusters of
    /// their own.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start(&["fsync=off", "full_page_writes=off"], &[]))
            .as_ref()
    }

    /// One for a test alone, as durable as a real one.
    pub fn own() -> Option<Self> {
        Self::start(&[], &[])
    }

    /// One that logs each statement with the rows that each step of its plan has read.
    pub fn explaining() -> Option<Self> {
        let settings = [
            "fsync=off",
            "full_page_writes=off",
            "session_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "auto_explain.log_analyze=on",
            "auto_explain.log_timing=off",
            "auto_explain.log_format=json",
        ];
        Self::start(&settings, &[])
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// One that speaks TLS.
    pub fn with_tls(certificate: &str, key: &str) -> Option<Self> {
        let settings = [
            "ssl=on",
            "ssl_cert_file=../server.crt",
            "ssl_key_file=../server.key",
        ];
        Self::start(
            &settings,
            &[("server.crt", certificate), ("server.key", key)],
        )
    }

    fn start(settings: &[&str], files: &[(&str, &str)]) -> Option<Self> {
        let Some(binaries) = binaries() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "a Postgres server is needed (package postgresql)"
            );
            eprintln!("SKIPPED: no Postgres server is installed (package postgresql)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap().keep();
        let user = as_user(Path::new("id")).arg("-u").output().unwrap().stdout;
        let user = String::from_utf8_lossy(&user).trim().to_owned();
        Command::new("chown")
            .args([&user, folder.to_str().unwrap()])
            .status()
            .unwrap();
        for (name, content) in files {
            let mut write = as_user(Path::new("sh"));
            write
                .args(["-c", "umask 077; cat > \"$0\"", name])
                .current_dir(&folder)
                .stdin(Stdio::piped());
            let mut write = write.spawn().unwrap();
            std::io::Write::write_all(write.stdin.as_mut().unwrap(), content.as_bytes()).unwrap();
            assert!(write.wait().unwrap().success());
        }
        let mut init = as_user(&binaries.join("initdb"));
        init.args([
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]);
        let output = init
            .args(["-D", "data"])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut all = vec![
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", folder.display()),
            "max_connections=300".to_owned(),
        ];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let mut watcher = as_user(Path::new("sh"));
        let script = "cat; \"$0\" -D data -m immediate stop; rm -rf \"$PWD\"";
        watcher
            .args(["-c", script])
            .arg(binaries.join("pg_ctl"))
            .current_dir(&folder);
        let watcher = watcher
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let cluster = Self {
            port,
            folder,
            binaries,
            settings: all,
            watcher,
        };
        cluster.up();
        Some(cluster)
    }

    fn control(&self) -> Command {
        let mut control = as_user(&self.binaries.join("pg_ctl"));
        control
            .args(["-D", "data", "-l", "log"])
            .current_dir(&self.folder);
        control
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        control
    }

    /// Starts the server, and waits until it listens.
    pub fn up(&self) {
        let options: Vec<_> = self
            .settings
            .iter()
            .map(|setting| format!("-c {setting}"))
            .collect();
        let status = self
            .control()
            .args(["-w", "-o", &options.join(" "), "start"])
            .status()
            .unwrap();
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(status.success(), "{}", log());
        until("Postgres listens", Duration::from_secs(30), || {
            PgConnection::establish(&self.url_of("postgres")).is_ok()
        });
    }

    /// The processes of the server.
    pub fn processes(&self) -> Vec<String> {
        let pid = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap();
        let of = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let all = of.split_whitespace().chain([pid]);
        all.map(str::to_owned).collect()
    }

    /// Lets the server and all that belongs to it stand still (`STOP`) or go on (`CONT`).
    pub fn signal(&self, signal: &str) {
        for pid in self.processes() {
            assert!(
                Command::new("kill")
                    .args([&format!("-{signal}"), &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }

    /// Ends the server as a crash would.
    pub fn crash(&self) {
        assert!(
            self.control()
                .args(["-m", "immediate", "stop"])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn url_of(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// The URL of one of its databases, as a user writes it.
    pub fn text(&self, database: &DatabaseUrl) -> String {
        match database {
            DatabaseUrl::Postgres(url) => url.reveal().to_owned(),
            other => panic!("{other:?} is none of its databases"),
        }
    }

    /// The database from which others are looked after.
    pub fn maintenance(&self) -> DatabaseUrl {
        self.url_of("postgres").parse().unwrap()
    }

    /// A fresh, empty database.
    pub fn database(&self) -> DatabaseUrl {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut conn = PgConnection::establish(&self.url_of("postgres")).unwrap();
        diesel::sql_query(format!("CREATE DATABASE {name}"))
            .execute(&mut conn)
            .unwrap();
        self.url_of(&name).parse().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}
