//! Deliveries and their attempts.

use diesel::prelude::*;

use super::attempt_codec;
use super::attempt_parts::Repeated;
use super::connection::AnyConnection;
use super::delivery_rows::{delivery, life};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoint;
use super::error::StoreError;
use super::ordering::blocked_by_order;
use super::rows::AttemptRow;
#[cfg(feature = "testing")]
use super::rows::KeyColumns;
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
    webhook_tenants as tenants,
};
use super::store::Store;
use super::tx::Tx;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery};
use crate::domain::endpoint::Endpoint;
#[cfg(feature = "testing")]
use crate::domain::ids::DeliveryId;
use crate::domain::ids::{DeliveryKey, EventId, Tenant};
use crate::domain::lifecycle::Life;
use crate::domain::public_ids::PublicIds;
use crate::domain::settings::Ordering;

/// A delivery with everything that explains its state.
pub(crate) struct DeliveryDetail {
    pub(crate) delivery: Delivery,
    /// Oldest first.
    pub(crate) attempts: Vec<Attempt>,
    /// `None` once it has been deleted.
    pub(crate) endpoint: Option<Endpoint>,
    /// True if another delivery of its ordering key comes first.
    pub(crate) is_blocked: bool,
}

impl Store {
    /// Reads a delivery with everything that explains its state.
    pub(crate) async fn delivery_detail(
        &self,
        key: DeliveryKey,
    ) -> Result<Option<DeliveryDetail>, StoreError> {
        self.read("delivery", move |conn, codec| {
            delivery_detail(conn, codec, key)
        })
        .await
    }

    /// Returns a delivery's tenant.
    pub(crate) async fn tenant_of_delivery(
        &self,
        key: DeliveryKey,
    ) -> Result<Option<Tenant>, StoreError> {
        self.read("tenant", move |conn, _| tenant_of_delivery(conn, key))
            .await
    }

    /// Reads the ids of all deliveries that have not ended.
    #[cfg(feature = "testing")]
    pub(crate) async fn live_deliveries(&self) -> Result<Vec<DeliveryId>, StoreError> {
        let read = |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let keys: Vec<KeyColumns> = deliveries::table
                .filter(
                    deliveries::due_at
                        .is_not_null()
                        .or(deliveries::hold_reason.is_not_null()),
                )
                .select(KeyColumns::as_select())
                .load(conn)?;
            Ok(keys
                .into_iter()
                .map(|key| codec.ids().delivery(key.into()))
                .collect())
        };
        self.read("live deliveries", read).await
    }
}

impl Tx<'_> {
    /// Reads and locks a delivery until the end of this transaction.
    pub(crate) fn delivery_to_change(
        &mut self,
        key: DeliveryKey,
    ) -> Result<Option<Delivery>, StoreError> {
        self.conn.dialect().lock_delivery(key)?;
        delivery(self.conn, self.codec.ids(), key)
    }

    /// Reads and locks a delivery's life until the end of this transaction.
    pub(crate) fn life_to_change(&mut self, key: DeliveryKey) -> Result<Option<Life>, StoreError> {
        self.conn.dialect().lock_delivery(key)?;
        life(self.conn, key)
    }

    /// Notes that a person asked for a retry: the age of a pending delivery restarts.
    pub(crate) fn mark_retried(
        &mut self,
        key: DeliveryKey,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        diesel::update(deliveries::table.find((key.event_seq, key.endpoint)))
            .set(deliveries::retried_at.eq(Some(at.as_micros())))
            .execute(self.conn)?;
        Ok(())
    }
}

fn delivery_detail(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    key: DeliveryKey,
) -> Result<Option<DeliveryDetail>, StoreError> {
    let Some(delivery) = delivery(conn, codec.ids(), key)? else {
        return Ok(None);
    };
    let attempts = attempts_of(conn, codec.ids(), key, &delivery.event_id)?;
    let endpoint = endpoint(conn, codec, &delivery.endpoint_id)?;
    let ordering = endpoint.as_ref().map(|endpoint| endpoint.settings.ordering);
    let is_blocked =
        ordering == Some(Ordering::Key) && !blocked_by_order(conn, &[key], &[])?.is_empty();
    Ok(Some(DeliveryDetail {
        delivery,
        attempts,
        endpoint,
        is_blocked,
    }))
}

/// Returns a delivery's tenant.
fn tenant_of_delivery(
    conn: &mut AnyConnection,
    key: DeliveryKey,
) -> Result<Option<Tenant>, StoreError> {
    let tenant: Option<String> = deliveries::table
        .find((key.event_seq, key.endpoint))
        .inner_join(events::table.inner_join(tenants::table))
        .select(tenants::tenant)
        .first(conn)
        .optional()?;
    Ok(tenant.map(Tenant::from_text))
}

/// Reads a delivery's attempts, oldest first.
fn attempts_of(
    conn: &mut AnyConnection,
    ids: &PublicIds,
    key: DeliveryKey,
    event_id: &EventId,
) -> Result<Vec<Attempt>, StoreError> {
    let content_type: String = events::table
        .find(key.event_seq)
        .select(events::content_type)
        .first(conn)?;
    let repeated = Repeated {
        event_id: event_id.as_str(),
        content_type: &content_type,
    };
    let rows: Vec<AttemptRow> = attempts::table
        .filter(attempts::event_seq.eq(key.event_seq))
        .filter(attempts::endpoint.eq(key.endpoint))
        .order(attempts::claim_no)
        .select(AttemptRow::as_select())
        .load(conn)?;
    rows.into_iter()
        .map(|row| attempt_codec::attempt(ids, row, repeated))
        .collect()
}
