//! The SQLite file that is moved, deleted or replaced under the running server: nothing is accepted
//! that nobody would find again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::api::Api;
use crate::support::server::{Server, run, serve};
use crate::support::until;

fn publish(api: &Api) -> u16 {
    api.post("/events", r#"{"type": "a.b", "data": 1}"#).status
}

fn ready(api: &Api) -> u16 {
    api.try_request("GET", "/readyz", &[], None).unwrap().status
}

fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[test]
fn a_file_that_is_taken_away_is_noticed_before_the_next_202() {
    let takes: [(&str, &[&str]); 4] = [
        ("moved", &["", "-wal", "-shm"]),
        ("moved alone", &[""]),
        ("log", &["-wal"]),
        ("index", &["-shm"]),
    ];
    for (what, ends) in takes {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), &[]);
        let api = server.api();
        assert_eq!(publish(&api), 202);
        let database = server.database();
        for end in ends {
            std::fs::rename(
                beside(&database, end),
                beside(&database, &format!("{end}.away")),
            )
            .unwrap();
        }
        assert_eq!(publish(&api), 503, "{what}");
        assert_eq!(ready(&api), 503, "{what}");
        let named = [
            beside(&database, ends[0]),
            beside(&database, &format!("{}.away", ends[0])),
        ];
        let names = named.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        for name in &names {
            server.logs(name);
        }
        for _ in 0..3 {
            assert_eq!(publish(&api), 503, "{what}");
        }
        let log = server.logs("was moved, deleted or replaced while it is open");
        let errors = log.lines().filter(|line| line.contains("ERROR")).count();
        assert_eq!(errors, 1, "once a minute: {log}");
        // Whoever puts it back has lost nothing.
        for end in ends {
            std::fs::rename(
                beside(&database, &format!("{end}.away")),
                beside(&database, end),
            )
            .unwrap();
        }
        until("it is ready again", Duration::from_secs(20), || {
            ready(&api) == 200
        });
        assert_eq!(publish(&api), 202, "{what}");
        assert_eq!(
            api.get("/events").body["data"].as_array().unwrap().len(),
            2,
            "{what}"
        );
    }
}

#[test]
fn a_file_that_is_replaced_or_deleted_is_noticed_as_well() {
    for replace in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), &[]);
        let api = server.api();
        assert_eq!(publish(&api), 202);
        std::fs::remove_file(server.database()).unwrap();
        if replace {
            let other = tempfile::tempdir().unwrap();
            Server::start(other.path(), &[]).terminate();
            std::fs::copy(other.path().join("postrider.db"), server.database()).unwrap();
        }
        assert_eq!(publish(&api), 503);
        until("the timer has seen it too", Duration::from_secs(20), || {
            ready(&api) == 503
        });
    }
}

/// A service manager's restart would begin an empty database where the old one was moved away.
#[test]
fn a_start_that_misses_the_database_beside_its_companions_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let database = server.database();
    server.terminate();
    std::fs::rename(&database, folder.path().join("elsewhere.db")).unwrap();
    let output = serve(folder.path(), &[]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    for word in ["postrider.db", "postrider.db.token", "--create"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!database.exists(), "nothing was begun");
    let server = Server::start(folder.path(), &["--create"]);
    assert_eq!(publish(&server.api()), 202);
    server.terminate();
    assert!(run(folder.path(), &["--version"]).status.success());
}
