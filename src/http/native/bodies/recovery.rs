//! Recoveries.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::domain::recovery::Include;
use crate::engine::RecoveryPreview;

/// The time range to recover; `until` defaults to now.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRecovery, example = json!({"since": "2026-11-25T08:00:00Z", "until": null, "include": Include::Failed}))]
pub(crate) struct RecoverRequest {
    pub(crate) since: Timestamp,
    pub(crate) until: Option<Timestamp>,
    pub(crate) include: Include,
}

/// The deliveries that a recovery would send.
#[derive(Serialize, ToSchema)]
#[schema(as = RecoveryPreview)]
pub(crate) struct PreviewBody {
    pub(crate) failed: u64,
    pub(crate) missing: u64,
    /// True if there may be more: counting stops here.
    pub(crate) capped: bool,
}

impl From<RecoveryPreview> for PreviewBody {
    fn from(preview: RecoveryPreview) -> Self {
        Self {
            failed: preview.failed,
            missing: preview.missing,
            capped: preview.capped,
        }
    }
}
