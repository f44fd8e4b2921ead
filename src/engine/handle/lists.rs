//! Pages of lists: opens the cursor of a page, and makes the one of the next.

use super::Postrider;
use crate::domain::Field;
use crate::domain::query::{ListQuery, Listed, Page};
use crate::engine::error::Error;
use crate::store::StoreError;

impl Postrider {
    /// Reads a page of a list with `read`.
    pub(super) async fn list<Q, T, R>(
        &self,
        query: Q,
        page: Page,
        read: impl FnOnce(Q, Page<Q::Key>) -> R,
    ) -> Result<Listed<T>, Error>
    where
        Q: ListQuery + Clone,
        R: Future<Output = Result<Listed<T, Q::Key>, StoreError>>,
    {
        let ids = self.store().public_ids();
        let after = page.after.map(|cursor| {
            let key = ids.open_cursor(&query, &cursor);
            key.ok_or_else(|| Error::field(Field::Cursor, "is not a cursor of this list"))
        });
        let page = Page {
            after: after.transpose()?,
            limit: page.limit,
        };
        let listed = read(query.clone(), page).await?;
        Ok(Listed {
            entries: listed.entries,
            next: listed.next.map(|key| ids.cursor(&query, &key)),
            searched_back_to: listed.searched_back_to,
        })
    }
}
