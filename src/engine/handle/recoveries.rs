//! Recoveries: start, preview and progress.

use super::Postrider;
use super::handle::send;
use super::views::RecoveryPreview;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{EndpointId, RecoveryId};
use crate::domain::recovery::{Include, Progress, Recovery};
use crate::domain::{Field, Resource};
use crate::engine::background::ResumeRecoveries;
use crate::engine::error::Error;
use crate::store::Hint;

impl Postrider {
    /// Resends deliveries that an endpoint missed between `since` and `until` (default: now), in
    /// the background.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Invalid`] for an empty span.
    pub async fn recover_endpoint(
        &self,
        id: &EndpointId,
        include: Include,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Recovery, Error> {
        let recovery = self
            .recovery_of(
                id,
                TimeRange {
                    include,
                    since,
                    until,
                },
            )
            .await?;
        let row = recovery.clone();
        self.context()
            .committer
            .run(move |tx| tx.insert_recovery(&row))
            .await?;
        tracing::info!(recovery = %recovery.id, endpoint = %id, "recovery {} was requested", recovery.id);
        send(&self.inner.recovery_runner, ResumeRecoveries);
        self.inner.hints.send(Hint::Changed);
        Ok(recovery)
    }

    /// Counts the deliveries that [`recover_endpoint`](Self::recover_endpoint) would send. Changes
    /// nothing.
    ///
    /// # Errors
    /// Same as [`recover_endpoint`](Self::recover_endpoint).
    pub async fn preview_recovery(
        &self,
        id: &EndpointId,
        include: Include,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<RecoveryPreview, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let recovery = self
            .recovery_of(
                id,
                TimeRange {
                    include,
                    since,
                    until,
                },
            )
            .await?;
        let filters = endpoint.settings.event_types;
        let found = self.store().recoverable(recovery, filters).await?;
        Ok(RecoveryPreview {
            failed: found.failed,
            missing: found.missing,
            capped: found.capped,
        })
    }

    /// Returns a recovery and its progress.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn recovery(&self, id: &RecoveryId) -> Result<Recovery, Error> {
        self.store()
            .recovery(id)
            .await?
            .ok_or(Error::NotFound(Resource::Recovery))
    }

    async fn recovery_of(&self, id: &EndpointId, span: TimeRange) -> Result<Recovery, Error> {
        let endpoint = self.find_endpoint(id).await?;
        let now = self.now();
        new_recovery(
            self.context().store.ids().recovery(now),
            &endpoint,
            span,
            now,
        )
    }
}

/// A span of time, and the deliveries in it to recover.
#[derive(Debug, Clone, Copy)]
struct TimeRange {
    include: Include,
    since: Timestamp,
    until: Option<Timestamp>,
}

/// Creates a recovery without progress.
///
/// # Errors
/// [`Error::Invalid`] for an empty span.
fn new_recovery(
    id: RecoveryId,
    endpoint: &Endpoint,
    span: TimeRange,
    now: Timestamp,
) -> Result<Recovery, Error> {
    // Failures from now on are not part of the recovery.
    let until = span.until.unwrap_or(now).min(now);
    if span.since >= until {
        return Err(Error::field(
            Field::Since,
            "must be before `until`, and before now",
        ));
    }
    Ok(Recovery {
        id,
        endpoint_id: endpoint.id.clone(),
        tenant: endpoint.tenant.clone(),
        include: span.include,
        since: span.since,
        until,
        progress: Progress::Running,
        matched: 0,
        requeued: 0,
        created_at: now,
    })
}
