//! What there is to do: what is due, what is claimed, what is overdue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::deliveries::of_endpoint;
use super::{Conn, endpoint};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Outcome, Queued, Seen};
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::Status;
use crate::store::rows::{DeliveryRow, DueRow};
use crate::store::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
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

/// How many events are read before it is looked how large they were.
const EVENTS_AT_ONCE: usize = 16;

/// At most `limit` due deliveries, and at most about `max_bytes` of bodies. Those in `at_hand`
/// count, and are not read once more.
pub(crate) fn due(
    conn: &mut Conn,
    id: &EndpointId,
    now: Timestamp,
    limit: i64,
    max_bytes: usize,
    at_hand: &HashSet<DeliveryId>,
) -> Result<Due, StoreError> {
    let rows: Vec<DueRow> = deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::next_attempt_at.is_not_null())
        .order((
            deliveries::next_attempt_at,
            deliveries::created_at,
            deliveries::id,
        ))
        .limit(limit + 1)
        .select(DueRow::as_select())
        .load(conn)?;
    let mut due = Due::default();
    let mut wanted = Vec::new();
    for (read, row) in (0..).zip(rows) {
        let at = codec::time(row.life.next_attempt_at.unwrap_or_default());
        if at > now || read >= limit {
            due.next = Some(at);
            break;
        }
        let id = DeliveryId::from_text(row.id);
        if !at_hand.contains(&id) {
            let seen = Seen {
                claim_no: row.claim_no,
                life: codec::life(&row.life)?,
            };
            wanted.push((id, at, row.event_seq, seen));
        }
    }
    let mut bytes = 0;
    let mut events = HashMap::new();
    for part in wanted.chunks(EVENTS_AT_ONCE) {
        if bytes >= max_bytes {
            due.next = part.first().map(|(_, at, ..)| *at);
            break;
        }
        let seqs: Vec<i64> = part.iter().map(|(_, _, seq, _)| *seq).collect();
        for row in conn.own().events(&seqs)? {
            bytes += row.body.len();
            events.insert(row.seq, codec::shared_event(row)?);
        }
        let queued = part.iter().filter_map(|(id, at, seq, seen)| {
            let event = Arc::clone(events.get(seq)?);
            Some(Queued {
                id: id.clone(),
                due: *at,
                event,
                seen: *seen,
            })
        });
        due.queued.extend(queued);
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
        codec::time(if outcome == Outcome::Interrupted.as_str() {
            ended_at
        } else {
            started_at
        })
    };
    Ok(rows
        .into_iter()
        .map(start)
        .filter(|at| *at > since)
        .collect())
}

/// What is `sending`, and to which endpoint.
pub(crate) fn sending(
    conn: &mut Conn,
    scope: &Scope,
) -> Result<Vec<(EndpointId, Claimed)>, StoreError> {
    let all = deliveries::table
        .filter(StatusIsSending)
        .select(DeliveryRow::as_select());
    let (rows, leases): (Vec<DeliveryRow>, &[Lease]) = match scope {
        Scope::Shards(leases) => (
            all.filter(deliveries::shard.eq_any(numbers(leases)))
                .load(conn)?,
            leases,
        ),
        Scope::Endpoint(id, lease) => (
            all.filter(of_endpoint(id)).load(conn)?,
            std::slice::from_ref(lease),
        ),
    };
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let (endpoint, claimed) = (
            EndpointId::from_text(row.endpoint_id.as_str()),
            codec::claimed(row)?,
        );
        let shard = Shard::of(&endpoint);
        if leases
            .iter()
            .any(|lease| lease.shard == shard && claimed.epoch <= lease.epoch)
        {
            found.push((endpoint, claimed));
        }
    }
    Ok(found)
}

fn numbers(leases: &[Lease]) -> Vec<i32> {
    leases.iter().map(|lease| lease.shard.number()).collect()
}

/// Those of these claims that still stand.
pub(crate) fn standing_claims(
    conn: &mut Conn,
    names: &[ClaimName],
) -> Result<Vec<Claimed>, StoreError> {
    let ids: Vec<&str> = names.iter().map(|(id, _)| id.as_str()).collect();
    let rows: Vec<DeliveryRow> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::id.eq_any(ids))
        .select(DeliveryRow::as_select())
        .load(conn)?;
    let claims = rows
        .iter()
        .map(codec::claimed)
        .collect::<Result<Vec<_>, _>>()?;
    let named = |claim: &Claimed| {
        names
            .iter()
            .any(|(id, claim_no)| *id == claim.id && *claim_no == claim.claim_no)
    };
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

