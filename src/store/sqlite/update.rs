//! Updates whose text is constant, so that they are prepared once per connection.

use std::marker::PhantomData;

use diesel::RunQueryDsl;
use diesel::backend::Backend;
use diesel::expression::Expression;
use diesel::query_builder::{AsChangeset, AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;

/// A column that is only compared, without an index. For indexed columns SQLite's planner looks at
/// the bound values, and prepares the statement again for each new value.
#[derive(Debug, Clone, Copy, QueryId)]
pub(super) struct Plain<C>(pub(super) C);

impl<C: Expression> Expression for Plain<C> {
    type SqlType = C::SqlType;
}

impl<C: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Plain<C> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("+");
        self.0.walk_ast(out)
    }
}

/// An update without returned rows and with a constant text: these columns, this condition.
pub(super) struct Update<Place, C, W> {
    table: &'static str,
    changes: C,
    condition: W,
    place: PhantomData<Place>,
}

impl<Place, C, W> Update<Place, C, W> {
    pub(super) fn new<A: AsChangeset<Changeset = C>>(
        _: Place,
        table: &'static str,
        changes: A,
        condition: W,
    ) -> Self {
        Self {
            table,
            changes: changes.as_changeset(),
            condition,
            place: PhantomData,
        }
    }
}

impl<Place: 'static, C, W> QueryId for Update<Place, C, W> {
    type QueryId = Place;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Place, C: QueryFragment<DB>, W: QueryFragment<DB>, DB: Backend> QueryFragment<DB>
    for Update<Place, C, W>
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("UPDATE ");
        out.push_identifier(self.table)?;
        out.push_sql(" SET ");
        self.changes.walk_ast(out.reborrow())?;
        out.push_sql(" WHERE ");
        self.condition.walk_ast(out)
    }
}

impl<Place, C, W, Conn> RunQueryDsl<Conn> for Update<Place, C, W> {}
