//! `status = '…'` as literal text in a statement that is prepared once.
//!
//! A partial index serves a query only if the query contains the index's condition, which a bound
//! parameter is not. diesel's own literals (`dsl::sql`) would prevent caching.

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
    /// Condition of the index for claims.
    StatusIsPending, "webhook_deliveries.status = 'pending'"
}
status_is! {
    /// Condition of the index of deliveries in flight.
    StatusIsSending, "webhook_deliveries.status = 'sending'"
}
status_is! {
    /// Condition of the index of failed deliveries.
    StatusIsFailed, "webhook_deliveries.status = 'failed'"
}
