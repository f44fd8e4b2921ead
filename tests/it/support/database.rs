//! A look into a database, beside the program that owns it.

use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use postrider::config::DatabaseUrl;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    w: String,
}

enum Conn {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Where to look: a file, or a URL.
pub trait Place {
    fn url(&self) -> DatabaseUrl;
}

impl Place for Path {
    fn url(&self) -> DatabaseUrl {
        DatabaseUrl::Sqlite(self.to_owned())
    }
}

impl Place for PathBuf {
    fn url(&self) -> DatabaseUrl {
        DatabaseUrl::Sqlite(self.clone())
    }
}

impl Place for DatabaseUrl {
    fn url(&self) -> DatabaseUrl {
        self.clone()
    }
}

fn open(place: &(impl Place + ?Sized)) -> Conn {
    match place.url() {
        DatabaseUrl::Sqlite(path) => {
            let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
            conn.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
            Conn::Sqlite(conn)
        }
        DatabaseUrl::Postgres(url) => {
            Conn::Postgres(PgConnection::establish(url.reveal()).unwrap())
        }
        _ => panic!("an unknown database"),
    }
}

/// The number that `SELECT … AS n` answers.
pub fn number(place: &(impl Place + ?Sized), sql: &str) -> i64 {
    let found: Number = match open(place) {
        Conn::Sqlite(mut conn) => diesel::sql_query(sql).get_result(&mut conn).unwrap(),
        Conn::Postgres(mut conn) => diesel::sql_query(sql).get_result(&mut conn).unwrap(),
    };
    found.n
}

/// The texts that `SELECT … AS w` answers.
pub fn words(place: &(impl Place + ?Sized), sql: &str) -> Vec<String> {
    let rows: Vec<Word> = match open(place) {
        Conn::Sqlite(mut conn) => diesel::sql_query(sql).load(&mut conn).unwrap(),
        Conn::Postgres(mut conn) => diesel::sql_query(sql).load(&mut conn).unwrap(),
    };
    rows.into_iter().map(|row| row.w).collect()
}

/// An event's id as text, in a statement for Postgres that names the table `e`.
pub const POSTGRES_EVENT_ID: &str = "CASE WHEN length(e.id) = 16 AND get_byte(e.id, 8) >= 128 \
    THEN encode(e.id, 'hex')::uuid::text ELSE convert_from(e.id, 'UTF8') END";

/// The ids of all events, in the order of publishing.
pub fn event_ids(place: &(impl Place + ?Sized)) -> Vec<String> {
    if let DatabaseUrl::Postgres(_) = place.url() {
        let sql = format!("SELECT {POSTGRES_EVENT_ID} AS w FROM webhook_events e ORDER BY seq");
        return words(place, &sql);
    }
    let stored = words(
        place,
        "SELECT CASE WHEN length(id) = 16 THEN lower(hex(id)) ELSE CAST(id AS TEXT) END AS w \
         FROM webhook_events ORDER BY seq",
    );
    let id = |text: String| match uuid::Uuid::try_parse(&text) {
        Ok(uuid) => uuid.hyphenated().to_string(),
        Err(_) => text,
    };
    stored.into_iter().map(id).collect()
}

/// How SQLite runs a statement, a line a step.
pub fn plan(place: &(impl Place + ?Sized), sql: &str) -> Vec<String> {
    explained(place, &format!("EXPLAIN QUERY PLAN {sql}"), "detail")
}

/// What SQLite's machine does for a statement, instruction by instruction.
pub fn opcodes(place: &(impl Place + ?Sized), sql: &str) -> Vec<String> {
    explained(place, &format!("EXPLAIN {sql}"), "opcode")
}

/// The tables and indexes that SQLite opens for writing in a statement.
pub fn written(place: &(impl Place + ?Sized), sql: &str) -> Vec<String> {
    let DatabaseUrl::Sqlite(path) = place.url() else {
        panic!("not SQLite")
    };
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut statement = conn.prepare(&format!("EXPLAIN {sql}")).unwrap();
    let rows = statement
        .raw_query()
        .mapped(|row| Ok((row.get("opcode")?, row.get("p2")?)));
    let rows: Vec<(String, i64)> = rows.collect::<Result<_, _>>().unwrap();
    let name = |root: i64| {
        let sql = "SELECT name FROM sqlite_master WHERE rootpage = ?1";
        conn.query_row(sql, [root], |row| row.get(0)).unwrap()
    };
    let open = rows.into_iter().filter(|(opcode, _)| opcode == "OpenWrite");
    open.map(|(_, root)| name(root)).collect()
}

fn explained(place: &(impl Place + ?Sized), sql: &str, column: &str) -> Vec<String> {
    let DatabaseUrl::Sqlite(path) = place.url() else {
        panic!("not SQLite")
    };
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.raw_query().mapped(|row| row.get(column));
    rows.collect::<Result<_, _>>().unwrap()
}

/// Runs statements that change it.
pub fn execute(place: &(impl Place + ?Sized), sql: &str) {
    match open(place) {
        Conn::Sqlite(mut conn) => conn.batch_execute(sql).unwrap(),
        Conn::Postgres(mut conn) => conn.batch_execute(sql).unwrap(),
    }
}
