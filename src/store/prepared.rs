//! Statements prepared once per connection that diesel would prepare for each run: it assumes that
//! the text of every update and every `sql_query` may change.

use std::marker::PhantomData;

use diesel::RunQueryDsl;
use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
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

impl<Place, S: Query> Query for Prepared<Place, S> {
    type SqlType = S::SqlType;
}

impl<Place, S, Conn> RunQueryDsl<Conn> for Prepared<Place, S> {}