/// Endpoints of held shards that may be sent to and have something due before `horizon`, or
/// something `sending`.
pub(crate) fn stirring(
    conn: &mut Conn,
    held: &[Lease],
    horizon: Timestamp,
) -> Result<Vec<Stirring>, StoreError> {
    let mut found = BTreeMap::<String, Stirring>::new();
    let entry = |endpoint: &String| Stirring {
        endpoint_id: EndpointId::from_text(endpoint.as_str()),
        next: None,
        sending: Vec::new(),
    };
    let rows: Vec<(String, String, i64)> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::shard.eq_any(numbers(held)))
        .select((
            deliveries::endpoint_id,
            deliveries::id,
            deliveries::claim_no,
        ))
        .load(conn)?;
    for (endpoint, delivery, claim_no) in rows {
        let fresh = entry(&endpoint);
        found
            .entry(endpoint)
            .or_insert(fresh)
            .sending
            .push((DeliveryId::from_text(delivery), claim_no));
    }
    for Waiting {
        endpoint_id: endpoint,
        next,
    } in waiting(conn, held, Some(horizon))?
    {
        let fresh = entry(&endpoint);
        found.entry(endpoint).or_insert(fresh).next = next.map(codec::time);
    }
    Ok(found.into_values().collect())
}

/// An endpoint at which something is pending.
#[derive(QueryableByName)]
pub(super) struct Waiting {
    #[diesel(sql_type = Text)]
    pub(super) endpoint_id: String,
    /// When the next of it is due, unless all of it is held.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(super) next: Option<i64>,
}

/// The endpoints of held shards at which something is pending; with `horizon` only those that may
/// be sent to, and where it is due by then.
///
/// One statement that steps from endpoint to endpoint through the index, so that a long backlog
/// costs no more than a short one. On Postgres pairs are compared and ordered by, because no other
/// index could serve that: it would take the one by endpoint for a `min`, and read every delivery
/// that there ever was. SQLite finds a pair by its first half alone, and would read a whole shard
/// at each step. An endpoint is looked up for each row: as a join it could be the outer one, by all
/// of which the walk is gone through.
pub(super) fn waiting(
    conn: &mut Conn,
    held: &[Lease],
    horizon: Option<Timestamp>,
) -> Result<Vec<Waiting>, StoreError> {
    let walk = walk(conn, &numbers(held));
    let mut sql = format!(
        "WITH RECURSIVE {walk}, waiting AS MATERIALIZED ( \
             SELECT endpoint_id, (SELECT min(next_attempt_at) {pending} AND d.shard = walk.shard \
                 AND d.endpoint_id = walk.endpoint_id) AS next \
             FROM walk WHERE endpoint_id IS NOT NULL \
         ) SELECT endpoint_id, next FROM waiting",
        pending = pending(),
    );
    if let Some(horizon) = horizon {
        sql.push_str(&format!(
            " WHERE next <= {} AND (SELECT pause_reason IS NULL AND deleted_at IS NULL \
             FROM webhook_endpoints WHERE webhook_endpoints.id = waiting.endpoint_id)",
            horizon.as_micros()
        ));
    }
    Ok(diesel::sql_query(sql).load(conn)?)
}

/// The start of what reads pending rows.
fn pending() -> String {
    format!(
        "FROM webhook_deliveries AS d WHERE d.status = '{}'",
        Status::Pending
    )
}

/// The part of a recursive statement that steps from endpoint to endpoint at which something is
/// pending; it ends each shard with one that is none.
pub(super) fn walk(conn: &mut Conn, shards: &[i32]) -> String {
    // Numbers, so that nothing needs to be quoted.
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    let pending = pending();
    let pairs_seek = conn.own().pairs_seek();
    let first_after = |shard: &str, endpoint: &str| {
        let within = match pairs_seek {
            true => format!(
                "(d.shard, d.endpoint_id) > ({shard}, {endpoint}) AND (d.shard, d.endpoint_id) < ({shard} + 1, '')"
            ),
            false => format!("d.shard = {shard} AND d.endpoint_id > {endpoint}"),
        };
        format!(
            "(SELECT endpoint_id {pending} AND {within} ORDER BY d.shard, d.endpoint_id LIMIT 1)"
        )
    };
    format!(
        "walk (shard, endpoint_id) AS ( \
             SELECT shard, {first} FROM webhook_shards WHERE shard IN ({shards}) \
             UNION ALL \
             SELECT shard, {next} FROM walk WHERE endpoint_id IS NOT NULL \
         )",
        first = first_after("webhook_shards.shard", "''"),
        next = first_after("walk.shard", "walk.endpoint_id"),
        shards = if shards.is_empty() {
            "NULL".to_owned()
        } else {
            shards.join(", ")
        },
    )
}

/// All that has not ended, in one look.
#[cfg(feature = "testing")]
pub(crate) fn live(conn: &mut Conn) -> Result<Vec<DeliveryId>, StoreError> {
    let live = deliveries::table
        .filter(StatusIsPending.or(StatusIsSending))
        .select(deliveries::id);
    let ids: Vec<String> = live.load(conn)?;
    Ok(ids.into_iter().map(DeliveryId::from_text).collect())
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
    /// Events to look at.
    pub(crate) limit: i64,
    /// Deliveries to remove.
    pub(crate) max_deliveries: i64,
}

/// What one batch of retention came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) events: usize,
    pub(crate) last_seq: i64,
    /// Whether another batch may find more.
    pub(crate) more: bool,
}

