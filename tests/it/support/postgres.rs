//! A private Postgres, thrown away at the end: its own folder, a free port on loopback, the installed
//! server's binaries, and a user that is not root.

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
    /// Its input is held open for as long as this process lives: its end is the cluster's.
    _watcher: Child,
}

/// Where the server's binaries are: on Debian they are not in the path.
fn binaries() -> Option<PathBuf> {
    let told =
        Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success());
    let told = told.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = installed.map(|version| version.path().join("bin")).chain(told).collect();
    folders.sort();
    folders
        .into_iter()
        .rev()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// A command as the user that may run a server: root may not.
fn as_user(program: &Path) -> Command {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if id(&["-u"]).as_deref() != Some("0") {
        return Command::new(program);
    }
    let user = ["postgres", "nobody"].into_iter().find(|user| id(&["-u", user]).is_some()).unwrap();
    let mut command = Command::new("setpriv");
    let (uid, gid) = (id(&["-u", user]).unwrap(), id(&["-g", user]).unwrap());
    command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]).arg(program);
    command
}

impl Cluster {
    /// The one that all tests of this process share; `None` where no server is installed, which is loud,
    /// and a failure under CI.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| binaries().map(|folder| Self::start(&folder)));
        if shared.is_none() {
            assert!(std::env::var_os("CI").is_none(), "a Postgres server is needed (package postgresql)");
            eprintln!("SKIPPED: no Postgres server is installed (package postgresql)");
        }
        shared.as_ref()
    }

    fn start(binaries: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let user = String::from_utf8_lossy(&as_user(Path::new("id")).arg("-u").output().unwrap().stdout)
            .trim()
            .to_owned();
        Command::new("chown").args([&user, folder.to_str().unwrap()]).status().unwrap();
        let data = folder.join("data");
        let mut init = as_user(&binaries.join("initdb"));
        let init = init.args([
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "-D",
        ]);
        let output = init.arg(&data).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // It ends when its watcher's input does: with this process, however that ends.
        let script =
            "\"$0\" \"$@\" </dev/null & server=$!; cat; kill -INT $server; wait $server; rm -rf \"$PWD\"";
        let mut server = as_user(Path::new("sh"));
        server.args(["-c", script]).arg(binaries.join("postgres")).arg("-D").arg(&data);
        server.args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1"]);
        server.args([
            "-c",
            &format!("unix_socket_directories={}", folder.display()),
            "-c",
            "max_connections=300",
        ]);
        // Faults are injected by tests that start a server of their own.
        server.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "log_min_messages=fatal"]);
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let server = server.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let cluster = Self { port, _watcher: server.spawn().unwrap() };
        until("Postgres listens", Duration::from_secs(30), || {
            PgConnection::establish(&cluster.url_of("postgres")).is_ok()
        });
        cluster
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

    /// A fresh, empty database.
    pub fn database(&self) -> DatabaseUrl {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut conn = PgConnection::establish(&self.url_of("postgres")).unwrap();
        diesel::sql_query(format!("CREATE DATABASE {name}")).execute(&mut conn).unwrap();
        self.url_of(&name).parse().unwrap()
    }
}
