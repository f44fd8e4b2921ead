//! A look into a database file, beside the program that owns it.

use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

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

fn open(path: &Path) -> SqliteConnection {
    let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    diesel::sql_query("PRAGMA busy_timeout = 5000").execute(&mut conn).unwrap();
    conn
}

/// The number that `SELECT … AS n` answers.
pub fn number(path: &Path, sql: &str) -> i64 {
    diesel::sql_query(sql).get_result::<Number>(&mut open(path)).unwrap().n
}

/// The texts that `SELECT … AS w` answers.
pub fn words(path: &Path, sql: &str) -> Vec<String> {
    let rows = diesel::sql_query(sql).load::<Word>(&mut open(path)).unwrap();
    rows.into_iter().map(|row| row.w).collect()
}

/// Runs statements that change it.
pub fn execute(path: &Path, sql: &str) {
    use diesel::connection::SimpleConnection;
    open(path).batch_execute(sql).unwrap();
}