/// The next events that retention looks at.
pub(crate) struct Aged {
    /// Those that are outdated, in the order of publishing.
    pub(crate) outdated: Vec<i64>,
    /// The last one that was looked at; `None`: there is none.
    pub(crate) last_seq: Option<i64>,
    /// Whether there may be outdated ones after it.
    pub(crate) more: bool,
}

/// Looks at the next events. An event that was stamped in the future, or many of them, may stand
/// before outdated ones: clocks are set.
pub(crate) fn aged(conn: &mut Conn, batch: &Retire) -> Result<Aged, StoreError> {
    let rows: Vec<(i64, i64)> = events::table
        .filter(events::seq.gt(batch.after_seq))
        .order(events::seq)
        .limit(batch.limit)
        .select((events::seq, events::created_at))
        .load(conn)?;
    let is_outdated = |(_, created_at): &&(i64, i64)| *created_at < batch.cutoff.as_micros();
    let outdated: Vec<i64> = rows
        .iter()
        .filter(is_outdated)
        .map(|(seq, _)| *seq)
        .collect();
    // Events that are not outdated yet are looked at again soon; unless outdated ones come after
    // them.
    let last_seq = outdated
        .last()
        .copied()
        .or_else(|| rows.last().map(|(seq, _)| *seq));
    let is_full = i64::try_from(rows.len()).is_ok_and(|read| read == batch.limit);
    let more = match last_seq {
        Some(last) if is_full && outdated.is_empty() => {
            event_before(conn, last, batch.cutoff)?.is_some()
        }
        _ => is_full,
    };
    Ok(Aged {
        outdated,
        last_seq,
        more,
    })
}

/// An event after `after` in the order of publishing that was published before `cutoff`, looked for
/// by steps that double. `None`: none is likely.
pub(crate) fn event_before(
    conn: &mut Conn,
    after: i64,
    cutoff: Timestamp,
) -> Result<Option<i64>, StoreError> {
    let mut step: i64 = 0;
    loop {
        let next: Option<(i64, i64)> = events::table
            .filter(events::seq.gt(after.saturating_add(step)))
            .order(events::seq)
            .select((events::seq, events::created_at))
            .first(conn)
            .optional()?;
        match next {
            None => return Ok(None),
            Some((seq, created_at)) if created_at < cutoff.as_micros() => return Ok(Some(seq)),
            Some(_) => step = step.saturating_mul(2).max(1),
        }
    }
}

/// Why a pending delivery is to be failed without having been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    Expired {
        /// Whether what comes after it in its ordering key is to wait for it all the same.
        blocks: bool,
    },
    EndpointDeleted,
}

/// Endpoints of held shards at which something is pending.
pub(crate) fn waiting_endpoints(
    conn: &mut Conn,
    held: &[Lease],
) -> Result<Vec<EndpointId>, StoreError> {
    let found = waiting(conn, held, None)?;
    Ok(found
        .into_iter()
        .map(|waiting| EndpointId::from_text(waiting.endpoint_id))
        .collect())
}

/// Pending deliveries that have outlived an endpoint or its `max_age`, at most `limit`. `cutoff`
/// tells what is older than an age.
pub(crate) fn overdue(
    conn: &mut Conn,
    codec: &EndpointCodec,
    id: &EndpointId,
    cutoff: impl Fn(Duration) -> Timestamp,
    limit: i64,
) -> Result<Vec<(DeliveryId, Overdue)>, StoreError> {
    let (cutoff, why) = match endpoint(conn, codec, id)? {
        Some(endpoint) => (
            cutoff(endpoint.max_age),
            Overdue::Expired {
                blocks: endpoint.keeps_waiting(),
            },
        ),
        None => (Timestamp::from_micros(i64::MAX), Overdue::EndpointDeleted),
    };
    let ids: Vec<String> = deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::created_at.lt(cutoff.as_micros()))
        .filter(
            deliveries::retried_at
                .is_null()
                .or(deliveries::retried_at.lt(cutoff.as_micros())),
        )
        .limit(limit)
        .select(deliveries::id)
        .load(conn)?;
    Ok(ids
        .into_iter()
        .map(|id| (DeliveryId::from_text(id), why))
        .collect())
}

/// The latest time that a pending delivery of an endpoint is due at, if one waits for a time.
pub(crate) fn latest_due(
    conn: &mut Conn,
    id: &EndpointId,
) -> Result<Option<Timestamp>, StoreError> {
    let latest: Option<Option<i64>> = deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::next_attempt_at.is_not_null())
        .order(deliveries::next_attempt_at.desc())
        .select(deliveries::next_attempt_at)
        .first(conn)
        .optional()?;
    Ok(latest.flatten().map(codec::time))
}

/// Brings what is due after `latest` forward to it. Returns how many deliveries there were.
pub(crate) fn bring_forward(
    conn: &mut Conn,
    id: &EndpointId,
    latest: Timestamp,
) -> Result<usize, StoreError> {
    let far = deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::next_attempt_at.gt(latest.as_micros()));
    Ok(diesel::update(far)
        .set(deliveries::next_attempt_at.eq(Some(latest.as_micros())))
        .execute(conn)?)
}
