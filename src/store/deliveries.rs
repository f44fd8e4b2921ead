//! Deliveries and their attempts.

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::delivery_rows::{delivery, life};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoint;
use super::error::StoreError;
use super::ordering::blocked_by_order;
use super::rows::{AttemptRow, DeliveryRow};
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
};
use super::status_is::{StatusIsPending, StatusIsSending};
use super::store::Store;
use super::tx::Tx;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryId, Tenant};
use crate::domain::lifecycle::{Life, Status};
use crate::domain::query::{DeliveryQuery, Listed, Page};
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
        id: &DeliveryId,
    ) -> Result<Option<DeliveryDetail>, StoreError> {
        let id = id.clone();
        self.read("delivery", move |conn, codec| {
            delivery_detail(conn, codec, &id)
        })
        .await
    }

    /// Returns a delivery's tenant.
    pub(crate) async fn tenant_of_delivery(
        &self,
        id: &DeliveryId,
    ) -> Result<Option<Tenant>, StoreError> {
        let id = id.clone();
        self.read("tenant", move |conn, _| tenant_of_delivery(conn, &id))
            .await
    }

    /// Reads a page of deliveries, newest first.
    pub(crate) async fn deliveries(
        &self,
        query: DeliveryQuery,
        page: Page<DeliveryId>,
    ) -> Result<Listed<Delivery, DeliveryId>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let rows = deliveries_page(conn, &query, &page)?;
            Ok(page.of(rows, |delivery| delivery.id.clone()))
        };
        self.read("deliveries", read).await
    }

    /// Reads the ids of all deliveries that have not ended.
    #[cfg(feature = "testing")]
    pub(crate) async fn live_deliveries(&self) -> Result<Vec<DeliveryId>, StoreError> {
        let read = |conn: &mut AnyConnection, _: &EndpointCodec| {
            let live = deliveries::table
                .filter(StatusIsPending.or(StatusIsSending))
                .select(deliveries::id);
            let ids: Vec<String> = live.load(conn)?;
            Ok(ids.into_iter().map(DeliveryId::from_text).collect())
        };
        self.read("live deliveries", read).await
    }
}

impl Tx<'_> {
    /// Reads and locks a delivery until the end of this transaction.
    pub(crate) fn delivery_to_change(
        &mut self,
        id: &DeliveryId,
    ) -> Result<Option<Delivery>, StoreError> {
        self.conn.dialect().lock_delivery(id)?;
        delivery(self.conn, id)
    }

    /// Reads and locks a delivery's life until the end of this transaction.
    pub(crate) fn life_to_change(&mut self, id: &DeliveryId) -> Result<Option<Life>, StoreError> {
        self.conn.dialect().lock_delivery(id)?;
        life(self.conn, id)
    }

    /// Notes that a person asked for a retry: the age of a pending delivery restarts.
    pub(crate) fn mark_retried(
        &mut self,
        id: &DeliveryId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        diesel::update(deliveries::table.find(id.as_str()))
            .set(deliveries::retried_at.eq(Some(at.as_micros())))
            .execute(self.conn)?;
        Ok(())
    }
}

fn delivery_detail(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    id: &DeliveryId,
) -> Result<Option<DeliveryDetail>, StoreError> {
    let Some(delivery) = delivery(conn, id)? else {
        return Ok(None);
    };
    let attempts = attempts_of(conn, id)?;
    let endpoint = endpoint(conn, codec, &delivery.endpoint_id)?;
    let ordering = endpoint.as_ref().map(|endpoint| endpoint.settings.ordering);
    let is_blocked = ordering == Some(Ordering::Key)
        && !blocked_by_order(conn, &delivery.endpoint_id, std::iter::once(id))?.is_empty();
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
    id: &DeliveryId,
) -> Result<Option<Tenant>, StoreError> {
    let of = deliveries::table
        .find(id.as_str())
        .select(deliveries::tenant);
    let tenant: Option<String> = of.first(conn).optional()?;
    Ok(tenant.map(Tenant::from_text))
}

fn deliveries_page(
    conn: &mut AnyConnection,
    filter: &DeliveryQuery,
    page: &Page<DeliveryId>,
) -> Result<Vec<Delivery>, StoreError> {
    let mut query = deliveries::table
        .inner_join(events::table)
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .order(deliveries::id.desc())
        .limit(page.rows())
        .into_boxed();
    if let Some(id) = &filter.endpoint_id {
        query = query.filter(deliveries::endpoint_id.eq(id.to_string()));
    }
    if let Some(id) = &filter.event_id {
        query = query.filter(events::id.eq(id.to_string()));
    }
    if let Some(tenant) = &filter.tenant {
        query = query.filter(deliveries::tenant.eq(tenant.to_string()));
    }
    match filter.status {
        Some(Status::Pending) => query = query.filter(StatusIsPending),
        Some(Status::Sending) => query = query.filter(StatusIsSending),
        Some(status) => query = query.filter(deliveries::status.eq(status.as_str())),
        None => {}
    }
    if let Some(since) = filter.since {
        query = query.filter(deliveries::created_at.ge(since.as_micros()));
    }
    if let Some(until) = filter.until {
        query = query.filter(deliveries::created_at.lt(until.as_micros()));
    }
    if let Some(after) = &page.after {
        query = query.filter(deliveries::id.lt(after.to_string()));
    }
    let rows: Vec<(DeliveryRow, String, String)> = query.load(conn)?;
    rows.into_iter()
        .map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type))
        .collect()
}

/// Reads a delivery's attempts, oldest first.
fn attempts_of(conn: &mut AnyConnection, id: &DeliveryId) -> Result<Vec<Attempt>, StoreError> {
    let rows: Vec<AttemptRow> = attempts::table
        .filter(attempts::delivery_id.eq(id.as_str()))
        .order(attempts::claim_no)
        .select(AttemptRow::as_select())
        .load(conn)?;
    rows.into_iter().map(codec::attempt).collect()
}
