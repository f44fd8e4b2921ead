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

/// Endpoints of the bare cycle, as many as those of the flow that it is compared with.
const ENDPOINTS: u64 = 10;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Part {
    /// reqwest alone: signs and posts, 64 at once.
    Post,
    /// The database alone: events and deliveries in, claimed, ended with an attempt, in commits of
    /// that many.
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
pub fn start(part: &str, target: &str, count: u64, batch: u64) -> Child {
    let program = std::env::current_exe().expect("this program");
    let arguments = [
        "--part",
        part,
        "--target",
        target,
        "--count",
        &count.to_string(),
        "--batch",
        &batch.to_string(),
    ];
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a part starts")
}

/// Runs a part to its end.
pub fn cost_of(part: &str, target: &str, count: u64, batch: u64) -> Cost {
    let output = start(part, target, count, batch)
        .wait_with_output()
        .expect("a part ends");
    serde_json::from_slice(&output.stdout).expect("a part tells its cost")
}

/// What runs in such a process.
pub fn run(part: Part, target: &str, count: u64, batch: u64) {
    let cost = match part {
        Part::Post => post(target.parse().expect("an address"), count),
        Part::Cycle => match target.parse().expect("a database") {
            DatabaseUrl::Sqlite(path) => cycle_on_sqlite(&path, count, batch),
            DatabaseUrl::Postgres(url) => cycle_on_postgres(url.reveal(), count, batch),
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

/// The columns of a new delivery, and of an attempt.
const NEW_DELIVERY: &str = "event_seq, endpoint, status, due_at, retries_used, \
    attempt_count, interruptions, owner_epoch, claim_no, created_at, updated_at, in_order";
const NEW_ATTEMPT: &str = "event_seq, endpoint, claim_no, number, started_at, ended_at, outcome, status_code, \
    response_body, response_headers, request_parts, remote_address, timings";

/// The statements that add the endpoints.
fn endpoints() -> String {
    let rows = (1..=ENDPOINTS).map(|number| {
        format!(
            "({number}, 'ep_{number}', 1, 'http://127.0.0.1/', '', '[]', '{{}}', '{{}}', 0, 0, 0)"
        )
    });
    format!(
        "INSERT INTO webhook_tenants (tenant) VALUES ('default'); \
         INSERT INTO webhook_endpoints (number, id, tenant, url, description, event_types, headers, \
         settings, created_at, updated_at, version) VALUES {}",
        rows.collect::<Vec<_>>().join(", ")
    )
}

/// The rest of an attempt's values; `blob` writes bytes in hexadecimal.
fn attempt_values(blob: impl Fn(&str) -> String) -> String {
    format!(
        "1, 1, 1, 2, 'delivered', 200, '', '[[\"content-length\",\"0\"]]', {}, {}, {}",
        blob(&"ab".repeat(55)),
        blob("00007f000001a846"),
        blob("000001e807")
    )
}

/// Random, as the server's are: each has a page of its own in the index.
fn event_id() -> Vec<u8> {
    uuid::Uuid::new_v4().as_bytes().to_vec()
}

fn seq(i: u64) -> i64 {
    (i as i64 + 1) * 256
}

fn endpoint_of(i: u64) -> i32 {
    (i % ENDPOINTS) as i32 + 1
}

fn cycle_on_sqlite(path: &std::path::Path, count: u64, batch: u64) -> Cost {
    postrider::schema::migrate_at(&DatabaseUrl::Sqlite(path.to_owned())).expect("a schema");
    let mut conn = rusqlite::Connection::open(path).expect("a database");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON",
    )
    .expect("the same settings as the server's");
    conn.execute_batch(&endpoints()).expect("endpoints");
    let body = vec![b'x'; 1100];
    let event = "INSERT INTO webhook_events (seq, tenant, id, event_type, content_type, content_hash, body, created_at) \
        VALUES (?5, 1, ?1, 'a.b', 'application/json', ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    let delivery = format!(
        "INSERT INTO webhook_deliveries ({NEW_DELIVERY}) VALUES (?1, ?3, 'pending', ?2, 0, 0, 0, 0, 0, ?2, ?2, 0)"
    );
    let claim = "UPDATE webhook_deliveries SET status = 'sending', claim_no = claim_no + 1, owner_epoch = 1, \
        claimed_at = 1, updated_at = 1 WHERE event_seq = ?1 AND endpoint = ?2 AND +status = 'pending'";
    let end = "UPDATE webhook_deliveries SET status = 'delivered', due_at = NULL, claimed_at = NULL, delivered_at = 2, \
        attempt_count = 1, updated_at = 2 WHERE event_seq = ?1 AND endpoint = ?2 AND +status = 'sending' \
        AND claim_no = 1 AND owner_epoch = 1";
    let attempt = format!(
        "INSERT INTO webhook_attempts ({NEW_ATTEMPT}) VALUES (?1, ?2, {})",
        attempt_values(|hex| format!("x'{hex}'"))
    );
    measured(count, || {
        for first in (0..count).step_by(batch as usize) {
            let batch = || first..(first + batch).min(count);
            let mut commit = |work: &dyn Fn(&rusqlite::Connection, u64) -> rusqlite::Result<()>| {
                let tx =
                    conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                batch().try_for_each(|i| work(&tx, i))?;
                tx.commit()
            };
            let published = commit(&|conn, i| {
                let at = i as i64;
                conn.prepare_cached(event)?
                    .execute((event_id(), [7_u8; 32], &body, at, seq(i)))?;
                conn.prepare_cached(&delivery)?
                    .execute((seq(i), at, endpoint_of(i)))
                    .map(drop)
            });
            let claimed = published.and_then(|()| {
                commit(&|conn, i| {
                    conn.prepare_cached(claim)?
                        .execute((seq(i), endpoint_of(i)))
                        .map(drop)
                })
            });
            let ended = claimed.and_then(|()| {
                commit(&|conn, i| {
                    conn.prepare_cached(end)?
                        .execute((seq(i), endpoint_of(i)))?;
                    conn.prepare_cached(&attempt)?
                        .execute((seq(i), endpoint_of(i)))
                        .map(drop)
                })
            });
            ended.expect("SQLite writes");
        }
    })
}

/// The cost of the client alone: who runs this part adds that of the server's processes.
fn cycle_on_postgres(url: &str, count: u64, batch: u64) -> Cost {
    use diesel::connection::SimpleConnection as _;
    use diesel::sql_types::{Array, BigInt, Binary, Integer};
    let mut conn = PgConnection::establish(url).expect("a connection");
    postrider::schema::migrate(&mut conn).expect("a schema");
    conn.batch_execute(&endpoints()).expect("endpoints");
    let publish = format!(
        "WITH e AS (INSERT INTO webhook_events (seq, tenant, id, event_type, content_type, content_hash, body, created_at) \
         SELECT seq, 1, id, 'a.b', 'application/json', $3, $4, 1 FROM unnest($1, $2) AS new (id, seq)) \
         INSERT INTO webhook_deliveries ({NEW_DELIVERY}) SELECT seq, endpoint, 'pending', 1, 0, 0, 0, 0, 0, 1, 1, false \
         FROM unnest($2, $5) AS new (seq, endpoint)"
    );
    let claim = "UPDATE webhook_deliveries SET status = 'sending', claim_no = claim_no + 1, owner_epoch = 1, \
        claimed_at = 1, updated_at = 1 FROM unnest($1, $2) AS wanted (seq, number) \
        WHERE event_seq = wanted.seq AND endpoint = wanted.number AND status = 'pending'";
    let end = format!(
        "WITH ended AS (UPDATE webhook_deliveries SET status = 'delivered', due_at = NULL, claimed_at = NULL, \
         delivered_at = 2, attempt_count = 1, updated_at = 2 FROM unnest($1, $2) AS sent (seq, number) \
         WHERE event_seq = sent.seq AND endpoint = sent.number AND status = 'sending' RETURNING event_seq, endpoint) \
         INSERT INTO webhook_attempts ({NEW_ATTEMPT}) SELECT event_seq, endpoint, {} FROM ended",
        attempt_values(|hex| format!("'\\x{hex}'::bytea"))
    );
    let body = vec![b'x'; 1100];
    measured(count, || {
        for first in (0..count).step_by(batch as usize) {
            let batch = first..(first + batch).min(count);
            let ids: Vec<Vec<u8>> = batch.clone().map(|_| event_id()).collect();
            let seqs: Vec<i64> = batch.clone().map(seq).collect();
            let endpoints: Vec<i32> = batch.map(endpoint_of).collect();
            let published = diesel::sql_query(&publish)
                .bind::<Array<Binary>, _>(&ids)
                .bind::<Array<BigInt>, _>(&seqs)
                .bind::<Binary, _>(&[7_u8; 32][..])
                .bind::<Binary, _>(&body)
                .bind::<Array<Integer>, _>(&endpoints);
            published.execute(&mut conn).expect("published");
            diesel::sql_query(claim)
                .bind::<Array<BigInt>, _>(&seqs)
                .bind::<Array<Integer>, _>(&endpoints)
                .execute(&mut conn)
                .expect("claimed");
            diesel::sql_query(&end)
                .bind::<Array<BigInt>, _>(&seqs)
                .bind::<Array<Integer>, _>(&endpoints)
                .execute(&mut conn)
                .expect("ended");
        }
    })
}
