//! The parts of a delivery, each measured alone: a bare HTTP server that takes an event, the
//! database's whole cycle, a bare client that posts. Their sum is what a server could cost that did
//! nothing else.
//!
//! Each runs as a process of its own, so that its CPU time is its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use actix_web::{App, HttpResponse, HttpServer, web};
use base64::Engine as _;
use diesel::prelude::*;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use postrider::config::DatabaseUrl;

use crate::server::cpu_seconds;

/// Rows of one commit of the bare cycle.
const BATCH: u64 = 100;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Part {
    /// reqwest alone: signs and posts, 64 at once.
    Post,
    /// The database alone: events and deliveries in, claimed, ended with an attempt, in batches of
    /// 100.
    Cycle,
    /// actix-web alone: reads a JSON body, answers 202.
    Take,
}

/// How much of a second and of a processor `count` of them took.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    pub rate: f64,
    /// CPU-seconds for 10,000.
    pub cpu: f64,
}

impl Cost {
    pub fn of(count: u64, seconds: f64, cpu: f64) -> Self {
        Self {
            rate: count as f64 / seconds,
            cpu: cpu / count as f64 * 10_000.0,
        }
    }
}

/// Runs `work` in this process and tells what it cost.
fn measured(count: u64, work: impl FnOnce()) -> Cost {
    let (cpu, started) = (cpu_seconds("self"), Instant::now());
    work();
    Cost::of(
        count,
        started.elapsed().as_secs_f64(),
        cpu_seconds("self") - cpu,
    )
}

/// Starts a part as a process; it prints one line.
pub fn start(part: &str, target: &str, count: u64) -> Child {
    let program = std::env::current_exe().expect("this program");
    let arguments = [
        "--part",
        part,
        "--target",
        target,
        "--count",
        &count.to_string(),
    ];
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a part starts")
}

/// Runs a part to its end.
pub fn cost_of(part: &str, target: &str, count: u64) -> Cost {
    let output = start(part, target, count)
        .wait_with_output()
        .expect("a part ends");
    serde_json::from_slice(&output.stdout).expect("a part tells its cost")
}

/// What runs in such a process.
pub fn run(part: Part, target: &str, count: u64) {
    let cost = match part {
        Part::Post => post(target.parse().expect("an address"), count),
        Part::Cycle => match target.parse().expect("a database") {
            DatabaseUrl::Sqlite(path) => cycle_on_sqlite(&path, count),
            DatabaseUrl::Postgres(url) => cycle_on_postgres(url.reveal(), count),
            other => panic!("{other:?}"),
        },
        Part::Take => return take(),
    };
    println!("{}", serde_json::to_string(&cost).expect("JSON"));
}

fn signature(id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<sha2::Sha256>::new_from_slice(b"a key of twenty-four bytes").expect("a key");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!(
        "v1,{}",
        base64::prelude::BASE64_STANDARD.encode(mac.finalize().into_bytes())
    )
}

