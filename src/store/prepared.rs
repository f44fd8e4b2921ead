//! Statements prepared once per connection that diesel would prepare for each run: it assumes that
//! the text of every update and every `sql_query` may change.

use std::marker::PhantomData;

use diesel::RunQueryDsl;
use diesel::backend::Backend;
#[cfg(feature = "sqlite")]
use diesel::expression::Expression;
#[cfg(feature = "sqlite")]
use diesel::query_builder::AsChangeset;
#[cfg(feature = "postgres")]
use diesel::query_builder::Query;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;

/// A statement with a constant text, on one kind of database. `Place` is its place in the code, and
/// the key of the cache.
pub(super) struct Prepared<Place, S> {
    statement: S,
    place: PhantomData<Place>,
}

impl<Place, S> Prepared<Place, S> {
    pub(super) fn new(_: Place, statement: S) -> Self {
        Self {
            statement,
            place: PhantomData,
        }
    }
}

/// Marks a statement whose text never changes: values are bound, not written into it. (For a row
/// count diesel borrows the statement and loses this mark: an update needs [`Update`].)
macro_rules! prepared {
    ($statement:expr) => {{
        struct Here;
        $crate::store::prepared::Prepared::new(Here, $statement)
    }};
}
pub(super) use prepared;

impl<Place: 'static, S> QueryId for Prepared<Place, S> {
    type QueryId = Place;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Place, S: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Prepared<Place, S> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.statement.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

#[cfg(feature = "postgres")]
impl<Place, S: Query> Query for Prepared<Place, S> {
    type SqlType = S::SqlType;
}

impl<Place, S, Conn> RunQueryDsl<Conn> for Prepared<Place, S> {}

/// A column that is only compared, without an index. For indexed columns SQLite's planner looks at
/// the bound values, and prepares the statement again for each new value.
#[cfg(feature = "sqlite")]
#[derive(Debug, Clone, Copy, QueryId)]
pub(super) struct Plain<C>(pub(super) C);

#[cfg(feature = "sqlite")]
impl<C: Expression> Expression for Plain<C> {
    type SqlType = C::SqlType;
}

#[cfg(feature = "sqlite")]
impl<C: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Plain<C> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("+");
        self.0.walk_ast(out)
    }
}

/// An update without returned rows and with a constant text: these columns, this condition.
#[cfg(feature = "sqlite")]
pub(super) struct Update<Place, C, W> {
    table: &'static str,
    changes: C,
    condition: W,
    place: PhantomData<Place>,
}

#[cfg(feature = "sqlite")]
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

#[cfg(feature = "sqlite")]
impl<Place: 'static, C, W> QueryId for Update<Place, C, W> {
    type QueryId = Place;
    const HAS_STATIC_QUERY_ID: bool = true;
}

#[cfg(feature = "sqlite")]
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

#[cfg(feature = "sqlite")]
impl<Place, C, W, Conn> RunQueryDsl<Conn> for Update<Place, C, W> {}
