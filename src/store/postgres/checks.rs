//! Checks of a Postgres database before a start, each with its remedy.

use diesel::connection::SimpleConnection as _;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};

use super::locks::lock_migrations;
use crate::store::error::{StoreError, Unavailable, pooler_in_transaction_mode};

/// A session setting, which a pooler in transaction mode passes to another session.
const MARK: &str = "postrider.session";

fn setup(detail: String) -> StoreError {
    StoreError::Setup(detail)
}

/// Rejects a database whose encoding cannot store every character of a response.
pub(super) fn check_encoding(conn: &mut PgConnection) -> Result<(), StoreError> {
    let encoding: String =
        diesel::select(sql::<Text>("current_setting('server_encoding')")).get_result(conn)?;
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(setup(format!(
        "the database's encoding is {encoding}, which cannot store every text: create one with the encoding UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
    )))
}

/// Rejects a server that speaks Postgres' protocol and does not have its locks.
pub(super) fn check_is_postgres(conn: &mut PgConnection) -> Result<(), StoreError> {
    let version: String = diesel::select(sql::<Text>("version()")).get_result(conn)?;
    check_version(&version)
}

fn check_version(version: &str) -> Result<(), StoreError> {
    if version.contains("CockroachDB") {
        let detail = "the server is CockroachDB, whose advisory locks do nothing: events would lose the order of their keys; use Postgres";
        return Err(setup(detail.into()));
    }
    Ok(())
}

/// Rejects a role that may not create tables, and names the required grant.
pub(super) fn check_may_create(conn: &mut PgConnection) -> Result<(), StoreError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        role: String,
        #[diesel(sql_type = Nullable<Text>)]
        schema: Option<String>,
        #[diesel(sql_type = Nullable<Bool>)]
        may_create: Option<bool>,
    }
    let found: Found = diesel::sql_query(
        "SELECT quote_ident(current_user) AS role, quote_ident(current_schema()) AS schema, \
         has_schema_privilege(current_schema(), 'CREATE') AS may_create",
    )
    .get_result(conn)?;
    match (found.schema, found.may_create) {
        (Some(_), Some(true)) => Ok(()),
        (Some(schema), _) => Err(setup(format!(
            "the role {role} may not create tables in the schema {schema}: run GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}; as the owner of the database, and start again",
            role = found.role
        ))),
        (None, _) => Err(setup(format!(
            "the search_path of the role {role} names no schema that exists: run CREATE SCHEMA AUTHORIZATION {role}; as the owner of the database, or set search_path",
            role = found.role
        ))),
    }
}

/// Rejects a role without rights on the existing tables, and names the required grants. `read` is
/// only read.
pub(super) fn check_may_write(
    conn: &mut PgConnection,
    tables: &[&str],
    read: &str,
) -> Result<(), StoreError> {
    let may = |table: &str, right: &str| {
        format!("has_table_privilege(to_regclass('{table}'), '{right}')")
    };
    let all = |table: &&str| {
        let each = ["SELECT", "INSERT", "UPDATE", "DELETE"].map(|right| may(table, right));
        format!("coalesce({}, true)", each.join(" AND "))
    };
    let tables: Vec<String> = tables.iter().map(all).collect();
    let is_allowed: bool = diesel::select(sql::<Bool>(&format!(
        "{} AND coalesce({}, true) AND coalesce((SELECT bool_and(has_sequence_privilege(oid, 'SELECT') \
         AND has_sequence_privilege(oid, 'USAGE') AND has_sequence_privilege(oid, 'UPDATE')) FROM pg_class \
         WHERE relkind = 'S' AND relnamespace = to_regnamespace(quote_ident(current_schema())) \
         AND relname LIKE 'webhook\\_%'), true)",
        tables.join(" AND "),
        may(read, "SELECT"),
    )))
    .get_result(conn)?;
    if is_allowed {
        return Ok(());
    }
    let name = |conn: &mut PgConnection, of: &str| -> Result<String, StoreError> {
        Ok(diesel::select(sql::<Text>(&format!("quote_ident({of})"))).get_result(conn)?)
    };
    let (role, schema) = (name(conn, "current_user")?, name(conn, "current_schema()")?);
    Err(setup(format!(
        "the role {role} may not read and write Postrider's tables: run GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}; and GRANT SELECT, USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}; as their owner, and start again"
    )))
}

