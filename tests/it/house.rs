//! The house rules, held by test so that nobody needs to remember them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postrider::config::DatabaseUrl;
use postrider::domain::access::Scope;
use postrider::domain::breaker::BreakerState;
use postrider::domain::delivery::Outcome;
use postrider::domain::endpoint::PauseReason;
use postrider::domain::lifecycle::{FailureReason, HoldReason, Status};
use postrider::domain::recovery::{Include, Progress};

use crate::support::database::{execute, words};
use crate::support::postgres::Cluster;

const UP: [&str; 2] = [
    include_str!("../../migrations/sqlite/2026-11-28-020000_add_webhook_deliveries/up.sql"),
    include_str!("../../migrations/postgres/2026-11-28-020000_add_webhook_deliveries/up.sql"),
];

/// A fresh database of each kind.
fn databases(folder: &Path) -> Vec<DatabaseUrl> {
    let sqlite = DatabaseUrl::Sqlite(folder.join("fresh.db"));
    std::iter::once(sqlite)
        .chain(Cluster::shared().map(Cluster::database))
        .collect()
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// The module below `src` that a file belongs to.
fn module(path: &Path) -> String {
    let below = path.strip_prefix("src").unwrap();
    let first = below
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// A file's lines of code: no comments, and nothing below its unit tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

#[test]
fn arrows_point_left_only() {
    let may_use: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("domain", &["domain"][..]),
        ("ports", &["domain", "ports"]),
        ("config", &["domain"]),
        ("metrics", &["domain"]),
        ("store", &["domain", "ports", "config", "store"]),
        ("sender", &["domain", "ports", "config", "sender"]),
        (
            "engine",
            &[
                "domain", "ports", "config", "metrics", "store", "sender", "engine",
            ],
        ),
        ("http", &["domain", "config", "engine", "http"]),
        (
            "testing",
            &["domain", "config", "sender", "http", "testing"],
        ),
    ]);
    let mut arrows = 0;
    for (path, text) in sources("src") {
        let module = module(&path);
        if module == "lib" || module == "bin" {
            continue;
        }
        let allowed = may_use
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{module} has no place yet"));
        for line in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let target = &line[at + "crate::".len()..];
                let target: String = target
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                // A type at the root is the engine's handle, re-exported.
                let known = may_use.contains_key(target.as_str());
                assert!(
                    !known || allowed.contains(&target.as_str()),
                    "{}: {module} may not use {target}: {line}",
                    path.display()
                );
                arrows += usize::from(known);
            }
        }
    }
    assert!(
        arrows > 100,
        "only {arrows} arrows were found: does this test still read them?"
    );
}

#[test]
fn each_package_is_named_in_its_own_layer_only() {
    let owners = [
        ("diesel::", "store"),
        ("r2d2::", "store"),
        ("hyper::", "sender"),
        ("hyper_util::", "sender"),
        // Calls our own API only, from the command line.
        ("reqwest::", "bin"),
        ("rustls::", "sender"),
        ("hickory_resolver::", "sender"),
        ("actix::", "engine"),
        ("actix_web::", "http"),
        ("prometheus_client::", "metrics"),
    ];
    for (path, text) in sources("src") {
        let module = module(&path);
        // The binary wires everything, and calls our own API; tests on virtual time need a
        // `System`.
        if module == "bin" || module == "testing" {
            continue;
        }
        for line in code(&text) {
            for (package, owner) in owners {
                let named = line.match_indices(package).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                });
                assert!(
                    !named || module == owner,
                    "{}: only {owner} names {package}: {line}",
                    path.display()
                );
            }
        }
    }
}

