//! The list of deliveries. Each filter has an index: the endpoint, the event and the tenant have one
//! in the order of the list; a state that few deliveries are in has one to collect them from; a time
//! range is a range in the order of publishing. What no index answers is searched window by window.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool};

use super::codec::{self, JoinedDelivery};
use super::connection::AnyConnection;
use super::delivery_rows::joined;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::event_id;
use super::list_window::{ENTRIES_AT_ONCE, SeqRange};
use super::numbers::number_of_endpoint;
use super::schema::{webhook_deliveries as deliveries, webhook_events as events};
use super::store::Store;
use super::tenants::number_of;
use crate::domain::delivery::Delivery;
use crate::domain::ids::DeliveryKey;
use crate::domain::lifecycle::Status;
use crate::domain::public_ids::PublicIds;
use crate::domain::query::{DeliveryQuery, Listed, Page, ReadTo};

impl Store {
    /// Reads a page of deliveries, newest first.
    pub(crate) async fn deliveries(
        &self,
        query: DeliveryQuery,
        page: Page<DeliveryKey>,
    ) -> Result<Listed<Delivery, DeliveryKey>, StoreError> {
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let (rows, end) = deliveries_page(conn, codec.ids(), &query, &page)?;
            let listed = page.of(rows, |(key, _)| *key, end);
            Ok(listed.map(|(_, delivery)| delivery))
        };
        self.read("deliveries", read).await
    }
}

/// Maximum number of deliveries that a list collects before it sorts them.
const MAX_COLLECTED: i64 = 4_000;

/// Maximum number of events with the same id, which different tenants may use.
const MAX_SAME_ID: i64 = 4_000;

/// Returns the conditions of the partial indexes that together contain the deliveries in a state.
fn indexes_of(status: Status) -> &'static [&'static str] {
    match status {
        Status::Pending | Status::Sending => &["due_at IS NOT NULL", "hold_reason IS NOT NULL"],
        Status::Failed => &["failed_at IS NOT NULL"],
        Status::Delivered => &[],
    }
}

/// Returns a condition that collects the deliveries in a state from their indexes; `None` if these
/// are many, or no index has them.
fn collected(
    conn: &mut AnyConnection,
    status: Status,
    endpoint: Option<i32>,
) -> Result<Option<String>, StoreError> {
    #[derive(QueryableByName)]
    struct Counted {
        #[diesel(sql_type = BigInt)]
        found: i64,
    }
    let of_endpoint = endpoint.map_or(String::new(), |number| format!(" AND endpoint = {number}"));
    let conditions = indexes_of(status);
    let mut total = 0;
    for condition in conditions {
        let counted: Counted = diesel::sql_query(format!(
            "SELECT count(*) AS found FROM (SELECT 1 FROM webhook_deliveries \
             WHERE {condition}{of_endpoint} LIMIT {MAX_COLLECTED}) AS counted"
        ))
        .get_result(conn)?;
        total += counted.found;
    }
    if conditions.is_empty() || total >= MAX_COLLECTED {
        return Ok(None);
    }
    let selects: Vec<String> = conditions
        .iter()
        .map(|condition| {
            format!(
                "SELECT event_seq, endpoint FROM webhook_deliveries WHERE {condition}{of_endpoint}"
            )
        })
        .collect();
    Ok(Some(format!(
        "(webhook_deliveries.event_seq, webhook_deliveries.endpoint) IN ({})",
        selects.join(" UNION ALL ")
    )))
}

/// Limits a query of deliveries to a range of events and to the rows after a page. `$seq` is the column
/// of the place in the order of publishing whose index is read.
macro_rules! in_range {
    ($query:expr, $seq:expr, $range:expr, $after:expr) => {{
        let mut query = $query;
        if let Some(from) = $range.from {
            query = query.filter($seq.ge(from));
        }
        if let Some(below) = $range.below {
            query = query.filter($seq.lt(below));
        }
        if let Some(after) = $after {
            let earlier = $seq.eq(after.event_seq);
            query = query.filter($seq.le(after.event_seq)).filter(
                $seq.lt(after.event_seq)
                    .or(earlier.and(deliveries::endpoint.lt(after.endpoint))),
            );
        }
        query
    }};
}

/// Limits a query of deliveries to those up to the end of a window.
macro_rules! up_to {
    ($query:expr, $seq:expr, $end:expr) => {{
        let same = $seq.eq($end.event_seq);
        $query.filter($seq.ge($end.event_seq)).filter(
            $seq.gt($end.event_seq)
                .or(same.and(deliveries::endpoint.ge($end.endpoint))),
        )
    }};
}

/// A filter with the numbers of its endpoint and its tenant.
struct Numbered {
    endpoint: Option<i32>,
    tenant: Option<i32>,
    range: SeqRange,
}

impl Numbered {
    /// Looks the numbers up. `None` if the endpoint or the tenant does not exist.
    fn of(conn: &mut AnyConnection, query: &DeliveryQuery) -> Result<Option<Self>, StoreError> {
        let (mut endpoint, mut tenant) = (None, None);
        if let Some(id) = &query.endpoint_id {
            endpoint = number_of_endpoint(conn, id)?;
            if endpoint.is_none() {
                return Ok(None);
            }
        }
        if let Some(name) = &query.tenant {
            tenant = number_of(conn, name)?;
            if tenant.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(Self {
            endpoint,
            tenant,
            range: SeqRange::of(conn, query.since, query.until)?,
        }))
    }

