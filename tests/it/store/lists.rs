//! Lists of a long history: each page reads a bounded number of rows, and all pages together return
//! every entry once.

use std::collections::BTreeSet;

use postrider::config::DatabaseUrl;
use postrider::domain::clock::Timestamp;
use postrider::domain::event::{Content, EventType, NewEvent};
use postrider::domain::ids::{EndpointId, EventId, Tenant};
use postrider::domain::lifecycle::Status;
use postrider::domain::query::{DeliveryQuery, EventQuery, Page};
use postrider::testing::{ScriptedReceivers, TestBed, endpoint_change, on_virtual_time};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::support::database as look;
use crate::support::engine::{Database, START, TestEngine, local_config};
use crate::support::postgres::Cluster;

/// Maximum number of rows that a page reads.
const MAX_ROWS: u64 = 20_000;

/// Time between two events of the history.
const STEP_MICROS: i64 = 1_000_000;

/// A history of `rows` events, each with a delivery, published once a second. Every 1,000th delivery
/// has failed, the 100 newest are paused, and two events in the whole history are rare: in their
/// type, or their tenant.
struct History {
    rows: i64,
    usual: EndpointId,
    rare: EndpointId,
}

impl History {
    async fn write(bed: &TestBed, rows: i64) -> Self {
        let postrider = bed.postrider();
        let mut endpoints = Vec::new();
        for tenant in ["usual", "rare"] {
            let tenant = Tenant::parse(tenant).unwrap();
            let change = endpoint_change(r#"{"url":"http://127.0.0.1/"}"#).unwrap();
            let created = postrider
                .create_endpoint(tenant.clone(), change, None)
                .await;
            let id = created.unwrap().endpoint.id.clone();
            postrider.pause_endpoint(&id).await.unwrap();
            let data = Content::Data(RawValue::from_string("1".into()).unwrap());
            let event = NewEvent {
                tenant,
                ..NewEvent::new(EventType::parse("first").unwrap(), data)
            };
            postrider.publish(event).await.unwrap();
            endpoints.push(id);
        }
        let rare = endpoints.pop().unwrap();
        let usual = endpoints.pop().unwrap();
        Self::insert(&bed.database().clone(), rows);
        Self { rows, usual, rare }
    }

    fn insert(database: &DatabaseUrl, rows: i64) {
        let start = START.as_micros();
        // No two events are compared here.
        let zeros = "00".repeat(32);
        let hash = match database {
            DatabaseUrl::Postgres(_) => format!("decode('{zeros}', 'hex')"),
            _ => format!("x'{zeros}'"),
        };
        let (numbers, id) = match database {
            DatabaseUrl::Postgres(_) => (
                format!("(SELECT generate_series(1, {rows}::bigint) AS n) AS numbers"),
                "convert_to('e-' || n, 'UTF8')",
            ),
            _ => (
                format!(
                    "(WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers \
                     WHERE n < {rows}) SELECT n FROM numbers) AS numbers"
                ),
                "CAST('e-' || n AS BLOB)",
            ),
        };
        let number = |tenant: &str, table: &str, column: &str| {
            format!(
                "(SELECT max({table}.{column}) FROM {table} JOIN webhook_tenants AS t \
                 ON t.number = {table}.{owner} WHERE t.tenant = '{tenant}')",
                owner = if table == "webhook_tenants" {
                    "number"
                } else {
                    "tenant"
                },
            )
        };
        let by_rarity = |table: &str, column: &str| {
            format!(
                "CASE WHEN n IN (7, {rows} / 2) THEN {} ELSE {} END",
                number("rare", table, column),
                number("usual", table, column),
            )
        };
        look::execute(
            database,
            &format!(
                "INSERT INTO webhook_events (seq, tenant, id, event_type, content_type, content_hash, created_at, body) \
                 SELECT 256000 + n * 256, {tenant}, {id}, \
                     CASE WHEN n IN (9, {rows} / 3) THEN 'rare' ELSE 'usual' END, 'application/json', {hash}, \
                     {start} + n * {STEP_MICROS}, {id} FROM {numbers}",
                tenant = by_rarity("webhook_tenants", "number"),
            ),
        );
        let failed = "n % 1000 = 0";
        let waits = format!("n > {rows} - 100");
        let state = |failed_as: &str, pending_as: &str, else_as: &str| {
            format!(
                "CASE WHEN {waits} THEN {pending_as} WHEN {failed} THEN {failed_as} ELSE {else_as} END"
            )
        };
        let at = format!("{start} + n * {STEP_MICROS}");
        look::execute(
            database,
            &format!(
                "INSERT INTO webhook_deliveries (event_seq, endpoint, status, due_at, failed_at, failure_reason, \
                     retries_used, attempt_count, interruptions, owner_epoch, claim_no, delivered_at, created_at, \
                     updated_at, in_order) \
                 SELECT 256000 + n * 256, {endpoint}, {status}, {due_at}, {failed_at}, {reason}, 0, 1, 0, 1, 1, \
                     {delivered_at}, {at}, {at}, {no} FROM {numbers}",
                endpoint = by_rarity("webhook_endpoints", "number"),
                status = state("'failed'", "'pending'", "'delivered'"),
                due_at = state("NULL", &at, "NULL"),
                failed_at = state(&at, "NULL", "NULL"),
                reason = state("'retries_exhausted'", "NULL", "NULL"),
                delivered_at = state("NULL", "NULL", &at),
                no = match database {
                    DatabaseUrl::Postgres(_) => "FALSE",
                    _ => "0",
                },
            ),
        );
        look::execute(database, "ANALYZE");
    }

    /// The time of the event that was published before `share` of the others.
    fn at(&self, share: f64) -> Timestamp {
        let place = (self.rows as f64 * share) as i64;
        Timestamp::from_micros(START.as_micros() + place * STEP_MICROS)
    }

    fn deliveries(&self) -> Vec<(&'static str, DeliveryQuery)> {
        let tenant = |name| Tenant::parse(name).ok();
        let all = DeliveryQuery::default;
        let (usual, rare) = (Some(self.usual.clone()), Some(self.rare.clone()));
        let event_id = EventId::parse(&format!("e-{}", self.rows / 5)).ok();
        vec![
            ("deliveries", all()),
            (
                "deliveries?endpoint_id=",
                DeliveryQuery {
                    endpoint_id: usual.clone(),
                    ..all()
                },
            ),
            (
                "deliveries?endpoint_id= of few",
                DeliveryQuery {
                    endpoint_id: rare.clone(),
                    ..all()
                },
            ),
            (
                "deliveries?event_id=",
                DeliveryQuery {
                    event_id: event_id.clone(),
                    ..all()
                },
            ),
            (
                "deliveries?event_id=&tenant=",
                DeliveryQuery {
                    event_id,
                    tenant: tenant("usual"),
                    ..all()
                },
            ),
            (
                "deliveries?tenant=",
                DeliveryQuery {
                    tenant: tenant("usual"),
                    ..all()
                },
            ),
            (
                "deliveries?tenant= of few",
                DeliveryQuery {
                    tenant: tenant("rare"),
                    ..all()
                },
            ),
            (
                "deliveries?status=pending",
                DeliveryQuery {
                    status: Some(Status::Pending),
                    ..all()
                },
            ),
            (
                "deliveries?status=sending",
                DeliveryQuery {
                    status: Some(Status::Sending),
                    ..all()
                },
            ),
            (
                "deliveries?status=delivered",
                DeliveryQuery {
                    status: Some(Status::Delivered),
                    ..all()
                },
            ),
            (
                "deliveries?status=failed",
                DeliveryQuery {
                    status: Some(Status::Failed),
                    ..all()
                },
            ),
            (
                "deliveries?since=",
                DeliveryQuery {
                    since: Some(self.at(0.5)),
                    ..all()
                },
            ),
            (
                "deliveries?since= the last",
                DeliveryQuery {
                    since: Some(self.at(0.9999)),
                    ..all()
                },
            ),
            (
                "deliveries?until=",
                DeliveryQuery {
                    until: Some(self.at(0.5)),
                    ..all()
                },
            ),
            (
                "deliveries?until= the first",
                DeliveryQuery {
                    until: Some(self.at(0.0001)),
                    ..all()
                },
            ),
            (
                "deliveries?tenant=&status=failed",
                DeliveryQuery {
                    tenant: tenant("rare"),
                    status: Some(Status::Failed),
                    ..all()
                },
            ),
            (
                "deliveries?endpoint_id=&status=failed",
                DeliveryQuery {
                    endpoint_id: usual.clone(),
                    status: Some(Status::Failed),
                    ..all()
                },
            ),
            (
                "deliveries?endpoint_id=&status=sending",
                DeliveryQuery {
                    endpoint_id: usual,
                    status: Some(Status::Sending),
                    ..all()
                },
            ),
            (
                "deliveries?endpoint_id=&tenant= of another",
                DeliveryQuery {
                    endpoint_id: rare,
                    tenant: tenant("usual"),
                    ..all()
                },
            ),
            (
                "deliveries?tenant=&until=&status=delivered",
                DeliveryQuery {
                    tenant: tenant("usual"),
                    until: Some(self.at(0.3)),
                    status: Some(Status::Delivered),
                    ..all()
                },
            ),
        ]
    }

    fn events(&self) -> Vec<(&'static str, EventQuery)> {
        let tenant = |name| Tenant::parse(name).ok();
        let all = EventQuery::default;
        let event_type = |name: &str| Some(name.to_owned());
        vec![
            ("events", all()),
            (
                "events?type=",
                EventQuery {
                    event_type: event_type("usual"),
                    ..all()
                },
            ),
            (
                "events?type= of few",
                EventQuery {
                    event_type: event_type("rare"),
                    ..all()
                },
            ),
            (
                "events?tenant=",
                EventQuery {
                    tenant: tenant("usual"),
                    ..all()
                },
            ),
            (
                "events?tenant= of few",
                EventQuery {
                    tenant: tenant("rare"),
                    ..all()
                },
            ),
            (
                "events?since=",
                EventQuery {
                    since: Some(self.at(0.5)),
                    ..all()
                },
            ),
            (
                "events?until=",
                EventQuery {
                    until: Some(self.at(0.5)),
                    ..all()
                },
            ),
            (
                "events?since=&until=",
                EventQuery {
                    since: Some(self.at(0.2)),
                    until: Some(self.at(0.2001)),
                    ..all()
                },
            ),
            (
                "events?tenant=&type= of few",
                EventQuery {
                    tenant: tenant("usual"),
                    event_type: event_type("rare"),
                    ..all()
                },
            ),
        ]
    }
}

/// The rows that the statements in a part of the server's log have read.
fn rows_read(log: &str) -> u64 {
    fn of_plan(plan: &Value) -> u64 {
        let number = |name: &str| plan[name].as_f64().unwrap_or_default();
        let loops = number("Actual Loops");
        let is_scan = plan["Node Type"].as_str().is_some_and(|kind| {
            kind.contains("Scan") && !["CTE Scan", "Subquery Scan"].contains(&kind)
        });
        let rejected = ["Rows Removed by Filter", "Rows Removed by Index Recheck"].map(number);
        let own = match is_scan {
            true => (number("Actual Rows") + rejected.iter().sum::<f64>()) * loops,
            false => 0.0,
        };
        let inner = plan["Plans"].as_array().into_iter().flatten();
        own as u64 + inner.map(of_plan).sum::<u64>()
    }
    let plans = log.split("  plan:\n").skip(1);
    plans
        .map(|rest| {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let explained = values.next().unwrap().unwrap();
            of_plan(&explained["Plan"])
        })
        .sum()
}

#[test]
fn a_page_of_a_million_rows_reads_a_bounded_number() {
    let Some(cluster) = Cluster::explaining() else {
        return;
    };
    on_virtual_time(async {
        let bed = TestBed::at(
            cluster.database(),
            local_config(),
            ScriptedReceivers::default(),
            START,
        );
        let history = History::write(&bed, 1_000_000).await;
        let mut table = String::from("| list | rows read |\n|---|---|\n");
        let mut too_many = Vec::new();
        let mut note = |name: &str, before: usize| {
            let read = rows_read(&cluster.log()[before..]);
            table.push_str(&format!("| `{name}` | {read} |\n"));
            too_many.extend((read > MAX_ROWS).then(|| format!("{name}: {read}")));
        };
        for (name, query) in history.deliveries() {
            let before = cluster.log().len();
            let page = bed.postrider().deliveries(query, Page::first(50)).await;
            page.unwrap();
            note(name, before);
        }
        for (name, query) in history.events() {
            let before = cluster.log().len();
            bed.postrider()
                .events(query, Page::first(50))
                .await
                .unwrap();
            note(name, before);
        }
        eprintln!("{table}");
        assert!(too_many.is_empty(), "{too_many:?}");
    });
}

/// Small windows and large ones return the same entries: all of them, once.
fn all_pages_together_hold_every_entry_once(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let history = History::write(&engine, 12_000).await;
        let expected = |name: &str| match name {
            "deliveries" => Some(12_002),
            "deliveries?endpoint_id=" => Some(11_999),
            "deliveries?endpoint_id= of few" | "deliveries?tenant= of few" => Some(3),
            "deliveries?event_id=" | "deliveries?event_id=&tenant=" => Some(1),
            "deliveries?tenant=" => Some(11_999),
            "deliveries?status=pending" => Some(102),
            "deliveries?status=sending" | "deliveries?endpoint_id=&status=sending" => Some(0),
            "deliveries?status=failed" => Some(11),
            // One of them belongs to the other endpoint.
            "deliveries?endpoint_id=&status=failed" => Some(10),
            "deliveries?status=delivered" => Some(12_000 - 100 - 11),
            "deliveries?since=" => Some(6_001),
            "deliveries?until=" => Some(5_999 + 2),
            "deliveries?endpoint_id=&tenant= of another" => Some(0),
            _ => None,
        };
        for (name, query) in history.deliveries() {
            let mut found = BTreeSet::new();
            let mut page = Page::first(250);
            let mut count = 0;
            loop {
                let listed = engine
                    .postrider()
                    .deliveries(query.clone(), page)
                    .await
                    .unwrap();
                count += listed.entries.len();
                let ids = listed.entries.iter().map(|one| one.id.clone());
                found.extend(ids);
                let Some(next) = listed.next else { break };
                assert!(listed.entries.len() == 250 || listed.searched_back_to.is_some());
                page = Page {
                    after: Some(next),
                    limit: 250,
                };
            }
            assert_eq!(found.len(), count, "{name}: an entry came twice");
            if let Some(expected) = expected(name) {
                assert_eq!(count, expected, "{name}");
            }
        }
        let expected = |name: &str| match name {
            "events" => Some(12_002),
            "events?type=" => Some(11_998),
            "events?type= of few" | "events?tenant=&type= of few" => Some(2),
            "events?tenant= of few" => Some(3),
            "events?since=" => Some(6_001),
            "events?since=&until=" => Some(1),
            _ => None,
        };
        for (name, query) in history.events() {
            let mut page = Page::first(250);
            let mut count = 0;
            loop {
                let listed = engine
                    .postrider()
                    .events(query.clone(), page)
                    .await
                    .unwrap();
                count += listed.entries.len();
                let Some(next) = listed.next else { break };
                page = Page {
                    after: Some(next),
                    limit: 250,
                };
            }
            if let Some(expected) = expected(name) {
                assert_eq!(count, expected, "{name}");
            }
        }
    });
}

conformance! {
    all_pages_together_hold_every_entry_once,
}
