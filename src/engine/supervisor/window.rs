//! The window: an endpoint's due deliveries in the order of sending, read ahead, and the time of
//! the next one after them. Bounded, however many are pending in the database.
//!
//! Pure bookkeeping: it reads nothing and sends nothing.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::delivery::Queued;
use crate::domain::ids::DeliveryKey;
use crate::store::DuePage;

/// Time by which the low-water mark stays behind the writer horizon: a delivery is due from the time at
/// which its write was queued, before its transaction began.
const MARK_LAG: Duration = Duration::from_secs(10);

/// Interval between reads that begin before the mark: a transaction may take longer than that.
const WALK_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Window {
    queued: VecDeque<Queued>,
    /// Due time of the first delivery outside of the window; `None`: there is none.
    next_due: Option<Timestamp>,
    /// Earliest hint during a read, which may have missed that delivery.
    hinted: Option<Timestamp>,
    loading: bool,
    /// Low-water mark: all deliveries that were due before this time have left.
    mark: Timestamp,
    /// Monotonic time of the last read that began before the mark, as a net.
    walked: Option<Duration>,
    /// True if the last read returned nothing new (bodies filled it before its rows did): reading
    /// again is useless until something has left.
    saturated: bool,
}

impl Window {
    /// Creates an unread window: something may be due.
    pub(super) fn unread() -> Self {
        let next_due = Some(Timestamp::from_micros(0));
        Self {
            queued: VecDeque::new(),
            next_due,
            hinted: None,
            loading: false,
            mark: Timestamp::from_micros(0),
            walked: None,
            saturated: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queued.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = DeliveryKey> {
        self.queued.iter().map(|queued| queued.key)
    }

    /// Returns the size of its bodies in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.queued
            .iter()
            .map(|queued| queued.event.body.len())
            .sum()
    }

    pub(super) fn is_loading(&self) -> bool {
        self.loading
    }

    /// Returns the time at which there is something to send: now, later, or (`None`) never as far
    /// as is known.
    pub(super) fn next_work(&self, now: Timestamp) -> Option<Timestamp> {
        if self.queued.is_empty() {
            self.next_due
        } else {
            Some(now)
        }
    }

    /// Notes that something outside of the window is due at that time.
    pub(super) fn note_due(&mut self, due: Timestamp) {
        let earlier =
            |present: Option<Timestamp>| Some(present.map_or(due, |present| present.min(due)));
        self.next_due = earlier(self.next_due);
        self.mark = self.mark.min(due);
        if self.queued.is_empty() {
            self.saturated = false;
        }
        if self.loading {
            self.hinted = earlier(self.hinted);
        }
    }

    /// Adds a delivery that was just committed, if there is room and it overtakes nothing in the
    /// database; else notes its due time.
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
        self.queued.retain(|one| one.key != queued.key);
        self.queued.push_front(queued);
    }

    /// Takes the next `count` deliveries to send.
    pub(super) fn take(&mut self, count: usize) -> Vec<Queued> {
        let count = count.min(self.queued.len());
        self.saturated &= count == 0;
        self.queued.drain(..count).collect()
    }

    /// Forgets deliveries that no longer have a due time.
    pub(super) fn forget(&mut self, keys: &[DeliveryKey]) {
        self.queued.retain(|queued| !keys.contains(&queued.key));
    }

    /// Forgets everything; it is still in the database.
    pub(super) fn clear(&mut self) {
        if let Some(first) = self.queued.front() {
            self.note_due(first.due);
        }
        self.queued.clear();
        self.saturated = false;
    }

    /// Allows a new read after one that returned nothing.
    pub(super) fn read_again(&mut self) {
        self.saturated = false;
    }

    /// Begins a read if it is time, and returns the number of rows beyond those at hand. A
    /// half-empty window is early enough: the rest is sent meanwhile.
    pub(super) fn start_loading(&mut self, now: Timestamp, look_ahead: usize) -> Option<usize> {
        let due = self.next_due.is_some_and(|due| due <= now);
        if self.loading || self.saturated || !due || self.queued.len() * 2 > look_ahead {
            return None;
        }
        self.loading = true;
        self.hinted = None;
        Some(look_ahead - self.queued.len())
    }

