//! A page of a list.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::query::Listed;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = List)]
pub(crate) struct ListBody<T> {
    data: Vec<T>,
    /// `cursor` of the next page; null on the last page.
    next_cursor: Option<String>,
}

impl<T> ListBody<T> {
    pub(crate) fn new(page: Listed<T>) -> Self {
        Self {
            data: page.entries,
            next_cursor: page.next.map(|cursor| cursor.as_str().to_owned()),
        }
    }

    /// A list on a single page.
    pub(crate) fn whole(data: Vec<T>) -> Self {
        Self {
            data,
            next_cursor: None,
        }
    }
}