fn post(receiver: SocketAddr, count: u64) -> Cost {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .build()
        .expect("a client");
    let (url, body) = (
        format!("http://{receiver}/raw"),
        bytes::Bytes::from("x".repeat(1100)),
    );
    let one = |i: u64| {
        let (id, timestamp) = (format!("raw-{i}"), 1_800_000_000 + i);
        let request = client
            .post(&url)
            .header("content-type", "application/json")
            .header("webhook-signature", signature(&id, timestamp, &body))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .body(body.clone());
        async move {
            let answer = request.send().await.expect("an answer");
            answer.bytes().await.expect("a body");
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    measured(count, || {
        runtime.block_on(async {
            let mut open: FuturesUnordered<_> = (0..64.min(count)).map(&one).collect();
            let mut next = open.len() as u64;
            while open.next().await.is_some() {
                if next < count {
                    open.push(one(next));
                    next += 1;
                }
            }
        });
    })
}

fn take() {
    let work = async {
        let app = || {
            let events = |body: web::Json<serde_json::Value>| async move {
                HttpResponse::Accepted()
                    .json(serde_json::json!({"id": body["type"], "deliveries": []}))
            };
            App::new().route("/events", web::post().to(events))
        };
        let server = HttpServer::new(app).workers(1).bind("127.0.0.1:0")?;
        println!("{}", server.addrs()[0]);
        server.run().await
    };
    actix_web::rt::System::new()
        .block_on(work)
        .expect("it serves");
}

/// The columns of a new delivery, and what they hold; `$id` and `$seq` differ.
const NEW_DELIVERY: &str = "id, event_seq, shard, endpoint_id, tenant, status, next_attempt_at, retries_used, \
    attempt_count, interruptions, owner_epoch, claim_no, created_at, updated_at, in_line";
const NEW_ATTEMPT: &str = "delivery_id, claim_no, endpoint_id, number, started_at, ended_at, outcome, status_code, \
    response_body, response_headers, request_headers, remote_address, timings";
const ATTEMPT: &str = "1, 'ep_raw', 1, 1, 2, 'delivered', 200, '', '[[\"content-length\",\"0\"]]', \
    '[[\"content-type\",\"application/json\"],[\"webhook-id\",\"raw\"],[\"webhook-signature\",\"v1,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=\"]]', \
    '127.0.0.1:9000', '[null,null,0.4]'";
const ENDPOINT: &str = "INSERT INTO webhook_endpoints (id, tenant, url, description, event_types, headers, \
    settings, created_at, updated_at, version) VALUES ('ep_raw', 'default', 'http://127.0.0.1/', '', '[]', \
    '{}', '{}', 0, 0, 0)";

fn delivery_id(i: u64) -> String {
    format!("dlv_{:032x}", 0x1990_0000_0000_u64 + i)
}

fn cycle_on_sqlite(path: &std::path::Path, count: u64) -> Cost {
    postrider::schema::migrate_at(&DatabaseUrl::Sqlite(path.to_owned())).expect("a schema");
    let mut conn = rusqlite::Connection::open(path).expect("a database");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON",
    )
    .expect("the same settings as the server's");
    conn.execute(ENDPOINT, []).expect("an endpoint");
    let body = vec![b'x'; 1100];
    let event = "INSERT INTO webhook_events (tenant, id, event_type, content_type, content_hash, body, created_at) \
        VALUES ('default', ?1, 'a.b', 'application/json', ?2, ?3, ?4) ON CONFLICT DO NOTHING RETURNING seq";
    let delivery = format!(
        "INSERT INTO webhook_deliveries ({NEW_DELIVERY}) VALUES (?1, ?2, 1, 'ep_raw', 'default', 'pending', ?3, 0, 0, \
         0, 0, 0, ?3, ?3, 0)"
    );
    let claim = "UPDATE webhook_deliveries SET status = 'sending', next_attempt_at = NULL, claim_no = claim_no + 1, \
        owner_epoch = 1, claimed_at = 1, updated_at = 1 WHERE id = ?1 AND status = 'pending'";
    let end = "UPDATE webhook_deliveries SET status = 'delivered', claimed_at = NULL, delivered_at = 2, \
        attempt_count = 1, updated_at = 2 WHERE id = ?1 AND status = 'sending' AND claim_no = 1 AND owner_epoch = 1";
    let attempt = format!("INSERT INTO webhook_attempts ({NEW_ATTEMPT}) VALUES (?1, {ATTEMPT})");
    measured(count, || {
        for first in (0..count).step_by(BATCH as usize) {
            let batch = || first..(first + BATCH).min(count);
            let mut commit = |work: &dyn Fn(&rusqlite::Connection, u64) -> rusqlite::Result<()>| {
                let tx =
                    conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                batch().try_for_each(|i| work(&tx, i))?;
                tx.commit()
            };
            let published = commit(&|conn, i| {
                let seq: i64 = conn
                    .prepare_cached(event)?
                    .query_row((format!("raw-{i}"), [7_u8; 32], &body, i as i64), |row| {
                        row.get(0)
                    })?;
                conn.prepare_cached(&delivery)?
                    .execute((delivery_id(i), seq, i as i64))
                    .map(drop)
            });
            let claimed = published.and_then(|()| {
                commit(&|conn, i| {
                    conn.prepare_cached(claim)?
                        .execute([delivery_id(i)])
                        .map(drop)
                })
            });
            let ended = claimed.and_then(|()| {
                commit(&|conn, i| {
                    conn.prepare_cached(end)?.execute([delivery_id(i)])?;
                    conn.prepare_cached(&attempt)?
                        .execute([delivery_id(i)])
                        .map(drop)
                })
            });
            ended.expect("SQLite writes");
        }
    })
}

/// What it costs the one that asks; the server's own time is not in it.
fn cycle_on_postgres(url: &str, count: u64) -> Cost {
    use diesel::sql_types::{Array, Binary, Text};
    let mut conn = PgConnection::establish(url).expect("a connection");
    postrider::schema::migrate(&mut conn).expect("a schema");
    diesel::sql_query(ENDPOINT)
        .execute(&mut conn)
        .expect("an endpoint");
    let publish = format!(
        "WITH e AS (INSERT INTO webhook_events (tenant, id, event_type, content_type, content_hash, body, created_at) \
         SELECT 'default', e, 'a.b', 'application/json', $3, $4, 1 FROM unnest($1) AS e RETURNING seq, id), \
         d AS (SELECT * FROM unnest($1, $2) AS x (event, id)) \
         INSERT INTO webhook_deliveries ({NEW_DELIVERY}) SELECT d.id, e.seq, 1, 'ep_raw', 'default', 'pending', 1, 0, 0, \
         0, 0, 0, 1, 1, false FROM e JOIN d ON d.event = e.id"
    );
    let claim = "UPDATE webhook_deliveries SET status = 'sending', next_attempt_at = NULL, claim_no = claim_no + 1, \
        owner_epoch = 1, claimed_at = 1, updated_at = 1 WHERE id = ANY($1) AND status = 'pending'";
    let end = format!(
        "WITH ended AS (UPDATE webhook_deliveries SET status = 'delivered', claimed_at = NULL, delivered_at = 2, \
         attempt_count = 1, updated_at = 2 WHERE id = ANY($1) AND status = 'sending' RETURNING id) \
         INSERT INTO webhook_attempts ({NEW_ATTEMPT}) SELECT id, {ATTEMPT} FROM ended"
    );
    let body = vec![b'x'; 1100];
    measured(count, || {
        for first in (0..count).step_by(BATCH as usize) {
            let batch = first..(first + BATCH).min(count);
            let ids: Vec<String> = batch.clone().map(delivery_id).collect();
            let events: Vec<String> = batch.map(|i| format!("raw-{i}")).collect();
            let published = diesel::sql_query(&publish)
                .bind::<Array<Text>, _>(&events)
                .bind::<Array<Text>, _>(&ids)
                .bind::<Binary, _>(&[7_u8; 32][..])
                .bind::<Binary, _>(&body);
            published.execute(&mut conn).expect("published");
            diesel::sql_query(claim)
                .bind::<Array<Text>, _>(&ids)
                .execute(&mut conn)
                .expect("claimed");
            diesel::sql_query(&end)
                .bind::<Array<Text>, _>(&ids)
                .execute(&mut conn)
                .expect("ended");
        }
    })
}
