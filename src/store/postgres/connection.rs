//! Postgres connections: opening, and checks that commits survive a power cut.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use crate::config::PostgresUrl;
use crate::store::error::{StoreError, Unavailable};

/// Planner settings of our connections. JIT pays off only for long queries: it would slow the walk
/// to due deliveries a hundredfold. A plan made while a table is small is kept while it grows, so a
/// full scan must never look cheap.
const PLANNING: &str = "SET jit = off; SET enable_seqscan = off";

/// Timeouts for an unreachable server or network, unless the URL sets them: libpq's defaults are
/// hours. (`connect_timeout` in seconds, `tcp_user_timeout` in milliseconds.)
const LIBPQ_DEFAULTS: &[(&str, &str)] = &[
    ("connect_timeout", "5"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "15000"),
];

pub(in crate::store) fn open(url: &PostgresUrl) -> Result<PgConnection, StoreError> {
    let mut text = url.reveal().to_owned();
    let name = ("fallback_application_name", url.application_name());
    let given = |name: &str| url.reveal().contains(&format!("{name}="));
    for (name, value) in LIBPQ_DEFAULTS
        .iter()
        .copied()
        .chain([name])
        .filter(|(name, _)| !given(name))
    {
        let joint = if text.contains('?') { '&' } else { '?' };
        text.push_str(&format!("{joint}{name}={value}"));
    }
    let mut conn = PgConnection::establish(&text).map_err(|error| {
        // libpq's message names host and port. If it repeats a part of the URL, that must not be
        // the password.
        Unavailable::Unreachable(url.redact(error.to_string().trim()).replace('\n', "; "))
    })?;
    if url.is_pooled() {
        // The next transaction may run in another session, which does not know the statement.
        conn.set_prepared_statement_cache_size(diesel::connection::CacheSize::Disabled);
    } else {
        conn.batch_execute(PLANNING)?;
    }
    Ok(conn)
}

/// Reads a setting of the server in this session.
fn setting(conn: &mut PgConnection, name: &str) -> Result<String, StoreError> {
    Ok(diesel::select(diesel::dsl::sql::<Text>(&format!(
        "current_setting('{name}')"
    )))
    .get_result(conn)?)
}

/// Opens a connection that only reads.
pub(in crate::store) fn open_reader(url: &PostgresUrl) -> Result<PgConnection, StoreError> {
    let mut conn = open(url)?;
    if !url.is_pooled() {
        // Nobody waits longer for the result.
        conn.batch_execute("SET statement_timeout = '10s'")?;
    }
    Ok(conn)
}

/// Rejects a database or role whose commits are not durable.
pub(super) fn make_fit_to_write(conn: &mut PgConnection) -> Result<(), StoreError> {
    if setting(conn, "synchronous_commit")? == "off" {
        let detail = "synchronous_commit is off for this database or user: what is accepted would not be durable; turn it on (ALTER ROLE … SET synchronous_commit = on)";
        return Err(StoreError::Setup(detail.into()));
    }
    Ok(())
}

/// Returns server settings that endanger committed data, with remedies.
pub(super) fn hazards_of_server(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let mut hazards = Vec::new();
    for name in ["fsync", "full_page_writes"] {
        if setting(conn, name)? == "off" {
            hazards.push(format!(
                "{name} is off in the server: a power cut loses or corrupts what was accepted; turn it on in postgresql.conf"
            ));
        }
    }
    let has_standby = !setting(conn, "synchronous_standby_names")?.is_empty();
    if has_standby && setting(conn, "synchronous_commit")? == "local" {
        hazards.push(
            "synchronous_commit is `local` for this database or user, and the server has synchronous standbys: a failover loses what was accepted last; set it to `on` (ALTER ROLE … SET synchronous_commit = on)".into(),
        );
    }
    Ok(hazards)
}

/// Returns the danger to this connection's commits in a power cut.
pub(super) fn hazard(conn: &mut PgConnection) -> Result<Option<&'static str>, StoreError> {
    let off = setting(conn, "synchronous_commit")? == "off";
    Ok(off.then_some("`synchronous_commit` is off: turn it on for this transaction"))
}

/// Returns a name for the database that is unique on this host.
pub(super) fn identity(conn: &mut PgConnection) -> Result<String, StoreError> {
    let sql = "system_identifier || '/' || current_database() FROM pg_control_system()";
    Ok(diesel::select(diesel::dsl::sql::<Text>(sql)).get_result(conn)?)
}

/// Returns false if the idle connection has died. Sends nothing: it only reads the server's last
/// message, or the end of the connection.
pub(super) fn is_alive(conn: &mut PgConnection) -> bool {
    // The first read may return a last message, the second one finds the end.
    (0..2).all(|_| conn.notifications_iter().all(|found| found.is_ok()))
}