    /// Returns the low-water mark.
    pub(super) fn mark(&self) -> Timestamp {
        self.mark
    }

    /// Returns the due time from which on to read. Entries of deliveries that have left stay in the
    /// index for as long as any transaction may see them: a read that begins behind them costs the
    /// same, however many they are.
    pub(super) fn read_from(&mut self, monotonic: Duration) -> Timestamp {
        let is_due = self
            .walked
            .is_none_or(|at| monotonic.saturating_sub(at) >= WALK_INTERVAL);
        if is_due {
            self.walked = Some(monotonic);
            return Timestamp::from_micros(0);
        }
        self.mark
    }

    /// Adds deliveries that were read, except those already here or in hand. `being_claimed` is the
    /// earliest due time of those that a claim may give back; deliveries that are due from `horizon` on
    /// may still become pending.
    pub(super) fn loaded(
        &mut self,
        due: DuePage,
        now: Timestamp,
        (being_claimed, horizon): (Option<Timestamp>, Timestamp),
        in_hand: impl Fn(DeliveryKey) -> bool,
    ) {
        self.loading = false;
        let present: HashSet<DeliveryKey> = self.queued.iter().map(|queued| queued.key).collect();
        let new = |queued: &Queued| !present.contains(&queued.key) && !in_hand(queued.key);
        let before = self.queued.len();
        self.queued.extend(due.queued.into_iter().filter(new));
        let more_is_due = due.next.is_some_and(|next| next <= now);
        self.saturated = self.queued.len() == before && more_is_due;
        self.next_due = due.next;
        let waiting = self.queued.iter().map(|queued| queued.due);
        let first = waiting.chain(due.next).chain(being_claimed).min();
        self.mark = first.unwrap_or(now).min(now).min(horizon) - MARK_LAG;
        if let Some(hinted) = self.hinted.take() {
            self.note_due(hinted);
        }
    }

    /// Ends a failed read; everything known stays valid.
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
    use crate::domain::ids::EventId;
    use crate::domain::lifecycle::Life;

    /// Nothing is being claimed, and no transaction is open.
    const NO_CLAIM: (Option<Timestamp>, Timestamp) = (None, Timestamp::from_micros(i64::MAX));

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn queued(name: &str, due: i64) -> Queued {
        let data = serde_json::value::RawValue::from_string("1".into()).unwrap();
        let event = NewEvent {
            id: EventId::from_text(name),
            ..NewEvent::new(EventType::parse("a.b").unwrap(), Content::Data(data))
        };
        let event = Arc::new(event.freeze(at(due)).unwrap());
        let seen = Seen {
            claim_no: 0,
            life: Life::published(at(due), false),
        };
        Queued {
            key: key(name),
            due: at(due),
            event,
            seen,
        }
    }

    fn key(name: &str) -> DeliveryKey {
        let event_seq = name
            .bytes()
            .fold(0, |sum, byte| sum * 128 + i64::from(byte));
        DeliveryKey {
            event_seq,
            endpoint: 1,
        }
    }

    fn names(queued: &[Queued]) -> Vec<&str> {
        queued.iter().map(|one| one.event.id.as_str()).collect()
    }