/// The engine asks for intents: statements and row types stay in the store.
#[test]
fn the_store_is_extended_in_its_own_folder_only() {
    for (path, text) in sources("src") {
        if module(&path) == "store" {
            continue;
        }
        for line in code(&text) {
            let extends = ["impl Tx", "impl Store", "AnyConnection", "EndpointCodec"];
            assert!(
                !extends.iter().any(|name| line.contains(name)),
                "{}: belongs to the store: {line}",
                path.display()
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["src", "tests/it"] {
        for (path, text) in sources(folder) {
            assert!(
                text.starts_with("//!"),
                "{} does not open with what it owns",
                path.display()
            );
        }
    }
}

#[test]
fn the_words_of_the_schema_are_those_of_the_code() {
    fn check(column: &str, words: &[&str]) {
        let list = words
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(", ");
        let one_by_one = words
            .iter()
            .map(|word| format!("{column} = '{word}'"))
            .collect::<Vec<_>>()
            .join(" OR ");
        let [sqlite, postgres] = UP.map(|up| up.split_whitespace().collect::<Vec<_>>().join(" "));
        for (up, constraint) in [
            (sqlite, format!("CHECK ({one_by_one})")),
            (postgres, format!("CHECK ({column} IN ({list}))")),
        ] {
            assert!(
                up.contains(&constraint),
                "the migration has no {constraint}"
            );
        }
    }
    macro_rules! words {
        ($column:literal, $of:ty) => {
            check(
                $column,
                &<$of>::ALL
                    .iter()
                    .map(|word| word.as_str())
                    .collect::<Vec<_>>(),
            )
        };
    }
    words!("status", Status);
    words!("hold_reason", HoldReason);
    words!("failure_reason", FailureReason);
    words!("outcome", Outcome);
    words!("pause_reason", PauseReason);
    words!("breaker", BreakerState);
    words!("scope", Scope);
    words!("include", Include);
    words!("progress", Progress);
}

#[test]
fn state_words_are_written_in_one_place() {
    for (path, text) in sources("src") {
        if path.ends_with("domain/lifecycle.rs")
            || path.ends_with("store/status_is.rs")
            || path.ends_with("domain/recovery.rs")
            || module(&path) == "bin"
        {
            continue;
        }
        for line in code(&text) {
            for word in Status::ALL {
                let bare = [format!("\"{word}\""), format!("'{word}'")];
                let outcome = path.ends_with("domain/delivery.rs") && word.as_str() == "delivered";
                assert!(
                    outcome || !bare.iter().any(|one| line.contains(one)),
                    "{}: {line}",
                    path.display()
                );
            }
        }
    }
}

/// What tells a database's tables, and the columns of one of them.
fn catalogue(url: &DatabaseUrl) -> (&'static str, fn(&str) -> String) {
    match url {
        DatabaseUrl::Sqlite(_) => (
            "SELECT name AS w FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
            |table| format!("SELECT name AS w FROM pragma_table_info('{table}') ORDER BY cid"),
        ),
        _ => (
            "SELECT tablename::text AS w FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename",
            |table| {
                format!(
                    "SELECT column_name::text AS w FROM information_schema.columns \
                     WHERE table_name = '{table}' ORDER BY ordinal_position"
                )
            },
        ),
    }
}

#[test]
fn the_tables_of_the_code_are_those_of_the_migrations() {
    let folder = tempfile::tempdir().unwrap();
    let schema =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/schema.rs"))
            .unwrap();
    for url in databases(folder.path()) {
        postrider::schema::migrate_at(&url).unwrap();
        let (all, columns_of) = catalogue(&url);
        let mut tables = BTreeSet::new();
        for block in schema.split("diesel::table! {").skip(1) {
            let lines: Vec<_> = block
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            let table = lines[0].split_whitespace().next().unwrap();
            let columns: Vec<_> = lines[1..]
                .iter()
                .take_while(|line| **line != "}")
                .map(|line| line.split(" -> ").next().unwrap())
                .collect();
            assert_eq!(
                words(&url, &columns_of(table)),
                columns,
                "{table} of {url:?}"
            );
            tables.insert(table.to_owned());
        }
        assert_eq!(BTreeSet::from_iter(words(&url, all)), tables, "{url:?}");
    }
}

#[test]
fn migrations_go_up_and_down_and_touch_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for url in databases(folder.path()) {
        execute(
            &url,
            "CREATE TABLE orders (id TEXT); INSERT INTO orders VALUES ('mine')",
        );
        let (all, _) = catalogue(&url);
        for _ in 0..2 {
            postrider::schema::migrate_at(&url).unwrap();
            postrider::schema::migrate_at(&url).unwrap();
            assert!(words(&url, all).len() > 9);
            assert_eq!(
                postrider::schema::revert_at(&url).unwrap().as_deref(),
                Some("20261128020000")
            );
            assert_eq!(postrider::schema::revert_at(&url).unwrap(), None);
            assert_eq!(words(&url, all), ["orders"]);
        }
        execute(&url, "CREATE TABLE webhook_events (mine TEXT)");
        let taken = postrider::schema::migrate_at(&url).unwrap_err().to_string();
        assert!(
            taken.contains("webhook_events") && taken.contains("did not create"),
            "{taken}"
        );
        assert_eq!(words(&url, "SELECT id AS w FROM orders"), ["mine"]);
    }
}

#[test]
fn many_that_migrate_at_once_migrate_once() {
    let folder = tempfile::tempdir().unwrap();
    for url in databases(folder.path()) {
        let all: Vec<_> = (0..8)
            .map(|_| {
                let url = url.clone();
                std::thread::spawn(move || postrider::schema::migrate_at(&url))
            })
            .collect();
        for one in all {
            one.join().unwrap().unwrap();
        }
        assert_eq!(
            words(&url, "SELECT version AS w FROM webhook_schema_migrations"),
            ["20261128020000"]
        );
    }
}
