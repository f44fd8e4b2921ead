//! Resolution of a failed commit, based only on the error.

use std::time::Duration;

use crate::store::{StoreError, Unavailable};

/// Resolution of a group that was not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolution {
    /// The database's state is the reason: requeue the writes, or fail them.
    Requeue(Unavailable),
    /// One write may be the reason: run them one by one.
    Split,
    /// The database rejects an outcome: store a reduced form, if it accepts other writes.
    Reduce,
    /// The write itself is the reason: fail it.
    Fail,
}

/// Resolves `writes` writes that were not committed. `is_outcome` is true for a single outcome.
pub(super) fn resolve(error: &StoreError, writes: usize, is_outcome: bool) -> Resolution {
    match error {
        StoreError::Unavailable(why) if !may_be_content(why) => Resolution::Requeue(why.clone()),
        _ if writes > 1 => Resolution::Split,
        _ if is_outcome => Resolution::Reduce,
        StoreError::Unavailable(why) => Resolution::Requeue(why.clone()),
        _ => Resolution::Fail,
    }
}

/// Returns true if the error may concern the content of a write, not the database's state.
fn may_be_content(why: &Unavailable) -> bool {
    matches!(why, Unavailable::Refused(_))
}

/// Returns true if a write stays queued while the database is unavailable: an outcome until it is
/// written, others only while the database is busy and their callers wait.
pub(super) fn stays_queued(
    is_outcome: bool,
    why: &Unavailable,
    now: Duration,
    until: Duration,
) -> bool {
    is_outcome || (*why == Unavailable::Busy && now < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_resolved_by_its_reason() {
        use Resolution::{Fail, Reduce, Requeue, Split};
        let refused = Unavailable::Refused("?".into());
        let cases: [(StoreError, usize, bool, Resolution); 9] = [
            (
                Unavailable::Busy.into(),
                1,
                false,
                Requeue(Unavailable::Busy),
            ),
            (
                Unavailable::Full.into(),
                7,
                false,
                Requeue(Unavailable::Full),
            ),
            (
                Unavailable::Full.into(),
                1,
                true,
                Requeue(Unavailable::Full),
            ),
            (refused.clone().into(), 7, false, Split),
            (refused.clone().into(), 1, true, Reduce),
            (refused.clone().into(), 1, false, Requeue(refused)),
            (StoreError::Panicked, 2, false, Split),
            (StoreError::Panicked, 1, true, Reduce),
            (StoreError::Panicked, 1, false, Fail),
        ];
        for (error, writes, is_outcome, expected) in cases {
            assert_eq!(
                resolve(&error, writes, is_outcome),
                expected,
                "{error} {writes}"
            );
        }
    }

    #[test]
    fn outcomes_wait_and_the_others_only_for_a_busy_database_in_time() {
        let second = Duration::from_secs;
        for why in [Unavailable::Busy, Unavailable::Full, Unavailable::Silent] {
            assert!(stays_queued(true, &why, second(9), second(1)), "{why}");
        }
        assert!(stays_queued(
            false,
            &Unavailable::Busy,
            second(1),
            second(2)
        ));
        assert!(!stays_queued(
            false,
            &Unavailable::Busy,
            second(2),
            second(2)
        ));
        assert!(!stays_queued(
            false,
            &Unavailable::Full,
            second(1),
            second(2)
        ));
    }
}
