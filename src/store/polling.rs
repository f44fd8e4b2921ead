//! The poll: everything that a node must learn even if all hints are lost.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, Text};

use super::codec;
use super::connection::AnyConnection;
use super::counters::{ENDPOINTS, TOKENS};
use super::delivery_rows::shard_numbers;
use super::due_index::{DueIndex, is_sending, ranges_of, walk, with_known, with_next, without};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::{changed_after, endpoints_of};
use super::error::StoreError;
use super::health::health_of;
use super::store::Store;
use super::tokens::{TokenSnapshot, token_snapshot};
use crate::domain::breaker::StoredHealth;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::ClaimName;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::domain::lease::Lease;

/// Changes of endpoints in one read.
const CHANGES_AT_ONCE: i64 = 1000;

/// Endpoints in one read.
const ENDPOINTS_AT_ONCE: usize = 500;

/// Input of a poll.
#[derive(Debug, Clone)]
pub(crate) struct PollScan {
    pub(crate) held: Vec<Lease>,
    /// Endpoints with a supervisor, in the order of their numbers, each with the time in microseconds
    /// before which none of its deliveries is due.
    pub(crate) known: Vec<(i32, i64)>,
    /// Deliveries due before this time.
    pub(crate) horizon: Timestamp,
    /// Version of the known tokens.
    pub(crate) tokens: Option<i64>,
}

/// Result of a poll.
pub(crate) struct Poll {
    pub(crate) work: Vec<EndpointWork>,
    /// The endpoints' change counter.
    pub(crate) endpoints: i64,
    /// The transactions that write; `None` for a file.
    pub(crate) snapshot: Option<OpenWriters>,
    /// The tokens, if they have changed.
    pub(crate) tokens: Option<TokenSnapshot>,
}

/// Transactions that write, by their numbers, which are given in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenWriters {
    /// The first one that has not ended.
    pub(crate) first: i64,
    /// The number of the next one.
    pub(crate) last: i64,
}

/// An endpoint with due deliveries or claims.
#[derive(Debug, Clone)]
pub(crate) struct EndpointWork {
    pub(crate) endpoint_id: EndpointId,
    /// The time at which its next delivery is due, if one has a due time.
    pub(crate) next: Option<Timestamp>,
    /// Its claims.
    pub(crate) sending: Vec<ClaimName>,
}

impl Store {
    /// Reads everything that a node must learn even if all hints are lost.
    pub(crate) async fn poll(&self, scan: PollScan) -> Result<Poll, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let found = look_for_work(conn, &scan)?;
            let is_new = scan.tokens != Some(found.tokens);
            Ok(Poll {
                work: found.work,
                endpoints: found.endpoints,
                snapshot: found.snapshot,
                tokens: is_new.then(|| token_snapshot(conn)).transpose()?,
            })
        };
        self.read("poll", read).await
    }

    /// Reads those of the `live` endpoints that were changed after the counter had the value `after`
    /// (`None`: all), with their health.
    pub(crate) async fn changed_endpoints(
        &self,
        after: Option<i64>,
        live: BTreeSet<EndpointId>,
    ) -> Result<Vec<(Endpoint, StoredHealth)>, StoreError> {
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let changed = match after {
                None => live.into_iter().collect(),
                Some(after) => changed_of(conn, after, &live)?,
            };
            let mut found = Vec::with_capacity(changed.len());
            for part in changed.chunks(ENDPOINTS_AT_ONCE) {
                let endpoints = endpoints_of(conn, codec, part)?;
                let ids: Vec<&EndpointId> = endpoints.iter().map(|one| &one.id).collect();
                let mut health = health_of(conn, &ids)?;
                let with_health = |endpoint: Endpoint| {
                    let health = health.remove(&endpoint.id).unwrap_or_default();
                    (endpoint, health)
                };
                found.extend(endpoints.into_iter().map(with_health));
            }
            Ok(found)
        };
        self.read("changed endpoints", read).await
    }

    /// Reads the endpoints of held shards with pending deliveries.
    pub(crate) async fn pending_endpoints(
        &self,
        held: Vec<Lease>,
    ) -> Result<Vec<EndpointId>, StoreError> {
        let read =
            move |conn: &mut AnyConnection, _: &EndpointCodec| pending_endpoints(conn, &held);
        self.read("pending endpoints", read).await
    }
}

/// Returns those of the `live` endpoints that were changed after the counter had that value.
fn changed_of(
    conn: &mut AnyConnection,
    mut after: i64,
    live: &BTreeSet<EndpointId>,
) -> Result<Vec<EndpointId>, StoreError> {
    let mut found = Vec::new();
    loop {
        let page = changed_after(conn, after, CHANGES_AT_ONCE)?;
        let is_last = i64::try_from(page.len()).is_ok_and(|len| len < CHANGES_AT_ONCE);
        after = page.last().map_or(after, |last| last.change_no);
        let ids = page.into_iter().map(|one| one.id);
        found.extend(ids.filter(|id| live.contains(id)));
        if is_last {
            return Ok(found);
        }
    }
}

/// A claim of an endpoint, or its next delivery.
#[derive(QueryableByName)]
struct WorkRow {
    #[diesel(sql_type = Text)]
    endpoint_id: String,
    #[diesel(sql_type = Integer)]
    endpoint: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    next: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    event_seq: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    claim_no: Option<i64>,
}

/// The findings of a poll's only statement.
struct Findings {
    work: Vec<EndpointWork>,
    /// The change counters of endpoints and tokens.
    endpoints: i64,
    tokens: i64,
    snapshot: Option<OpenWriters>,
}

/// Number of no endpoint, in the rows of counters.
const COUNTER: i32 = -1;

