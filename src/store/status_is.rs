//! `status = '…'` as literal text in a statement that is still prepared once.
//!
//! A partial index serves a query only if the query holds the index's own condition, and a bound
//! parameter is none. diesel's own literals (`dsl::sql`) would make the statement uncacheable.

use diesel::backend::Backend;
use diesel::expression::{
    AppearsOnTable, Expression, SelectableExpression, ValidGrouping, is_aggregate,
};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::Bool;

macro_rules! status_is {
    ($(#[$meta:meta])* $name:ident, $sql:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, QueryId)]
        pub(super) struct $name;

        impl Expression for $name {
            type SqlType = Bool;
        }

        impl<DB: Backend> QueryFragment<DB> for $name {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
                out.push_sql($sql);
                Ok(())
            }
        }

        impl<QS> AppearsOnTable<QS> for $name {}
        impl<QS> SelectableExpression<QS> for $name {}
        impl<GB> ValidGrouping<GB> for $name {
            type IsAggregate = is_aggregate::Never;
        }
    };
}

status_is! {
    /// The condition of the index that claims use.
    StatusIsPending, "webhook_deliveries.status = 'pending'"
}
status_is! {
    /// The condition of the index of what is in flight.
    StatusIsSending, "webhook_deliveries.status = 'sending'"
}
status_is! {
    /// The condition of the index of what was given up.
    StatusIsFailed, "webhook_deliveries.status = 'failed'"
}
