//! Reading ahead for supervisors: due deliveries, and the recent attempts that a rate limit counts.
//! On Postgres hundreds of endpoints cost as many statements as one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::claims::standing_claims;
use super::codec;
use super::connection::AnyConnection;
use super::dialect::{DueHead, LatestStarts};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoints_of;
use super::error::StoreError;
use super::health::health_of;
use super::numbers::{ids_of, numbers_of};
use super::rows::StartRow;
use super::store::Store;
use crate::domain::breaker::StoredHealth;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{ClaimName, Outcome, Queued, Seen};
use crate::domain::endpoint::Endpoint;
use crate::domain::handover::{OnWire, Tail};
use crate::domain::ids::{DeliveryKey, EndpointId, Tenant};
use crate::domain::rate_limit::{RateLimit, SlidingWindow};

/// Due deliveries to read.
#[derive(Debug, Clone)]
pub(crate) struct DueScan {
    pub(crate) endpoint_id: EndpointId,
    /// The endpoint's tenant, whose events they are.
    pub(crate) tenant: Tenant,
    /// Time by which they are due.
    pub(crate) now: Timestamp,
    /// Maximum number of deliveries, including those at hand.
    pub(crate) limit: usize,
    /// Only deliveries due from this time on: all earlier ones have left.
    pub(crate) from: Timestamp,
    /// Bytes of bodies after which reading stops.
    pub(crate) max_bytes: usize,
    /// Deliveries that count but are not read again.
    pub(crate) at_hand: HashSet<DeliveryKey>,
}

/// Everything that a supervisor starts with.
#[derive(Debug)]
pub(crate) struct LoadedEndpoint {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Its number in the database.
    pub(crate) number: i32,
    pub(crate) history: RateLimitHistory,
    pub(crate) due: DuePage,
    /// Attempts of the shard's former owner that have no outcome yet.
    pub(crate) tail: Vec<OnWire>,
}

impl LoadedEndpoint {
    /// Returns the claims of its tail.
    pub(crate) fn tail_claims(&self) -> BTreeSet<ClaimName> {
        self.tail.iter().map(OnWire::claim).collect()
    }
}

/// Due deliveries of an endpoint, oldest first.
#[derive(Debug, Default)]
pub(crate) struct DuePage {
    pub(crate) queued: Vec<Queued>,
    /// The time at which the next one after those is due; `None` if there is none.
    pub(crate) next: Option<Timestamp>,
}

/// The attempts that an endpoint's rate limit counts, on any node, and the endpoint's health.
#[derive(Debug)]
pub(crate) struct RateLimitHistory {
    /// The limit that `starts` were read for.
    limit: RateLimit,
    starts: Vec<Timestamp>,
    pub(crate) health: StoredHealth,
}

impl RateLimitHistory {
    /// The history of an endpoint without attempts.
    #[cfg(test)]
    pub(crate) fn empty(limit: RateLimit) -> Self {
        Self {
            limit,
            starts: Vec::new(),
            health: StoredHealth::default(),
        }
    }

    /// Returns a limiter that counts the logged starts and these, which are not yet in the log (on
    /// the monotonic clock).
    pub(crate) fn limiter(
        &self,
        now: Timestamp,
        monotonic: Duration,
        starts_in_flight: Vec<Duration>,
    ) -> SlidingWindow {
        // A start in the future, after a clock step, counts as now; one before this clock's origin
        // counts as the origin, which only makes waits longer.
        let age = |at: &Timestamp| monotonic.saturating_sub(now.since(*at));
        SlidingWindow::seeded(
            self.limit,
            self.starts.iter().map(age).chain(starts_in_flight),
        )
    }
}

/// Rows beyond the limit of starts: attempts end in another order than they start, and at most this
/// many are in flight.
const MAX_IN_FLIGHT: i64 = 1000;

/// Events read at once before their mean size is known, and afterwards.
const FIRST_EVENTS: usize = 16;
const MAX_EVENTS: usize = 512;

/// Bytes of bodies to read at once.
const BYTES_AT_ONCE: usize = 1024 * 1024;

