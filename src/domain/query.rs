//! Lists: their filters, and the pages that they are read in, newest first.

use super::clock::Timestamp;
use super::ids::{DeliveryKey, EndpointId, EventId, Tenant, TokenId};
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

/// A filter of the list of tokens.
#[derive(Debug, Clone, Default)]
pub struct TokenQuery {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
}

/// A list: its filters, and the key by which it is sorted.
pub trait ListQuery: std::fmt::Debug {
    /// Name of the list.
    const LIST: &'static str;

    /// The key by which the list is sorted.
    type Key: PageKey;

    /// Returns what a cursor is bound to: the list and its filters.
    fn binding(&self) -> Vec<u8> {
        format!("{} {self:?}", Self::LIST).into_bytes()
    }
}

impl ListQuery for EventQuery {
    const LIST: &'static str = "events";
    type Key = EventSeq;
}

impl ListQuery for DeliveryQuery {
    const LIST: &'static str = "deliveries";
    type Key = DeliveryKey;
}

impl ListQuery for EndpointQuery {
    const LIST: &'static str = "endpoints";
    type Key = EndpointId;
}

impl ListQuery for TokenQuery {
    const LIST: &'static str = "tokens";
    type Key = TokenId;
}

/// The key that a page of a list ends with; the next page begins after it.
pub trait PageKey: Sized {
    /// Returns the key as bytes.
    fn encode(&self) -> Vec<u8>;

    /// Reads a key; `None` where the bytes are not one.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// An event's place in the order of publishing: the key of the list of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSeq(pub i64);

impl PageKey for EventSeq {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(i64::from_be_bytes).map(Self)
    }
}

impl PageKey for DeliveryKey {
    fn encode(&self) -> Vec<u8> {
        let (seq, endpoint) = (self.event_seq.to_be_bytes(), self.endpoint.to_be_bytes());
        [&seq[..], &endpoint[..]].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (seq, endpoint) = bytes.split_first_chunk()?;
        Some(Self {
            event_seq: i64::from_be_bytes(*seq),
            endpoint: i32::from_be_bytes(endpoint.try_into().ok()?),
        })
    }
}

macro_rules! key_is_an_id {
    ($($id:ty),+) => {$(
        impl PageKey for $id {
            fn encode(&self) -> Vec<u8> {
                self.as_str().as_bytes().to_vec()
            }

            fn decode(bytes: &[u8]) -> Option<Self> {
                std::str::from_utf8(bytes).ok().map(Self::from_text)
            }
        }
    )+};
}

key_is_an_id!(EndpointId, TokenId);

/// The place at which a page of a list ended: opaque, and only valid for the same list with the
/// same filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// Wraps the text of a cursor without checking it.
    #[must_use]
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the cursor as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<K = Cursor> {
    /// The place at which the page before ended.
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

    /// Makes a page of the rows that were read. `end` is the place at which reading stopped, unless
    /// it reached the end of the list.
    pub(crate) fn of<T>(
        &self,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> K,
        end: Option<ReadTo<K>>,
    ) -> Listed<T, K> {
        if rows.len() > self.limit {
            rows.truncate(self.limit);
            return Listed {
                next: rows.last().map(key),
                entries: rows,
                searched_back_to: None,
            };
        }
        let (next, searched_back_to) = end.map(|end| (end.after, end.at)).unzip();
        Listed {
            entries: rows,
            next,
            searched_back_to,
        }
    }
}

/// The place at which the search for a page's entries stopped, because it had read enough rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadTo<K> {
    /// Key of the last row that was read.
    pub(crate) after: K,
    /// Time at which its event was published.
    pub(crate) at: Timestamp,
}

/// A page that was read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed<T, K = Cursor> {
    /// The entries, newest first.
    pub entries: Vec<T>,
    /// The place after which the next page begins; `None` on the last one.
    pub next: Option<K>,
    /// Publishing time of the last event that was looked at, where a page ends before it is full:
    /// the search continues on the next page.
    pub searched_back_to: Option<Timestamp>,
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
            searched_back_to: self.searched_back_to,
        }
    }

    /// The same page with each entry mapped.
    pub(crate) fn map<U>(self, map: impl FnMut(T) -> U) -> Listed<U, K> {
        Listed {
            entries: self.entries.into_iter().map(map).collect(),
            next: self.next,
            searched_back_to: self.searched_back_to,
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
        let listed = page.of(vec![9, 8, 7], |seq| EventSeq(*seq), None);
        assert_eq!(
            (listed.entries, listed.next),
            (vec![9, 8], Some(EventSeq(8)))
        );
        assert_eq!(page.of(vec![9, 8], |seq| EventSeq(*seq), None).next, None);
    }

    #[test]
    fn a_page_that_is_not_full_continues_where_reading_stopped() {
        let page: Page<EventSeq> = Page::first(2);
        let at = Timestamp::from_micros(77);
        let end = Some(ReadTo {
            after: EventSeq(3),
            at,
        });
        let listed = page.of(vec![9], |seq| EventSeq(*seq), end);
        assert_eq!((listed.entries, listed.next), (vec![9], Some(EventSeq(3))));
        assert_eq!(listed.searched_back_to, Some(at));
        // A full page ends with its last entry, however far reading went.
        let listed = page.of(vec![9, 8, 7], |seq| EventSeq(*seq), end);
        assert_eq!(listed.next, Some(EventSeq(8)));
        assert_eq!(listed.searched_back_to, None);
    }
}
