//! Selects the items of the next commit: owners take turns, and a commit holds a bounded amount of
//! work.
//!
//! A publisher with large batches therefore delays another one by about one batch, not by all.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Size of an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows to write.
    pub rows: usize,
    /// Bytes to write.
    pub bytes: usize,
}

impl Cost {
    const fn fits(self, left: Self) -> bool {
        self.rows <= left.rows && self.bytes <= left.bytes
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(other.rows),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// One queue per owner; the owners take turns.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    queues: HashMap<K, VecDeque<(Cost, T)>>,
    /// Owners with queued items, in the order of their turns.
    turns: VecDeque<K>,
    len: usize,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// Returns the number of queued items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the queue is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item to the end of its owner's queue.
    pub fn push(&mut self, owner: K, cost: Cost, item: T) {
        let queue = self.queues.entry(owner.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(owner);
        }
        queue.push_back((cost, item));
        self.len += 1;
    }

    /// Takes at most `most` items for one commit, one per owner in turn, while they fit into
    /// `budget`. The first item is taken even if it exceeds the budget. An owner whose item does
    /// not fit is first next time.
    pub fn take(&mut self, budget: Cost, most: usize) -> Vec<T> {
        let (mut taken, mut left, mut passed_over) = (Vec::new(), budget, VecDeque::new());
        while taken.len() < most {
            let Some(owner) = self.turns.pop_front() else {
                break;
            };
            let Some(queue) = self.queues.get_mut(&owner) else {
                continue;
            };
            let fits = |(cost, _): &mut (Cost, T)| taken.is_empty() || cost.fits(left);
            match queue.pop_front_if(fits) {
                Some((cost, item)) => {
                    left = left.minus(cost);
                    taken.push(item);
                    if queue.is_empty() {
                        self.queues.remove(&owner);
                    } else {
                        self.turns.push_back(owner);
                    }
                }
                None => passed_over.push_back(owner),
            }
        }
        passed_over.append(&mut self.turns);
        self.turns = passed_over;
        self.len -= taken.len();
        taken
    }

    /// Takes all items.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<K, T> {
        let all = std::mem::take(self);
        all.queues.into_values().flatten().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn rows(rows: usize) -> Cost {
        Cost { rows, bytes: 0 }
    }

    #[test]
    fn a_small_item_waits_for_at_most_one_large_one() {
        let mut queue = FairQueue::default();
        for batch in 0..8 {
            queue.push("bulk", rows(40_000), format!("batch {batch}"));
        }
        assert_eq!(
            queue.take(rows(4000), 512),
            ["batch 0"],
            "the first one is taken whatever it costs"
        );
        queue.push("small", rows(2), "small".to_owned());
        assert_eq!(queue.take(rows(4000), 512), ["batch 1"]);
        assert_eq!(queue.take(rows(4000), 512), ["small"]);
        assert_eq!(
            queue.take(rows(4000), 512),
            ["batch 2"],
            "who was passed over is first"
        );
    }

    #[test]
    fn owners_take_turns_within_a_commit() {
        let mut queue = FairQueue::default();
        for (owner, item) in [
            ("a", "a1"),
            ("a", "a2"),
            ("a", "a3"),
            ("b", "b1"),
            ("c", "c1"),
        ] {
            queue.push(owner, rows(1), item);
        }
        assert_eq!(queue.take(rows(4), 512), ["a1", "b1", "c1", "a2"]);
        assert_eq!(queue.take(rows(4), 512), ["a3"]);
        assert!(queue.is_empty() && queue.take(rows(4), 512).is_empty());
    }

    proptest! {
        #[test]
        fn everything_is_taken_once_and_in_the_order_of_its_owner(
            items in prop::collection::vec((0_u8..5, 1_usize..5000), 0..200), most in 1_usize..20,
        ) {
            let mut queue = FairQueue::default();
            for (place, (owner, cost)) in items.iter().enumerate() {
                queue.push(*owner, rows(*cost), (*owner, place));
            }
            let mut taken = Vec::new();
            while !queue.is_empty() {
                let group = queue.take(rows(4000), most);
                prop_assert!(!group.is_empty() && group.len() <= most);
                let cost: usize = group.iter().map(|(_, place)| items[*place].1).sum();
                prop_assert!(group.len() == 1 || cost <= 4000);
                taken.extend(group);
            }
            prop_assert_eq!(taken.len(), items.len());
            for owner in 0..5 {
                let of_owner: Vec<usize> =
                    taken.iter().filter(|(of, _)| *of == owner).map(|(_, place)| *place).collect();
                prop_assert!(of_owner.is_sorted());
            }
        }
    }
}