impl Store {
    /// Reads due deliveries: one page for each scan.
    pub(crate) async fn due(&self, scans: Vec<DueScan>) -> Result<Vec<DuePage>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| due(conn, &scans);
        self.read("due deliveries", read).await
    }

    /// Reads the attempts that an endpoint's rate limit counts, and its health.
    pub(crate) async fn rate_limit_history(
        &self,
        id: &EndpointId,
        limit: RateLimit,
        clock: Arc<dyn Clock>,
    ) -> Result<RateLimitHistory, StoreError> {
        let id = id.clone();
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let mut found = rate_limit_histories(conn, &[(&id, limit)], &*clock)?;
            Ok(found.remove(0))
        };
        self.read("rate limit history", read).await
    }

    /// Reads what the supervisors of these endpoints start with. Endpoints that are paused or
    /// deleted are left out. `tails` are those of their shards; `scan` returns the due deliveries to
    /// read of an endpoint.
    pub(crate) async fn load(
        &self,
        ids: Vec<EndpointId>,
        tails: Vec<Arc<Tail>>,
        clock: Arc<dyn Clock>,
        scan: impl Fn(&Endpoint) -> DueScan + Send + 'static,
    ) -> Result<Vec<LoadedEndpoint>, StoreError> {
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let mut endpoints = endpoints_of(conn, codec, &ids)?;
            endpoints.retain(Endpoint::is_active);
            let limits: Vec<_> = endpoints
                .iter()
                .map(|endpoint| (&endpoint.id, endpoint.limits.rate_limit))
                .collect();
            // Before the log: an attempt that is recorded meanwhile is counted twice, not missed.
            let mut on_wire = on_wire(conn, &tails)?;
            let histories = rate_limit_histories(conn, &limits, &*clock)?;
            let scans: Vec<DueScan> = endpoints.iter().map(scan).collect();
            let pages = due(conn, &scans)?;
            let ids: Vec<&EndpointId> = endpoints.iter().map(|endpoint| &endpoint.id).collect();
            let numbers = numbers_of(conn, &ids)?;
            let loaded = |((endpoint, mut history), due): ((Endpoint, RateLimitHistory), _)| {
                let tail = on_wire.remove(&endpoint.id).unwrap_or_default();
                history.starts.extend(tail.iter().map(|one| one.started_at));
                LoadedEndpoint {
                    number: numbers.get(&endpoint.id).copied().unwrap_or_default(),
                    endpoint: Arc::new(endpoint),
                    history,
                    due,
                    tail,
                }
            };
            let all = endpoints.into_iter().zip(histories).zip(pages);
            Ok(all.map(loaded).collect())
        };
        self.read("endpoints to start", read).await
    }
}

/// Reads the attempts of tails that have no outcome yet, by endpoint.
fn on_wire(
    conn: &mut AnyConnection,
    tails: &[Arc<Tail>],
) -> Result<HashMap<EndpointId, Vec<OnWire>>, StoreError> {
    let attempts: Vec<OnWire> = tails
        .iter()
        .flat_map(|tail| tail.attempts.clone())
        .collect();
    let mut found: HashMap<EndpointId, Vec<OnWire>> = HashMap::new();
    if attempts.is_empty() {
        return Ok(found);
    }
    let names: Vec<ClaimName> = attempts.iter().map(OnWire::claim).collect();
    let standing = standing_claims(conn, &names)?;
    let standing: HashSet<ClaimName> = standing
        .iter()
        .map(|claimed| (claimed.key, claimed.claim_no))
        .collect();
    let numbers: Vec<i32> = standing.iter().map(|(key, _)| key.endpoint).collect();
    let ids = ids_of(conn, &numbers)?;
    for attempt in attempts {
        if standing.contains(&attempt.claim())
            && let Some(id) = ids.get(&attempt.key.endpoint)
        {
            found.entry(id.clone()).or_default().push(attempt);
        }
    }
    Ok(found)
}

/// Reads the history of each endpoint.
fn rate_limit_histories(
    conn: &mut AnyConnection,
    of: &[(&EndpointId, RateLimit)],
    clock: &dyn Clock,
) -> Result<Vec<RateLimitHistory>, StoreError> {
    let ids: Vec<&EndpointId> = of.iter().map(|(id, _)| *id).collect();
    let mut health = health_of(conn, &ids)?;
    let starts = recent_starts(conn, of, clock.now())?;
    let now = clock.schedule_now();
    let history = |((id, limit), starts): (&(&EndpointId, RateLimit), Vec<Timestamp>)| {
        let stored = health.remove(*id).unwrap_or_default();
        let within_reach = stored.health.within_reach(now);
        if within_reach != stored.health {
            tracing::warn!(endpoint = %id, "a rest or probe of {id} was stored for a time beyond reach: was the clock set back?");
        }
        RateLimitHistory {
            limit: *limit,
            starts,
            health: StoredHealth {
                health: within_reach,
                ..stored
            },
        }
    };
    Ok(of.iter().zip(starts).map(history).collect())
}