    fn empty() -> Window {
        let mut window = Window::unread();
        assert_eq!(window.start_loading(at(1), 4), Some(4));
        window.loaded(DuePage::default(), at(1), NO_CLAIM, |_| false);
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
            DuePage {
                queued: vec![queued("old", 1), queued("new", 2)],
                next: None,
            },
            at(2),
            NO_CLAIM,
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
            DuePage {
                queued: vec![queued("old", 1)],
                next: None,
            },
            at(2),
            NO_CLAIM,
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
            DuePage {
                queued: read,
                next: Some(at(7)),
            },
            at(1),
            NO_CLAIM,
            |one| one == key("claimed"),
        );
        assert_eq!(names(&window.take(9)), ["here", "next"]);
        assert_eq!(window.next_work(at(2)), Some(at(7)));
    }

    /// A window cut by the size of its bodies was read again and again without a pause.
    #[test]
    fn a_read_that_brought_nothing_new_is_not_repeated_until_something_has_left() {
        let mut window = empty();
        window.note_due(at(1));
        let read = || DuePage {
            queued: vec![queued("big", 1)],
            next: Some(at(1)),
        };
        assert!(window.start_loading(at(1), 9).is_some());
        window.loaded(read(), at(1), NO_CLAIM, |_| false);
        assert!(
            window.start_loading(at(1), 9).is_some(),
            "there may be room for more"
        );
        window.loaded(read(), at(1), NO_CLAIM, |_| false);
        assert_eq!(window.start_loading(at(1), 9), None);
        window.take(1);
        assert!(window.start_loading(at(1), 9).is_some());
    }

    /// A retry that was the only delivery left waited for the next poll.
    #[test]
    fn a_read_that_found_only_later_deliveries_is_repeated_at_their_time() {
        let mut window = Window::unread();
        assert!(window.start_loading(at(1), 9).is_some());
        let later = DuePage {
            queued: Vec::new(),
            next: Some(at(11)),
        };
        window.loaded(later, at(1), NO_CLAIM, |_| false);
        assert_eq!(window.start_loading(at(10), 9), None);
        assert!(window.start_loading(at(11), 9).is_some());
    }

    #[test]
    fn what_is_put_first_is_there_once_and_goes_first() {
        let mut window = empty();
        window.offer(queued("a", 1), at(1), 9);
        window.offer(queued("lost", 1), at(1), 9);
        window.put_first(queued("lost", 1));
        assert_eq!(names(&window.take(9)), ["lost", "a"]);
    }

    /// Deliveries that have left stay in the index while a long transaction runs.
    #[test]
    fn a_read_begins_behind_what_has_left_and_before_what_may_come_back() {
        let mut window = Window::unread();
        let second = Duration::from_secs;
        assert_eq!(window.read_from(second(0)), at(0), "nothing is known");
        let page = DuePage {
            queued: vec![queued("a", 50), queued("b", 60)],
            next: Some(at(90)),
        };
        window.loaded(page, at(100), NO_CLAIM, |_| false);
        assert_eq!(window.read_from(second(1)), at(40), "ten before the first");
        window.take(1);
        // It may come back as it was.
        window.loaded(
            DuePage::default(),
            at(100),
            (Some(at(50)), at(1000)),
            |_| false,
        );
        assert_eq!(window.read_from(second(2)), at(40));
        window.loaded(DuePage::default(), at(100), NO_CLAIM, |_| false);
        assert_eq!(window.read_from(second(3)), at(50), "`b` is next");
        window.take(1);
        window.loaded(DuePage::default(), at(100), NO_CLAIM, |_| false);
        assert_eq!(window.read_from(second(4)), at(90));
        // One that nobody expected there: the poll finds it.
        window.note_due(at(7));
        assert_eq!(window.read_from(second(5)), at(7));
        window.loaded(DuePage::default(), at(100), NO_CLAIM, |_| false);
        assert_eq!(window.read_from(second(60)), at(0), "the net");
        assert_eq!(window.read_from(second(61)), at(90));
        window.loaded(DuePage::default(), at(200), (None, at(33)), |_| false);
        assert_eq!(
            window.read_from(second(62)),
            at(23),
            "a transaction is open"
        );
    }

    #[test]
    fn what_is_let_go_is_still_due() {
        let mut window = empty();
        window.offer(queued("a", 1), at(1), 9);
        window.clear();
        assert_eq!((window.len(), window.next_work(at(5))), (0, Some(at(1))));
    }
}