/// Reads the endpoints of held shards that are active and have a delivery due before `horizon`, or
/// one that is `sending`; and the change counters.
///
/// A claim does not leave the index of what is due, and the earliest are claimed first: the
/// deliveries before an endpoint's first pending one are `sending`. One that is `sending` behind it
/// (a delivery became due at an earlier time since) is found once those before it have been sent.
fn look_for_work(conn: &mut AnyConnection, scan: &PollScan) -> Result<Findings, StoreError> {
    let horizon = scan.horizon;
    let numbers: Vec<i32> = scan.known.iter().map(|(number, _)| *number).collect();
    let sending = conn.dialect().join_each_delivery(
        "live",
        "found.event_seq, found.claim_no",
        &is_sending("found", "live", "endpoint", "live.since"),
    );
    let active = "pause_reason IS NULL AND deleted_at IS NULL";
    // The endpoint is read in subqueries: as a join it could become the outer loop, and the walk
    // would run once per endpoint.
    let sql = format!(
        "WITH RECURSIVE {walk}, {all}, {live}, work AS ( \
             SELECT live.endpoint, live.next, found.event_seq, found.claim_no FROM {sending} \
         ) SELECT (SELECT id FROM webhook_endpoints WHERE number = work.endpoint) AS endpoint_id, \
             endpoint, next, event_seq, claim_no FROM work \
         WHERE event_seq IS NOT NULL OR (next <= {horizon} \
             AND (SELECT {active} FROM webhook_endpoints WHERE number = work.endpoint)) \
         UNION ALL SELECT name, {COUNTER}, value, NULL, NULL FROM webhook_counters \
             WHERE name IN ('{ENDPOINTS}', '{TOKENS}'){snapshot}",
        walk = walk(
            "walk",
            DueIndex::Live,
            &without(ranges_of(&shard_numbers(&scan.held)), &numbers)
        ),
        all = with_known("known", "walk", &scan.known),
        live = with_next("live", "known", "since"),
        horizon = horizon.as_micros(),
        snapshot = conn
            .dialect()
            .snapshot()
            .map_or(String::new(), |columns| format!(
                " UNION ALL SELECT '', {COUNTER}, {columns}, NULL"
            )),
    );
    let rows: Vec<WorkRow> = diesel::sql_query(sql).load(conn)?;
    Ok(sorted(rows, horizon))
}

/// Sorts a poll's rows by what they are.
fn sorted(rows: Vec<WorkRow>, horizon: Timestamp) -> Findings {
    let mut found = BTreeMap::<i32, EndpointWork>::new();
    let (mut endpoints, mut tokens, mut snapshot) = (0, 0, None);
    for row in rows {
        if row.endpoint == COUNTER {
            let value = row.next.unwrap_or_default();
            match row.endpoint_id.as_str() {
                ENDPOINTS => endpoints = value,
                TOKENS => tokens = value,
                _ => snapshot = row.event_seq.map(|last| OpenWriters { first: value, last }),
            }
            continue;
        }
        let work = found.entry(row.endpoint).or_insert_with(|| EndpointWork {
            endpoint_id: EndpointId::from_text(row.endpoint_id),
            next: row.next.map(codec::time).filter(|next| *next <= horizon),
            sending: Vec::new(),
        });
        if let Some((event_seq, claim_no)) = row.event_seq.zip(row.claim_no) {
            let key = DeliveryKey {
                event_seq,
                endpoint: row.endpoint,
            };
            work.sending.push((key, claim_no));
        }
    }
    Findings {
        work: found.into_values().collect(),
        endpoints,
        tokens,
        snapshot,
    }
}

/// Reads the endpoints of held shards with pending deliveries, due at a time or held.
fn pending_endpoints(
    conn: &mut AnyConnection,
    held: &[Lease],
) -> Result<Vec<EndpointId>, StoreError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        id: String,
    }
    let shards = shard_numbers(held);
    let sql = format!(
        "WITH RECURSIVE {live}, {held} SELECT id FROM webhook_endpoints WHERE number IN ( \
             SELECT endpoint FROM live WHERE endpoint IS NOT NULL \
             UNION SELECT endpoint FROM held WHERE endpoint IS NOT NULL)",
        live = walk("live", DueIndex::Live, &ranges_of(&shards)),
        held = walk("held", DueIndex::Held, &ranges_of(&shards)),
    );
    let found: Vec<Found> = diesel::sql_query(sql).load(conn)?;
    Ok(found
        .into_iter()
        .map(|one| EndpointId::from_text(one.id))
        .collect())
}

/// An active endpoint, and the time at which its next delivery is due.
#[derive(QueryableByName)]
pub(super) struct DueEndpoint {
    #[diesel(sql_type = Text)]
    pub(super) endpoint_id: String,
    #[diesel(sql_type = BigInt)]
    pub(super) next: i64,
}

/// Reads the active endpoints with a delivery due before `horizon`.
pub(super) fn due_endpoints(
    conn: &mut AnyConnection,
    shards: &[i32],
    horizon: Timestamp,
) -> Result<Vec<DueEndpoint>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE {walk}, {live}, due AS MATERIALIZED ( \
             SELECT (SELECT id FROM webhook_endpoints WHERE number = live.endpoint \
                 AND pause_reason IS NULL AND deleted_at IS NULL) AS endpoint_id, next \
             FROM live WHERE next <= {horizon} \
         ) SELECT endpoint_id, next FROM due WHERE endpoint_id IS NOT NULL",
        walk = walk("walk", DueIndex::Live, &ranges_of(shards)),
        live = with_next("live", "walk", "0"),
        horizon = horizon.as_micros(),
    );
    Ok(diesel::sql_query(sql).load(conn)?)
}
