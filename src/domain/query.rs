//! Lists: their filters, and the pages that they are read in, newest first.

use super::clock::Timestamp;
use super::ids::{DeliveryId, EndpointId, EventId, Tenant, TokenId};
use super::lifecycle::Status;

/// A filter of the list of events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Only events of this type.
    pub event_type: Option<String>,
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Published at this time or later.
    pub since: Option<Timestamp>,
    /// Published before this time.
    pub until: Option<Timestamp>,
}

/// A filter of the list of deliveries.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    /// Only deliveries to this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Only deliveries of this event.
    pub event_id: Option<EventId>,
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only deliveries in this state.
    pub status: Option<Status>,
    /// Published at this time or later.
    pub since: Option<Timestamp>,
    /// Published before this time.
    pub until: Option<Timestamp>,
}

/// A filter of the list of endpoints.
#[derive(Debug, Clone, Default)]
pub struct EndpointQuery {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only the paused ones, or only the others.
    pub paused: Option<bool>,
    /// Only those with this text in their URL or description, in upper or lower case.
    pub search: Option<String>,
}

/// The key that a page of a list ends with; the next page begins after it.
pub trait PageKey: Sized {
    /// Name of the list, as its cursors carry it.
    const LIST: &'static str;

    /// Reads a key; `None` where `text` is not one of this list.
    fn parse(text: &str) -> Option<Self>;
}

/// An event's place in the order of publishing: the key of the list of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSeq(pub i64);

impl std::fmt::Display for EventSeq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl PageKey for EventSeq {
    const LIST: &'static str = "events";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

macro_rules! key_is_an_id {
    ($($id:ty, $list:literal, $prefix:literal;)+) => {$(
        impl PageKey for $id {
            const LIST: &'static str = $list;

            fn parse(text: &str) -> Option<Self> {
                let hex = text.strip_prefix($prefix)?;
                let is_uuid = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_uuid.then(|| Self::from_text(text))
            }
        }
    )+};
}

key_is_an_id! {
    DeliveryId, "deliveries", "dlv_";
    EndpointId, "endpoints", "ep_";
    TokenId, "tokens", "tok_";
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<K> {
    /// The key that the page before ended with.
    pub after: Option<K>,
    /// The most entries of the page.
    pub limit: usize,
}

impl<K> Page<K> {
    /// The first page.
    #[must_use]
    pub const fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    /// The rows to read: one more than the page holds tells whether there is a next one.
    pub(crate) fn rows(&self) -> i64 {
        i64::try_from(self.limit).map_or(i64::MAX, |limit| limit.saturating_add(1))
    }

    /// Makes a page of the rows that were read.
    pub(crate) fn of<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> K) -> Listed<T, K> {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(key);
        Listed {
            entries: rows,
            next,
        }
    }
}

/// A page that was read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed<T, K> {
    /// The entries, newest first.
    pub entries: Vec<T>,
    /// The key after which the next page begins; `None` on the last one.
    pub next: Option<K>,
}

impl<T, K> Listed<T, K> {
    /// The same page with references to its entries.
    pub(crate) fn as_ref(&self) -> Listed<&T, K>
    where
        K: Clone,
    {
        Listed {
            entries: self.entries.iter().collect(),
            next: self.next.clone(),
        }
    }

    /// The same page with each entry mapped.
    pub(crate) fn map<U>(self, map: impl FnMut(T) -> U) -> Listed<U, K> {
        Listed {
            entries: self.entries.into_iter().map(map).collect(),
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_where_the_next_one_begins() {
        let page: Page<EventSeq> = Page::first(2);
        assert_eq!(page.rows(), 3);
        let listed = page.of(vec![9, 8, 7], |seq| EventSeq(*seq));
        assert_eq!(
            (listed.entries, listed.next),
            (vec![9, 8], Some(EventSeq(8)))
        );
        assert_eq!(page.of(vec![9, 8], |seq| EventSeq(*seq)).next, None);
    }

    #[test]
    fn a_key_of_a_list_is_one_that_the_list_can_answer_with() {
        assert!(DeliveryId::parse("dlv_01a2116c8d0f7c22a1c04c7d3f2b9e10").is_some());
        assert!(EndpointId::parse("dlv_01a2116c8d0f7c22a1c04c7d3f2b9e10").is_none());
        assert!(DeliveryId::parse("abc").is_none());
        assert_eq!(EventSeq::parse("17"), Some(EventSeq(17)));
        assert!(EventSeq::parse("x").is_none());
    }
}
