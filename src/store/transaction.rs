//! Transactions of a connection: a database-specific beginning, a common end.

use diesel::Connection;
use diesel::connection::TransactionManager;

use super::connection::AnyConnection;
use super::error::StoreError;

type Manager = <AnyConnection as Connection>::TransactionManager;

/// Begins a transaction, or a savepoint of the open one.
pub(super) fn begin_within(conn: &mut AnyConnection) -> Result<(), StoreError> {
    let is_open = Manager::transaction_manager_status_mut(conn)
        .transaction_depth()?
        .is_some();
    if is_open {
        Ok(Manager::begin_transaction(conn)?)
    } else {
        conn.dialect().begin()
    }
}

/// Commits a transaction, or releases a savepoint.
pub(super) fn commit(conn: &mut AnyConnection) -> Result<(), StoreError> {
    Ok(Manager::commit_transaction(conn)?)
}

/// Rolls back a transaction, or a savepoint.
pub(super) fn rollback(conn: &mut AnyConnection) -> Result<(), StoreError> {
    Ok(Manager::rollback_transaction(conn)?)
}

/// Runs `work` in a transaction, which is committed if it succeeds.
pub(super) fn in_transaction<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    conn.dialect().begin()?;
    end(conn, work)
}

/// Runs `work` in a transaction, or in a savepoint of the open one, which stays usable if `work`
/// fails.
pub(super) fn in_transaction_within<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    begin_within(conn)?;
    end(conn, work)
}

/// Runs `work` in the open transaction, and ends it.
pub(super) fn end<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let result = work(conn);
    if result.is_ok() {
        commit(conn)?;
    } else if let Err(error) = rollback(conn) {
        // The database has already rolled back; return the error that caused it.
        tracing::debug!(%error, "nothing was left to roll back");
    }
    result
}