/// Reads the latest starts that each endpoint's rate limit counts. An interrupted attempt counts
/// from the time at which the interruption was found; its start is unknown.
fn recent_starts(
    conn: &mut AnyConnection,
    of: &[(&EndpointId, RateLimit)],
    now: Timestamp,
) -> Result<Vec<Vec<Timestamp>>, StoreError> {
    let mut limited = Vec::new();
    let mut asked = Vec::new();
    for (place, (endpoint, limit)) in of.iter().enumerate() {
        if let RateLimit::Sliding { starts, period } = limit {
            limited.push(place);
            asked.push(LatestStarts {
                endpoint,
                // Twice the period covers everything within the window's margin.
                since: (now - 2 * period.duration()).as_micros(),
                limit: i64::from(*starts) + MAX_IN_FLIGHT,
            });
        }
    }
    let mut found = vec![Vec::new(); of.len()];
    if asked.is_empty() {
        return Ok(found);
    }
    for (index, row) in conn.dialect().latest_starts(&asked)? {
        let StartRow {
            started_at,
            ended_at,
            outcome,
        } = row;
        let at = match outcome == Outcome::Interrupted.as_str() {
            true => ended_at,
            false => started_at,
        };
        if at > asked[index].since {
            found[limited[index]].push(codec::time(at));
        }
    }
    Ok(found)
}

/// A due delivery whose event is not read yet.
struct Wanted {
    /// Index of its page.
    page: usize,
    key: DeliveryKey,
    due: Timestamp,
    seen: Seen,
}

/// Reads due deliveries: one page for each scan.
fn due(conn: &mut AnyConnection, scans: &[DueScan]) -> Result<Vec<DuePage>, StoreError> {
    let mut pages: Vec<DuePage> = scans.iter().map(|_| DuePage::default()).collect();
    if scans.is_empty() {
        return Ok(pages);
    }
    let wanted = due_heads(conn, scans, &mut pages)?;
    let mut bytes = vec![0; scans.len()];
    let mut events_at_once = FIRST_EVENTS;
    let mut rest = wanted.into_iter().peekable();
    while rest.peek().is_some() {
        let mut part = Vec::new();
        while part.len() < events_at_once
            && let Some(one) = rest.next()
        {
            if bytes[one.page] < scans[one.page].max_bytes {
                part.push(one);
            } else {
                // The page is full: its next delivery is the first one that does not fit.
                let next = pages[one.page].next.get_or_insert(one.due);
                *next = one.due.min(*next);
            }
        }
        let read = read_events(conn, part, scans, &mut pages, &mut bytes)?;
        events_at_once = (BYTES_AT_ONCE / read.max(1)).clamp(FIRST_EVENTS, MAX_EVENTS);
    }
    Ok(pages)
}

/// Reads the first due deliveries of each scan, without their events, and notes in its page what is
/// due after them.
fn due_heads(
    conn: &mut AnyConnection,
    scans: &[DueScan],
    pages: &mut [DuePage],
) -> Result<Vec<Wanted>, StoreError> {
    let mut heads = Vec::with_capacity(scans.len());
    for scan in scans {
        heads.push(DueHead {
            endpoint: &scan.endpoint_id,
            from: scan.from.as_micros(),
            limit: i64::try_from(scan.limit).map_or(i64::MAX, |limit| limit.saturating_add(1)),
        });
    }
    let mut wanted = Vec::new();
    let mut read = vec![0; scans.len()];
    for (page, row) in conn.dialect().due_heads(&heads)? {
        let scan = &scans[page];
        let due = codec::time(row.life.due_at.unwrap_or_default());
        if pages[page].next.is_some() {
            continue;
        }
        if due > scan.now || read[page] >= scan.limit {
            pages[page].next = Some(due);
            continue;
        }
        read[page] += 1;
        let key = DeliveryKey::from(row.key);
        if !scan.at_hand.contains(&key) {
            let seen = Seen {
                claim_no: row.claim_no,
                life: codec::life(&row.life)?,
            };
            wanted.push(Wanted {
                page,
                key,
                due,
                seen,
            });
        }
    }
    Ok(wanted)
}

/// Reads the events of deliveries, and adds these to their pages. Returns the mean size of a body.
fn read_events(
    conn: &mut AnyConnection,
    part: Vec<Wanted>,
    scans: &[DueScan],
    pages: &mut [DuePage],
    bytes: &mut [usize],
) -> Result<usize, StoreError> {
    let mut seqs: Vec<i64> = part.iter().map(|one| one.key.event_seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    let mut total = 0;
    let mut rows = HashMap::new();
    for row in conn.dialect().events(&seqs)? {
        total += row.body.len();
        rows.insert(row.seq, row);
    }
    let mean = total / rows.len().max(1);
    let mut events = HashMap::new();
    for Wanted {
        page,
        key,
        due,
        seen,
    } in part
    {
        let seq = key.event_seq;
        if let Some(row) = rows.remove(&seq) {
            events.insert(seq, codec::event(row, &scans[page].tenant)?);
        }
        if let Some(event) = events.get(&seq) {
            bytes[page] += event.body.len();
            pages[page].queued.push(Queued {
                key,
                due,
                event: Arc::clone(event),
                seen,
            });
        }
    }
    Ok(mean)
}
