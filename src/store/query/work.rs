//! What there is to do: what is due, what is claimed, what is overdue.

use diesel::dsl::min;
use diesel::prelude::*;

use super::Conn;
use super::endpoint;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Outcome, Queued};
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::store::rows::{DeliveryRow, EventRow};
use crate::store::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    webhook_events as events,
};
use crate::store::status_is::{StatusIsPending, StatusIsSending};
use crate::store::{EndpointCodec, Scope, StoreError, codec};

/// Due deliveries of an endpoint, oldest first, and when the next one is due after those.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) queued: Vec<Queued>,
    /// `None`: nothing waits beyond `queued`.
    pub(crate) next: Option<Timestamp>,
}

/// At most `limit` due deliveries, and at most about `max_bytes` of bodies.
pub(crate) fn due(
    conn: &mut Conn,
    id: &EndpointId,
    now: Timestamp,
    limit: i64,
    max_bytes: usize,
) -> Result<Due, StoreError> {
    let keys: Vec<(String, Option<i64>, i64)> = deliveries::table
        .filter(StatusIsPending)
        .filter(deliveries::endpoint_id.eq(id.as_str()))
        .filter(deliveries::next_attempt_at.is_not_null())
        .order((deliveries::next_attempt_at, deliveries::created_at, deliveries::id))
        .limit(limit + 1)
        .select((deliveries::id, deliveries::next_attempt_at, deliveries::event_seq))
        .load(conn)?;
    let mut due = Due::default();
    let mut bytes = 0;
    for (delivery, at, seq) in keys {
        let at = codec::time(at.unwrap_or_default());
        let full = i64::try_from(due.queued.len()).is_ok_and(|read| read >= limit) || bytes >= max_bytes;
        if at > now || full {
            due.next = Some(at);
            break;
        }
        let row = events::table.find(seq).select(EventRow::as_select()).first(conn)?;
        bytes += row.body.len();
        let event = codec::shared_event(row)?;
        due.queued.push(Queued { id: DeliveryId::from_text(delivery), due: at, event });
    }
    Ok(due)
}

/// When the attempts of an endpoint that a rate limit still remembers started, at most `limit` of
/// the latest. An interrupted one counts as started when its interruption was found: nobody knows
/// better.
pub(crate) fn recent_starts(
    conn: &mut Conn,
    id: &EndpointId,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Timestamp>, StoreError> {
    let rows: Vec<(i64, i64, String)> = attempts::table
        .filter(attempts::endpoint_id.eq(id.as_str()))
        .filter(attempts::ended_at.gt(since.as_micros()))
        .order(attempts::ended_at.desc())
        .limit(limit)
        .select((attempts::started_at, attempts::ended_at, attempts::outcome))
        .load(conn)?;
    let start = |(started_at, ended_at, outcome): (i64, i64, String)| {
        codec::time(if outcome == Outcome::Interrupted.as_str() { ended_at } else { started_at })
    };
    Ok(rows.into_iter().map(start).filter(|at| *at > since).collect())
}

/// What is `sending`, and to which endpoint.
pub(crate) fn sending(conn: &mut Conn, scope: &Scope) -> Result<Vec<(EndpointId, Claimed)>, StoreError> {
    let mut query = deliveries::table.filter(StatusIsSending).select(DeliveryRow::as_select()).into_boxed();
    if let Scope::Endpoint(id) = scope {
        query = query.filter(deliveries::endpoint_id.eq(id.to_string()));
    }
    let rows: Vec<DeliveryRow> = query.load(conn)?;
    rows.iter()
        .map(|row| Ok((EndpointId::from_text(row.endpoint_id.as_str()), codec::claimed(row)?)))
        .collect()
}

/// Those of these claims that still stand.
pub(crate) fn standing_claims(conn: &mut Conn, names: &[ClaimName]) -> Result<Vec<Claimed>, StoreError> {
    let ids: Vec<&str> = names.iter().map(|(id, _)| id.as_str()).collect();
    let rows: Vec<DeliveryRow> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::id.eq_any(ids))
        .select(DeliveryRow::as_select())
        .load(conn)?;
    let claims = rows.iter().map(codec::claimed).collect::<Result<Vec<_>, _>>()?;
    let named =
        |claim: &Claimed| names.iter().any(|(id, claim_no)| *id == claim.id && *claim_no == claim.claim_no);
    Ok(claims.into_iter().filter(named).collect())
}

/// A delivery and the number of its claim: one life of being `sending`.
pub(crate) type ClaimName = (DeliveryId, i64);

