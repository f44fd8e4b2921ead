//! Recoveries.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::domain::ids::{EndpointId, RecoveryId, Tenant};
use crate::domain::recovery::{Include, Progress, Recovery};
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

/// A recovery and its progress.
#[derive(ToSchema, Serialize)]
#[schema(as = Recovery, example = json!({
    "id": "rec_01a2116c9b3d7f0f8e2d5a6b7c8d9e0f", "endpoint_id": "ep_01a2116c7ac0750b83c2f73300529619",
    "tenant": "default", "include": Include::Failed, "since": "2026-11-25T08:00:00.000000Z",
    "until": "2026-11-25T10:00:00.000000Z", "status": "running", "matched": 120, "requeued": 100,
    "created_at": "2026-11-25T10:00:00.000000Z"
}))]
pub(crate) struct RecoveryBody {
    id: RecoveryId,
    endpoint_id: EndpointId,
    tenant: Tenant,
    include: Include,
    since: Timestamp,
    until: Timestamp,
    status: Progress,
    /// Number of deliveries found.
    matched: u64,
    /// Number of deliveries requeued.
    requeued: u64,
    created_at: Timestamp,
}

impl From<Recovery> for RecoveryBody {
    fn from(recovery: Recovery) -> Self {
        Self {
            id: recovery.id,
            endpoint_id: recovery.endpoint_id,
            tenant: recovery.tenant,
            include: recovery.include,
            since: recovery.since,
            until: recovery.until,
            status: recovery.progress,
            matched: recovery.matched,
            requeued: recovery.requeued,
            created_at: recovery.created_at,
        }
    }
}
