//! The database behind the server's back.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

/// A connection to it.
pub enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    pub fn open(url: &str) -> Self {
        match url.strip_prefix("sqlite:") {
            Some(path) => Self::Sqlite(SqliteConnection::establish(path).expect("a file")),
            None => Self::Postgres(PgConnection::establish(url).expect("a connection")),
        }
    }

    /// Bytes of a server's log since it exists.
    pub fn wal_bytes(&mut self) -> f64 {
        let Self::Postgres(conn) = self else {
            return 0.0;
        };
        let sql = "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::double precision";
        diesel::select(diesel::dsl::sql::<diesel::sql_types::Double>(sql))
            .get_result(conn)
            .expect("a number")
    }

    pub fn run(&mut self, sql: &str) {
        let done = match self {
            Self::Sqlite(conn) => conn.batch_execute(sql),
            Self::Postgres(conn) => conn.batch_execute(sql),
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Writes so many events of a day ago, each with a delivery to one of ten endpoints and its
/// attempt: what is measured beside them should cost the same.
pub fn write_history(mut database: Database, count: u64) {
    let (series, columns, id, hash, body) = match &database {
        Database::Sqlite(_) => (
            format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            ),
            ("seq, ", "i * 256, "),
            "CAST('old-' || i AS BLOB)",
            "zeroblob(32)",
            "CAST(printf('%.100c', 'x') AS BLOB)",
        ),
        Database::Postgres(_) => (
            format!("WITH n AS (SELECT i FROM generate_series(1, {count}) AS i) "),
            ("", ""),
            "('old-' || i)::bytea",
            "decode(repeat('00', 32), 'hex')",
            "decode(repeat('78', 100), 'hex')",
        ),
    };
    let (seq, value) = columns;
    let then = "(SELECT min(created_at) - 86400000000 FROM webhook_endpoints)";
    let statements = [
        format!(
            "{series} INSERT INTO webhook_events ({seq}tenant, id, event_type, content_type, content_hash, body, created_at) \
             SELECT {value}1, {id}, 'bench.old', 'application/json', {hash}, {body}, {then} FROM n"
        ),
        format!(
            "INSERT INTO webhook_deliveries (event_seq, endpoint, status, retries_used, attempt_count, \
                 interruptions, owner_epoch, claim_no, delivered_at, created_at, updated_at, in_order) \
             SELECT seq, ep.number, 'delivered', 0, 1, 0, 1, 1, {then}, {then}, {then}, false \
             FROM webhook_events JOIN (SELECT number, row_number() OVER (ORDER BY number) AS place FROM webhook_endpoints LIMIT 10) AS ep \
                 ON ep.place = 1 + (seq / 256) % 10"
        ),
        format!(
            "INSERT INTO webhook_attempts (event_seq, endpoint, claim_no, number, started_at, ended_at, outcome, status_code) \
             SELECT event_seq, endpoint, 1, 1, {then}, {then}, 'delivered', 204 FROM webhook_deliveries"
        ),
    ];
    if matches!(database, Database::Sqlite(_)) {
        database.run("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000");
    }
    statements.iter().for_each(|sql| database.run(sql));
    if matches!(database, Database::Sqlite(_)) {
        database.run(&format!(
            "UPDATE webhook_counters SET value = {count} * 256 WHERE name = 'events'"
        ));
    }
}