/// Rejects a server that accepts no writes, for whatever reason.
pub(super) fn check_takes_writes(conn: &mut PgConnection) -> Result<(), StoreError> {
    let read_only: bool = diesel::select(sql::<Bool>(
        "pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'",
    ))
    .get_result(conn)?;
    if read_only {
        Err(Unavailable::ReadOnlyServer.into())
    } else {
        Ok(())
    }
}

/// Rejects a pooler in transaction mode that the URL does not declare: there, one session sees
/// another's settings. (In PgBouncer's session mode, and without a pooler, it does not.)
pub(in crate::store) fn check_sessions_are_own(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<(), StoreError> {
    let pid: i32 = diesel::select(sql::<Integer>("pg_backend_pid()")).get_result(first)?;
    let mark = format!("{}-{pid}", std::process::id());
    let seen = sql::<Nullable<Text>>(&format!("current_setting('{MARK}', true)"));
    first.batch_execute(&format!("SET {MARK} = '{mark}'"))?;
    let seen: Option<String> = diesel::select(seen).get_result(second)?;
    if seen.as_deref() != Some(mark.as_str()) {
        return Ok(());
    }
    Err(pooler_in_transaction_mode())
}

/// Raises the sequences above the stored values: after a data-only restore or logical replication
/// they lag behind, and nothing new could be stored.
pub(super) fn repair_sequences(conn: &mut PgConnection) -> Result<(), StoreError> {
    lock_migrations(conn)?;
    for (table, column) in [("webhook_events", "seq"), ("webhook_tenants", "number")] {
        repair_sequence(conn, table, column)?;
    }
    Ok(())
}

fn repair_sequence(conn: &mut PgConnection, table: &str, column: &str) -> Result<(), StoreError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = BigInt)]
        next: i64,
        #[diesel(sql_type = BigInt)]
        stored: i64,
    }
    let sequence: Option<String> = diesel::select(sql::<Nullable<Text>>(&format!(
        "pg_get_serial_sequence('{table}', '{column}')"
    )))
    .get_result(conn)?;
    let Some(sequence) = sequence else {
        return Ok(());
    };
    // The name comes quoted from the server.
    let found: Found = diesel::sql_query(format!(
        "SELECT last_value + is_called::int AS next, \
         (SELECT coalesce(max({column}), 0)::bigint FROM {table}) AS stored FROM {sequence}"
    ))
    .get_result(conn)?;
    if found.next > found.stored {
        return Ok(());
    }
    diesel::select(sql::<BigInt>(&format!(
        "setval('{}', {})",
        sequence.replace('\'', "''"),
        found.stored
    )))
    .get_result::<i64>(conn)?;
    tracing::warn!(
        table,
        next = found.next,
        stored = found.stored,
        "the sequence of {table} was behind the stored rows (after a restore?): raised from {} to {}",
        found.next,
        found.stored
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_advisory_locks_is_refused_by_name() {
        // As `SELECT version()` returns it.
        let cockroach = "CockroachDB CCL v25.2.1 (x86_64-pc-linux-gnu, built 2025/06/24, go1.23.7)";
        let refused = check_version(cockroach).unwrap_err().to_string();
        assert!(refused.contains("CockroachDB"), "{refused}");
        let postgres = "PostgreSQL 15.15 (Debian 15.15-0+deb12u1) on x86_64-pc-linux-gnu";
        assert!(check_version(postgres).is_ok());
    }
}
