//! The window: an endpoint's due deliveries in the order they are to be sent, read ahead of demand,
//! and when there is something to do beyond it. Bounded, whatever waits in the database.
//!
//! Pure bookkeeping: it reads nothing and sends nothing.

use std::collections::{HashSet, VecDeque};

use crate::domain::clock::Timestamp;
use crate::domain::delivery::Queued;
use crate::domain::ids::DeliveryId;
use crate::store::query::Due;

#[derive(Debug)]
pub(super) struct Window {
    queued: VecDeque<Queued>,
    /// When the first delivery that is not in the window is due. `None`: none waits.
    next_due: Option<Timestamp>,
    /// Hints that came while the window was being read, and may be missing from what was read.
    hinted: Option<Timestamp>,
    loading: bool,
    /// The last read brought nothing new (its bodies filled it before its rows did): the next one
    /// would not either, until something has left.
    saturated: bool,
}

impl Window {
    /// Knows nothing yet, so something may be due.
    pub(super) fn unread() -> Self {
        let next_due = Some(Timestamp::from_micros(0));
        Self {
            queued: VecDeque::new(),
            next_due,
            hinted: None,
            loading: false,
            saturated: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queued.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &DeliveryId> {
        self.queued.iter().map(|queued| &queued.id)
    }

    /// What its bodies take.
    pub(super) fn bytes(&self) -> usize {
        self.queued
            .iter()
            .map(|queued| queued.event.body.len())
            .sum()
    }

    pub(super) fn is_loading(&self) -> bool {
        self.loading
    }

    /// When there is something to send: now, later, or (`None`) not as far as is known.
    pub(super) fn next_work(&self, now: Timestamp) -> Option<Timestamp> {
        if self.queued.is_empty() {
            self.next_due
        } else {
            Some(now)
        }
    }

    /// Something outside the window is due at that time.
    pub(super) fn note_due(&mut self, due: Timestamp) {
        let earlier =
            |present: Option<Timestamp>| Some(present.map_or(due, |present| present.min(due)));
        self.next_due = earlier(self.next_due);
        if self.queued.is_empty() {
            self.saturated = false;
        }
        if self.loading {
            self.hinted = earlier(self.hinted);
        }
    }

    /// Takes a delivery that was just committed, if there is room and nothing that waits in the
    /// database would be overtaken; else remembers that it is there.
    pub(super) fn offer(&mut self, queued: Queued, now: Timestamp, room: usize) {
        let first = !self.loading && self.next_due.is_none_or(|due| due > now);
        if first && self.queued.len() < room {
            self.queued.push_back(queued);
        } else {
            self.note_due(queued.due);
        }
    }

    /// Puts a delivery before all others.
    pub(super) fn put_first(&mut self, queued: Queued) {
        self.queued.retain(|one| one.id != queued.id);
        self.queued.push_front(queued);
    }

    /// The next `count` deliveries to send.
    pub(super) fn take(&mut self, count: usize) -> Vec<Queued> {
        self.saturated = false;
        let count = count.min(self.queued.len());
        self.queued.drain(..count).collect()
    }

    /// Lets go of what does not wait for a time any more.
    pub(super) fn forget(&mut self, ids: &[DeliveryId]) {
        self.queued.retain(|queued| !ids.contains(&queued.id));
    }

    /// Lets go of everything; it is still in the database.
    pub(super) fn clear(&mut self) {
        if let Some(first) = self.queued.front() {
            self.note_due(first.due);
        }
        self.queued.clear();
        self.saturated = false;
    }

    /// What was in hand has changed: a read may bring something new.
    pub(super) fn read_again(&mut self) {
        self.saturated = false;
    }

    /// Whether it is time to read on, and then how many rows beyond those at hand. Half-empty is
    /// early enough: the rest goes out meanwhile.
    pub(super) fn start_loading(&mut self, now: Timestamp, look_ahead: usize) -> Option<usize> {
        let due = self.next_due.is_some_and(|due| due <= now);
        if self.loading || self.saturated || !due || self.queued.len() * 2 > look_ahead {
            return None;
        }
        self.loading = true;
        self.hinted = None;
        Some(look_ahead - self.queued.len())
    }

    /// Takes what was read, less what is here or in hand already.
    pub(super) fn loaded(&mut self, due: Due, in_hand: impl Fn(&DeliveryId) -> bool) {
        self.loading = false;
        let present: HashSet<DeliveryId> =
            self.queued.iter().map(|queued| queued.id.clone()).collect();
        let new = |queued: &Queued| !present.contains(&queued.id) && !in_hand(&queued.id);
        let before = self.queued.len();
        self.queued.extend(due.queued.into_iter().filter(new));
        self.saturated = self.queued.len() == before && due.next.is_some();
        self.next_due = due.next;
        if let Some(hinted) = self.hinted.take() {
            self.note_due(hinted);
        }
    }

    /// Nothing could be read; what was known still holds.
    pub(super) fn loading_failed(&mut self) {
        self.loading = false;
        self.hinted = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::delivery::Seen;
    use crate::domain::event::{Content, EventType, NewEvent};
    use crate::domain::lifecycle::Life;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn queued(name: &str, due: i64) -> Queued {
        let data = serde_json::value::RawValue::from_string("1".into()).unwrap();
        let event = NewEvent::new(EventType::parse("a.b").unwrap(), Content::Data(data));
        let event = Arc::new(event.seal(at(due)).unwrap());
        let seen = Seen {
            claim_no: 0,
            life: Life::published(at(due), false),
        };
        Queued {
            id: DeliveryId::from_text(name),
            due: at(due),
            event,
            seen,
        }
    }

    fn names(queued: &[Queued]) -> Vec<&str> {
        queued.iter().map(|one| one.id.as_str()).collect()
    }

    fn empty() -> Window {
        let mut window = Window::unread();
        assert_eq!(window.start_loading(at(1), 4), Some(4));
        window.loaded(Due::default(), |_| false);
        window
    }

    #[test]
    fn what_was_just_committed_goes_in_without_being_read_back() {
        let mut window = empty();
        window.offer(queued("a", 1), at(1), 2);
        window.offer(queued("b", 1), at(1), 2);
        window.offer(queued("c", 1), at(1), 2);
        assert_eq!(names(&window.take(9)), ["a", "b"]);
        assert_eq!(
            window.next_work(at(2)),
            Some(at(1)),
            "the third is known to be in the database"
        );
    }

    #[test]
    fn nothing_overtakes_what_waits_in_the_database() {
        let mut window = empty();
        window.note_due(at(1));
        window.offer(queued("new", 2), at(2), 9);
        assert_eq!(window.len(), 0);
        assert!(window.start_loading(at(2), 9).is_some());
        window.loaded(
            Due {
                queued: vec![queued("old", 1), queued("new", 2)],
                next: None,
            },
            |_| false,
        );
        assert_eq!(names(&window.take(9)), ["old", "new"]);
    }

    #[test]
    fn a_hint_that_comes_while_reading_is_not_lost_to_an_older_snapshot() {
        let mut window = empty();
        window.note_due(at(1));
        assert!(window.start_loading(at(1), 9).is_some());
        window.offer(queued("late", 2), at(2), 9);
        window.loaded(
            Due {
                queued: vec![queued("old", 1)],
                next: None,
            },
            |_| false,
        );
        assert_eq!(names(&window.take(9)), ["old"]);
        assert_eq!(window.next_work(at(2)), Some(at(2)));
    }

    #[test]
    fn what_is_in_hand_already_is_not_taken_twice() {
        let mut window = empty();
        window.offer(queued("here", 1), at(1), 9);
        window.note_due(at(1));
        assert_eq!(window.start_loading(at(1), 9), Some(8));
        let read = vec![queued("claimed", 1), queued("here", 1), queued("next", 1)];
        window.loaded(
            Due {
                queued: read,
                next: Some(at(7)),
            },
            |id| id.as_str() == "claimed",
        );
        assert_eq!(names(&window.take(9)), ["here", "next"]);
        assert_eq!(window.next_work(at(2)), Some(at(7)));
    }

    /// A window cut by the size of its bodies was read again and again without a pause.
    #[test]
    fn a_read_that_brought_nothing_new_is_not_repeated_until_something_has_left() {
        let mut window = empty();
        window.note_due(at(1));
        let read = || Due {
            queued: vec![queued("big", 1)],
            next: Some(at(1)),
        };
        assert!(window.start_loading(at(1), 9).is_some());
        window.loaded(read(), |_| false);
        assert!(
            window.start_loading(at(1), 9).is_some(),
            "there may be room for more"
        );
        window.loaded(read(), |_| false);
        assert_eq!(window.start_loading(at(1), 9), None);
        window.take(1);
        assert!(window.start_loading(at(1), 9).is_some());
    }

    #[test]
    fn what_is_put_first_is_there_once_and_goes_first() {
        let mut window = empty();
        window.offer(queued("a", 1), at(1), 9);
        window.offer(queued("lost", 1), at(1), 9);
        window.put_first(queued("lost", 1));
        assert_eq!(names(&window.take(9)), ["lost", "a"]);
    }

    #[test]
    fn what_is_let_go_is_still_due() {
        let mut window = empty();
        window.offer(queued("a", 1), at(1), 9);
        window.clear();
        assert_eq!((window.len(), window.next_work(at(5))), (0, Some(at(1))));
    }
}
