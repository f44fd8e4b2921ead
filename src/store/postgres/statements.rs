//! Parts shared by several Postgres statements.

use diesel::QueryableByName;
use diesel::sql_types::BigInt;

/// Makes an insert return a row, so that it can be prepared once.
pub(super) const COUNT_NEW: &str = "SELECT count(*) AS rows FROM new_rows";

#[derive(QueryableByName)]
pub(super) struct Rows {
    #[diesel(sql_type = BigInt)]
    #[expect(dead_code, reason = "all that were asked for, or an error")]
    rows: i64,
}