    /// Returns the tenant whose events are read in their order: that of a filter without endpoint.
    fn events_of(&self) -> Option<i32> {
        self.tenant.filter(|_| self.endpoint.is_none())
    }
}

/// Columns of the end of a window.
type End = (i64, i32, i64);

/// Returns the last row of the window in which a page is searched; `None` if the list ends in it.
fn window_end(
    conn: &mut AnyConnection,
    filter: &Numbered,
    page: &Page<DeliveryKey>,
) -> Result<Option<ReadTo<DeliveryKey>>, StoreError> {
    let columns = (
        deliveries::event_seq,
        deliveries::endpoint,
        deliveries::created_at,
    );
    let range = filter.range;
    let end: Option<End> = match filter.events_of() {
        Some(tenant) => {
            let query = deliveries::table.inner_join(events::table).into_boxed();
            in_range!(query, events::seq, range, &page.after)
                .filter(events::tenant.between(tenant, tenant))
                .order(newest_of_tenant())
                .offset(ENTRIES_AT_ONCE - 1)
                .select(columns)
                .first(conn)
                .optional()?
        }
        None => {
            let query = deliveries::table.into_boxed();
            let mut query = in_range!(query, deliveries::event_seq, range, &page.after);
            if let Some(number) = filter.endpoint {
                query = query.filter(deliveries::endpoint.eq(number));
            }
            query
                .order((deliveries::event_seq.desc(), deliveries::endpoint.desc()))
                .offset(ENTRIES_AT_ONCE - 1)
                .select(columns)
                .first(conn)
                .optional()?
        }
    };
    let end = end.map(|(event_seq, endpoint, created_at)| ReadTo {
        after: DeliveryKey {
            event_seq,
            endpoint,
        },
        at: codec::time(created_at),
    });
    Ok(end)
}

/// The order of the list, in the words of the index of a tenant's events. With a range of tenants, of
/// which there is one, no other index can serve it.
#[diesel::dsl::auto_type]
fn newest_of_tenant() -> _ {
    (
        events::tenant.desc(),
        events::seq.desc(),
        deliveries::endpoint.desc(),
    )
}

type Rows = Vec<(DeliveryKey, Delivery)>;

fn deliveries_page(
    conn: &mut AnyConnection,
    ids: &PublicIds,
    query: &DeliveryQuery,
    page: &Page<DeliveryKey>,
) -> Result<(Rows, Option<ReadTo<DeliveryKey>>), StoreError> {
    let Some(filter) = Numbered::of(conn, query)? else {
        return Ok((Vec::new(), None));
    };
    let mut is_bounded = false;
    let mut rows = joined().limit(page.rows()).into_boxed();
    if let Some(number) = filter.endpoint {
        rows = rows.filter(deliveries::endpoint.eq(number));
    }
    if let Some(id) = &query.event_id {
        let same_id: Vec<i64> = events::table
            .filter(events::id.eq(event_id::stored(id)))
            .select(events::seq)
            .limit(MAX_SAME_ID)
            .load(conn)?;
        rows = rows.filter(deliveries::event_seq.eq_any(same_id));
        is_bounded = true;
    }
    if let Some(status) = query.status {
        rows = rows.filter(deliveries::status.eq(status.as_str()));
        if !is_bounded && let Some(few) = collected(conn, status, filter.endpoint)? {
            rows = rows.filter(sql::<Bool>(&few));
            is_bounded = true;
        }
    }
    if let Some(since) = query.since {
        rows = rows.filter(deliveries::created_at.ge(since.as_micros()));
    }
    if let Some(until) = query.until {
        rows = rows.filter(deliveries::created_at.lt(until.as_micros()));
    }
    if let Some(tenant) = filter.tenant {
        rows = rows.filter(events::tenant.between(tenant, tenant));
    }
    let may_reject = query.status.is_some()
        || query.since.is_some()
        || query.until.is_some()
        || (filter.tenant.is_some() && filter.endpoint.is_some());
    let mut end = None;
    if may_reject && !is_bounded {
        end = window_end(conn, &filter, page)?;
    }
    let found: Vec<JoinedDelivery> = if filter.events_of().is_some() && !is_bounded {
        let mut rows = in_range!(rows, events::seq, filter.range, &page.after);
        if let Some(ReadTo { after: last, .. }) = &end {
            rows = up_to!(rows, events::seq, last);
        }
        rows.order(newest_of_tenant()).load(conn)?
    } else {
        let mut rows = in_range!(rows, deliveries::event_seq, filter.range, &page.after);
        if let Some(ReadTo { after: last, .. }) = &end {
            rows = up_to!(rows, deliveries::event_seq, last);
        }
        rows.order((deliveries::event_seq.desc(), deliveries::endpoint.desc()))
            .load(conn)?
    };
    let found = found
        .into_iter()
        .map(|row| Ok((row.0.key.into(), codec::delivery(ids, row)?)));
    Ok((found.collect::<Result<_, StoreError>>()?, end))
}
