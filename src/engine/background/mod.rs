//! Background work: leases, recoveries and retention.

mod batches;
mod lease_keeper;
mod lease_round;
mod recoveries;
mod retention;
mod sweeper;

pub(crate) use self::lease_keeper::{CheckLeases, LeaseKeeper, LeaveAll, LetGo};
pub(crate) use self::recoveries::{RecoveryRunner, ResumeRecoveries};
pub(crate) use self::sweeper::{Sweeper, fail_overdue, unblock_unordered};
