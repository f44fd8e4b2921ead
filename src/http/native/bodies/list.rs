//! A page of a list.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::domain::query::Listed;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = List)]
pub(crate) struct ListBody<T> {
    data: Vec<T>,
    /// `cursor` of the next page; null on the last page. A page may have fewer entries than `limit`,
    /// even none, and not be the last one.
    next_cursor: Option<String>,
    /// Publishing time of the last event that was looked at, on a page that is not full and not the
    /// last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    searched_back_to: Option<Timestamp>,
}

impl<T> ListBody<T> {
    pub(crate) fn new(page: Listed<T>) -> Self {
        Self {
            data: page.entries,
            next_cursor: page.next.map(|cursor| cursor.as_str().to_owned()),
            searched_back_to: page.searched_back_to,
        }
    }

    /// A list on a single page.
    pub(crate) fn whole(data: Vec<T>) -> Self {
        Self {
            data,
            next_cursor: None,
            searched_back_to: None,
        }
    }
}