/// An endpoint that has due work or claims, whatever hints were lost.
#[derive(Debug, Clone)]
pub(crate) struct Stirring {
    pub(crate) endpoint_id: EndpointId,
    /// When its next delivery is due, if one waits for a time.
    pub(crate) next: Option<Timestamp>,
    /// What it is `sending`.
    pub(crate) sending: Vec<ClaimName>,
}

/// Endpoints that may be sent to and have something due before `horizon`, or something `sending`.
///
/// Steps from endpoint to endpoint through the index, so that a long backlog costs no more than a
/// short one.
pub(crate) fn stirring(conn: &mut Conn, epoch: i64, horizon: Timestamp) -> Result<Vec<Stirring>, StoreError> {
    let mut found = std::collections::BTreeMap::<String, Stirring>::new();
    let rows: Vec<(String, String, i64)> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::owner_epoch.eq(epoch))
        .select((deliveries::endpoint_id, deliveries::id, deliveries::claim_no))
        .load(conn)?;
    for (endpoint, delivery, claim_no) in rows {
        let id = EndpointId::from_text(endpoint.as_str());
        let entry = found.entry(endpoint).or_insert_with(|| Stirring {
            endpoint_id: id,
            next: None,
            sending: Vec::new(),
        });
        entry.sending.push((DeliveryId::from_text(delivery), claim_no));
    }
    let mut last = String::new();
    while let Some(endpoint) = next_waiting_endpoint(conn, &last)? {
        let next: Option<i64> = deliveries::table
            .filter(StatusIsPending)
            .filter(deliveries::endpoint_id.eq(&endpoint))
            .select(min(deliveries::next_attempt_at))
            .first(conn)?;
        if let Some(next) = next.map(codec::time).filter(|next| *next <= horizon)
            && is_active(conn, &endpoint)?
        {
            let id = EndpointId::from_text(endpoint.as_str());
            found
                .entry(endpoint.clone())
                .or_insert_with(|| Stirring { endpoint_id: id, next: None, sending: Vec::new() })
                .next = Some(next);
        }
        last = endpoint;
    }
    Ok(found.into_values().collect())
}

/// The first endpoint after `last` at which something is pending.
fn next_waiting_endpoint(conn: &mut Conn, last: &str) -> Result<Option<String>, StoreError> {
    Ok(deliveries::table
        .filter(StatusIsPending)
        .filter(deliveries::endpoint_id.gt(last))
        .select(min(deliveries::endpoint_id))
        .first(conn)?)
}

fn is_active(conn: &mut Conn, id: &str) -> Result<bool, StoreError> {
    let found: i64 = endpoints::table
        .filter(endpoints::id.eq(id))
        .filter(endpoints::pause_reason.is_null())
        .filter(endpoints::deleted_at.is_null())
        .count()
        .get_result(conn)?;
    Ok(found > 0)
}

/// One batch of retention.
#[derive(Debug, Clone)]
pub(crate) struct Retire {
    /// Events published before this are outdated.
    pub(crate) cutoff: Timestamp,
    /// Deliveries that changed after this stay: a rate limit may still remember their attempts.
    pub(crate) quiet_since: Timestamp,
    /// Where the batch before left off.
    pub(crate) after_seq: i64,
    pub(crate) limit: i64,
}

/// What one batch of retention came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) events: usize,
    pub(crate) last_seq: i64,
    /// Whether another batch may find more.
    pub(crate) more: bool,
}

/// Why a pending delivery is to be failed without having been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    Expired,
    EndpointDeleted,
}

/// Pending deliveries that have outlived their endpoint or its `max_age`, at most `limit` of each.
pub(crate) fn overdue(
    conn: &mut Conn,
    codec: &EndpointCodec,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<(DeliveryId, Overdue)>, StoreError> {
    let mut found = Vec::new();
    let mut last = String::new();
    while let Some(id) = next_waiting_endpoint(conn, &last)? {
        let endpoint = endpoint(conn, codec, &EndpointId::from_text(id.as_str()))?;
        let (cutoff, why) = match endpoint {
            Some(endpoint) => (now - endpoint.max_age, Overdue::Expired),
            None => (Timestamp::from_micros(i64::MAX), Overdue::EndpointDeleted),
        };
        let ids: Vec<String> = deliveries::table
            .filter(StatusIsPending)
            .filter(deliveries::endpoint_id.eq(&id))
            .filter(deliveries::created_at.lt(cutoff.as_micros()))
            .filter(deliveries::retried_at.is_null().or(deliveries::retried_at.lt(cutoff.as_micros())))
            .limit(limit)
            .select(deliveries::id)
            .load(conn)?;
        found.extend(ids.into_iter().map(|id| (DeliveryId::from_text(id), why)));
        last = id;
    }
    Ok(found)
}
