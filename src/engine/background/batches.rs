//! Size and pace of the batches in which rows are removed or changed in the background.

use std::time::Duration;

/// Rows of a transaction, so that no other write waits long.
pub(super) const BATCH: i64 = 200;

/// The time between two batches.
pub(super) const BATCH_PAUSE: Duration = Duration::from_millis(20);
