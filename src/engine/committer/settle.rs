//! What becomes of members that a commit has failed: whose fault it is, what waits for a better
//! state of the database, and what is stored of an outcome that the database refuses.

use std::time::{Duration, Instant};

use super::{FIRST_PAUSE, LONGEST_PAUSE, State};
use crate::store::{Member, StoreError, Unavailable};

/// What a database refuses may be the whole group's fault, or that of one in it.
pub(super) fn is_perhaps_one_members(why: &Unavailable) -> bool {
    matches!(why, Unavailable::Refused(_))
}

impl State {
    pub(super) fn commit_one_by_one(
        &mut self,
        group: Vec<Member>,
        untils: Vec<Instant>,
    ) -> Option<Duration> {
        let mut pause = None;
        for (member, until) in group.into_iter().zip(untils) {
            let mut alone = [member];
            let result = self.commit(&mut alone);
            let [member] = alone;
            match result {
                Ok(()) => {
                    self.failures = 0;
                    member.answer(None);
                }
                Err(error) => pause = self.settle_alone(member, until, error).or(pause),
            }
        }
        pause
    }

    /// What becomes of a member that failed by itself: of the database's state, or of its own
    /// content.
    pub(super) fn settle_alone(
        &mut self,
        member: Member,
        until: Instant,
        error: StoreError,
    ) -> Option<Duration> {
        match error {
            StoreError::Unavailable(why) if !is_perhaps_one_members(&why) => {
                self.keep_or_answer(vec![member], vec![until], &why);
                Some(self.pause())
            }
            error if matches!(member, Member::Record(_)) => {
                self.settle_outcome(member, until, error)
            }
            StoreError::Unavailable(why) => {
                self.keep_or_answer(vec![member], vec![until], &why);
                Some(self.pause())
            }
            error => {
                tracing::error!(%error, "a write failed");
                member.answer(Some(error));
                None
            }
        }
    }

    /// An outcome waits for a database that takes nothing. From one that takes other writes it is
    /// its content that is refused: then less and less of it is stored, so that it neither repeats
    /// permanently nor is lost.
    fn settle_outcome(
        &mut self,
        mut member: Member,
        until: Instant,
        error: StoreError,
    ) -> Option<Duration> {
        let (mut error, mut is_first) = (error, true);
        loop {
            let (probe, _) = Member::operation(|tx| crate::store::query::probe_write(tx.conn()));
            if let Err(unwell) = self.commit(&mut [probe]) {
                let why = match unwell {
                    StoreError::Unavailable(why) => why,
                    other => Unavailable::Refused(other.to_string()),
                };
                self.keep_or_answer(vec![member], vec![until], &why);
                return Some(self.pause());
            }
            // What passes by itself is not of its content: all of it is tried once more.
            if !std::mem::take(&mut is_first) {
                if !member.reduce() {
                    tracing::error!(%error, "an outcome could be stored in no form");
                    member.answer(Some(error));
                    return None;
                }
                tracing::warn!(%error, "the database refused an outcome for its content: storing less of it");
            }
            let mut alone = [member];
            let committed = self.commit(&mut alone);
            [member] = alone;
            match committed {
                Ok(()) => {
                    member.answer(None);
                    return None;
                }
                Err(next) => error = next,
            }
        }
    }

    /// Outcomes wait until they land. The others wait while the database is merely busy, as long
    /// as their askers do.
    pub(super) fn keep_or_answer(
        &mut self,
        group: Vec<Member>,
        untils: Vec<Instant>,
        why: &Unavailable,
    ) {
        tracing::warn!(%why, members = group.len(), "the database takes no writes");
        self.refused.note(why.clone());
        for (member, until) in group.into_iter().zip(untils) {
            let patient = *why == Unavailable::Busy && Instant::now() < until;
            if matches!(member, Member::Record(_)) || patient {
                self.enqueue(member, until);
            } else {
                member.answer(Some(why.clone().into()));
            }
        }
    }

    pub(super) fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        (FIRST_PAUSE * 2_u32.pow(self.failures.min(6))).min(LONGEST_PAUSE)
    }
}
