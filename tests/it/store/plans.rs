//! Which index each statement uses that runs for a delivery: it costs the same with ten million
//! rows of history.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};
use postrider::config::DatabaseUrl;
use postrider::domain::ids::{EndpointId, Tenant};
use postrider::domain::lifecycle::Status;
use postrider::domain::query::{EndpointQuery, Page};
use postrider::testing::{Reply, START, on_virtual_time, pass};
use postrider::{MetricsFormat, Notification};

use crate::support::database;
use crate::support::engine::{Database, TestEngine, event, secs};

/// What was run on each database, and how often.
static RUN: Mutex<BTreeMap<String, BTreeMap<String, usize>>> = Mutex::new(BTreeMap::new());

fn run_so_far() -> MutexGuard<'static, BTreeMap<String, BTreeMap<String, usize>>> {
    RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what one connection runs.
#[derive(Default)]
struct Notes {
    database: String,
}

impl Instrumentation for Notes {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartEstablishConnection { url, .. } => {
                self.database = url.to_owned()
            }
            InstrumentationEvent::StartQuery { query, .. } => {
                let sql = query.to_string();
                let sql = sql
                    .split(" -- binds:")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                *run_so_far()
                    .entry(self.database.clone())
                    .or_default()
                    .entry(sql)
                    .or_default() += 1;
            }
            _ => {}
        }
    }
}

/// All that happens to deliveries: published alone and together, sent, failed and retried, read
/// ahead, polled for, taken over, retried by a person.
async fn story(engine: TestEngine, round: &str) -> TestEngine {
    let [many, flaky, ordered] = ["many", "flaky", "ordered"].map(|name| format!("{round}.{name}"));
    let quick = r#""rate_limit":"10000/min","concurrency":2"#;
    engine
        .endpoint(1, &format!(r#"{{"event_types":["{many}"],{quick}}}"#))
        .await;
    engine
        .endpoint(
            2,
            &format!(r#"{{"event_types":["{flaky}"],"retry_delays_s":[1]}}"#),
        )
        .await;
    engine
        .endpoint(
            3,
            &format!(r#"{{"event_types":["{ordered}"],"ordering":"key"}}"#),
        )
        .await;
    engine.replies(
        2,
        [
            Reply::Status(500, Duration::ZERO),
            Reply::Status(500, Duration::ZERO),
        ],
    );
    let failed = engine.publish_one(&flaky).await;
    let batch = (0..40).map(|_| event(&many, "1")).collect();
    let receipts = engine.postrider().publish_batch(batch).await.unwrap();
    for _ in 0..3 {
        let mut next = event(&ordered, "1");
        next.ordering_key = Some("k".into());
        engine.postrider().publish(next).await.unwrap();
    }
    let last = receipts.last().unwrap().deliveries[0].0.clone();
    engine.until(&last, Status::Delivered, secs(60)).await;
    engine.until(&failed, Status::Failed, secs(60)).await;
    let engine = engine.restart().await;
    engine.postrider().retry_delivery(&failed).await.unwrap();
    engine.until(&failed, Status::Delivered, secs(60)).await;
    pass(secs(130)).await; // The poll, and maintenance.
    engine.stop().await
}

#[test]
fn sqlite_reads_by_index_whatever_has_ended() {
    set_default_instrumentation(|| Some(Box::<Notes>::default())).unwrap();
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Sqlite);
        engine.postrider().metrics(MetricsFormat::Text).await;
        let engine = story(engine, "only").await;
        let path = engine.database();
        let name = match &path {
            DatabaseUrl::Sqlite(path) => path.to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        let run = run_so_far().get(&name).cloned().unwrap();
        let plans: Vec<(String, String)> = run
            .keys()
            .filter(|sql| {
                ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"]
                    .iter()
                    .any(|word| sql.starts_with(word))
            })
            .map(|sql| (sql.clone(), database::plan(&path, sql).join("\n")))
            .collect();
        assert!(
            plans.len() > 30,
            "only {} statements were noted",
            plans.len()
        );

        // What only grows is never read from end to end, but by an index of what lives.
        let grows = ["webhook_events", "webhook_deliveries", "webhook_attempts"];
        for (sql, plan) in &plans {
            // A list of nothing: no row is looked at. The newest row: one is.
            if sql.contains("1=0") || sql.ends_with("ORDER BY `webhook_events`.`seq` DESC LIMIT ?")
            {
                continue;
            }
            for line in plan.lines() {
                let scans = grows
                    .iter()
                    .any(|table| line.contains(&format!("SCAN {table}")));
                let of_what_lives = ["_live", "_held", "_in_order", "_failed"];
                let lives = of_what_lives
                    .iter()
                    .any(|index| line.contains(&format!("INDEX webhook_deliveries{index}")));
                assert!(!scans || lives, "{line}\nof {sql}\n{plan}");
            }
        }
        // What is written builds no table of its own for each row.
        let written: Vec<_> = plans
            .iter()
            .map(|(sql, _)| sql)
            .filter(|sql| is_written_for_a_delivery(sql))
            .collect();
        assert!(written.len() >= 5, "{written:#?}");
        for sql in written {
            let code = database::opcodes(&path, sql);
            assert!(
                !code.iter().any(|opcode| opcode == "OpenEphemeral"),
                "{sql}\n{code:?}"
            );
        }
        // A claim touches no index, and the usual end only the one of what is due.
        for (sets, expected) in [
            ("`claim_no` = ?", vec!["webhook_deliveries"]),
            (
                "`delivered_at` = ?, `claimed_at` = ?",
                vec!["webhook_deliveries", "webhook_deliveries_live"],
            ),
        ] {
            let of = |sql: &&String| {
                sql.starts_with("UPDATE `webhook_deliveries` SET `status` = ?")
                    && sql.split(" WHERE ").next().unwrap().contains(sets)
            };
            let all: Vec<_> = plans.iter().map(|(sql, _)| sql).filter(of).collect();
            assert!(!all.is_empty(), "no statement sets {sets}");
            for sql in all {
                let mut written = database::written(&path, sql);
                written.sort();
                assert_eq!(written, expected, "{sql}");
            }
        }
        for (statement, index) in [
            (
                "UPDATE `webhook_deliveries` SET",
                "webhook_deliveries USING PRIMARY KEY (event_seq=? AND endpoint=?",
            ),
            (
                "SELECT `webhook_deliveries`.`event_seq`, `webhook_deliveries`.`endpoint`, `webhook_deliveries`.`claim_no`",
                "INDEX webhook_deliveries_live (endpoint=?",
            ),
            (
                "WITH RECURSIVE walk",
                "COVERING INDEX webhook_deliveries_live (endpoint>? AND endpoint<?)",
            ),
            (
                "SELECT due_at, created_at FROM webhook_deliveries",
                "COVERING INDEX webhook_deliveries_live",
            ),
            (
                "`webhook_attempts`.`ended_at` > ?",
                "INDEX webhook_attempts_by_endpoint (endpoint=? AND ended_at>?",
            ),
            (
                "FROM `webhook_events` WHERE (`webhook_events`.`seq` = ?",
                "webhook_events USING INTEGER PRIMARY KEY (rowid=?)",
            ),
        ] {
            let found: Vec<_> = plans
                .iter()
                .filter(|(sql, _)| sql.contains(statement))
                .collect();
            assert!(
                !found.is_empty(),
                "nothing like {statement} was run:\n{:#?}",
                plans
            );
            for (sql, plan) in found {
                assert!(plan.contains(index), "{sql}\nuses\n{plan}\nand not {index}");
            }
        }
    });
}

/// Whether it writes one row of those tables that each delivery has its rows in.
fn is_written_for_a_delivery(sql: &str) -> bool {
    ["events", "deliveries", "attempts", "endpoint_health"]
        .iter()
        .any(|table| {
            let table = format!("`webhook_{table}`");
            sql.starts_with(&format!("INSERT INTO {table}"))
                || sql.starts_with(&format!("UPDATE {table}"))
        })
}

/// Rows of history that make reading all of a table dear.
fn history(endpoint: &EndpointId) -> String {
    // As young as what is published now: retention leaves it.
    let now = START.as_micros();
    format!(
        "INSERT INTO webhook_events (tenant, id, event_type, content_type, content_hash, body, created_at) \
         SELECT tenant, ('old-' || i)::bytea, 'old.one', 'text/plain', '\\x00', 'body', {now} \
         FROM webhook_endpoints, generate_series(1, 20000) AS i WHERE webhook_endpoints.id = '{endpoint}'; \
         INSERT INTO webhook_deliveries (event_seq, endpoint, status, retries_used, attempt_count, interruptions, \
             owner_epoch, claim_no, delivered_at, created_at, updated_at, in_order) \
         SELECT seq, number, 'delivered', 0, 1, 0, 1, 1, {now}, {now}, {now}, false \
         FROM webhook_events, webhook_endpoints WHERE event_type = 'old.one' AND webhook_endpoints.id = '{endpoint}'; \
         INSERT INTO webhook_attempts (event_seq, endpoint, claim_no, number, started_at, ended_at, outcome) \
         SELECT event_seq, endpoint, 1, 1, {now}, {now}, 'delivered' FROM webhook_deliveries \
         JOIN webhook_events ON seq = event_seq WHERE event_type = 'old.one'"
    )
}

/// Runs the story on Postgres beside a history, and looks how much of it was read.
fn postgres_reads_little(analyze: bool) {
    if !Database::Postgres.is_there() {
        return;
    }
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Postgres);
        let old = engine.endpoint(9, r#"{"event_types":["old.one"]}"#).await;
        let place = engine.database();
        let engine = if analyze {
            let engine = engine.stop().await;
            database::execute(&place, &history(&old));
            database::execute(&place, "ANALYZE");
            engine.start_again()
        } else {
            // All that the planner knows is from a time when the tables were empty.
            let engine = story(engine, "first").await.start_again();
            database::execute(&place, &history(&old));
            engine
        };
        let read = |what: &str| {
            // A session tells what it has read a moment later.
            database::execute(&place, "SELECT pg_stat_force_next_flush(), pg_sleep(1.2)");
            database::number(&place, what)
        };
        let scanned = "SELECT sum(seq_tup_read)::bigint AS n FROM pg_stat_user_tables \
            WHERE relname IN ('webhook_events', 'webhook_deliveries', 'webhook_attempts')";
        let by_index = "SELECT sum(idx_tup_read)::bigint AS n FROM pg_stat_user_indexes \
            WHERE relname IN ('webhook_events', 'webhook_deliveries', 'webhook_attempts')";
        let before = (read(scanned), read(by_index));
        let engine = story(engine, "second").await;
        drop(engine);
        let after = (read(scanned), read(by_index));
        assert!(
            after.0 - before.0 < 10_000,
            "{} rows were read without an index",
            after.0 - before.0
        );
        // Retention looks at what is outdated, two hundred events at a time.
        assert!(
            after.1 - before.1 < 10_000,
            "{} entries of indexes were read",
            after.1 - before.1
        );
    });
}

#[test]
fn postgres_reads_by_index_whatever_has_ended() {
    postgres_reads_little(true);
}

/// A plan made on empty tables read all of them for each claim, as they grew.
#[test]
fn postgres_reads_by_index_what_it_knows_nothing_of_yet() {
    postgres_reads_little(false);
}

/// A claim whose plan was made while little was due read everything that is due.
#[test]
fn postgres_claims_by_key_whatever_waits() {
    const BACKLOG: i64 = 5_000;
    if !Database::Postgres.is_there() {
        return;
    }
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Postgres);
        let place = engine.database();
        let old = engine.endpoint(9, r#"{"event_types":["old.one"]}"#).await;
        engine
            .endpoint(1, r#"{"event_types":["quick"],"rate_limit":"unlimited"}"#)
            .await;
        engine
            .endpoint(2, r#"{"event_types":["slow"],"rate_limit":"20/min"}"#)
            .await;
        database::execute(&place, &history(&old));
        database::execute(&place, "ANALYZE");
        // So many that the server keeps one plan for all.
        for _ in 0..20 {
            let id = engine.publish_one("quick").await;
            engine.until(&id, Status::Delivered, secs(5)).await;
        }
        for _ in 0..BACKLOG / 500 {
            let batch = (0..500).map(|_| event("slow", "1")).collect();
            engine.postrider().publish_batch(batch).await.unwrap();
        }
        let read = || {
            database::execute(&place, "SELECT pg_stat_force_next_flush(), pg_sleep(1.2)");
            database::number(
                &place,
                "SELECT sum(idx_tup_read)::bigint AS n FROM pg_stat_user_indexes \
                 WHERE relname = 'webhook_deliveries'",
            )
        };
        pass(secs(30)).await;
        let before = read();
        pass(secs(120)).await;
        drop(engine.stop().await);
        let entries = read() - before;
        assert!(
            entries < 4 * BACKLOG,
            "{entries} entries of indexes were read"
        );
    });
}

#[test]
fn postgres_reads_for_metrics_what_waits_and_no_history() {
    if !Database::Postgres.is_there() {
        return;
    }
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Postgres);
        let endpoint = engine.endpoint(9, r#"{"event_types":["old.one"]}"#).await;
        let place = engine.database();
        let engine = engine.stop().await;
        database::execute(&place, &history(&endpoint));
        database::execute(&place, "ANALYZE");
        let read = || {
            // A session tells what it has read a moment later.
            database::execute(&place, "SELECT pg_stat_force_next_flush(), pg_sleep(1.2)");
            let what = "SELECT (sum(seq_tup_read) + sum(coalesce(idx_tup_fetch, 0)))::bigint AS n \
                FROM pg_stat_user_tables WHERE relname IN ('webhook_events', 'webhook_deliveries', 'webhook_attempts')";
            database::number(&place, what)
        };
        let before = read();
        let metrics = engine.postrider().metrics(MetricsFormat::Text).await;
        assert!(metrics.contains("\npostrider_waiting 0\n"), "{metrics}");
        drop(engine);
        let rows = read() - before;
        assert!(
            rows < 100,
            "{rows} rows were read to find that nothing waits"
        );
    });
}

/// As a join, endpoints could be the outer side of it: all of the walk for each of them.
#[test]
fn postgres_polls_many_endpoints_once_each() {
    const MANY: i64 = 2_000;
    if !Database::Postgres.is_there() {
        return;
    }
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Postgres);
        let first = engine.endpoint(9, r#"{"event_types":["old.one"]}"#).await;
        let place = engine.database();
        let engine = engine.stop().await;
        // Nothing of it is due today: a poll finds it and starts nobody.
        let (now, later) = (START.as_micros(), START.as_micros() + 86_400_000_000);
        database::execute(
            &place,
            &format!(
                "INSERT INTO webhook_endpoints SELECT (jsonb_populate_record(e, jsonb_build_object('id', 'ep_' || i, 'number', 34554432 + i))).* \
                 FROM webhook_endpoints AS e, generate_series(1, {MANY}) AS i WHERE e.id = '{first}'; \
                 INSERT INTO webhook_events (tenant, id, event_type, content_type, content_hash, body, created_at) \
                 SELECT 1, ('new-' || i)::bytea, 'old.one', 'text/plain', '\\x00', 'body', {now} FROM generate_series(1, {MANY}) AS i; \
                 INSERT INTO webhook_deliveries (event_seq, endpoint, status, due_at, \
                     retries_used, attempt_count, interruptions, owner_epoch, claim_no, created_at, updated_at, in_order) \
                 SELECT seq, 34554432 + substr(convert_from(id, 'UTF8'), 5)::integer, 'pending', {later}, \
                     0, 0, 0, 1, 0, {now}, {now}, false FROM webhook_events WHERE event_type = 'old.one'"
            ),
        );
        let scans = || {
            database::execute(&place, "SELECT pg_stat_force_next_flush(), pg_sleep(1.2)");
            database::number(
                &place,
                "SELECT sum(idx_scan)::bigint AS n FROM pg_stat_user_indexes WHERE relname = 'webhook_deliveries'",
            )
        };
        let before = scans();
        let engine = engine.start_again();
        pass(secs(1)).await;
        // A session that has been busy tells of it with what it does a second later.
        scans();
        pass(secs(5)).await;
        let after = scans() - before;
        drop(engine);
        assert!(after > MANY, "no poll has looked: {after}");
        // Each poll steps to each of them and asks when it is due; there were a few.
        assert!(
            after < 40 * MANY,
            "the index was gone through {after} times"
        );
    });
}

/// Number of endpoints that were read by their ids on a database.
fn endpoints_read(database: &str) -> usize {
    const BY_ID: &str = "(`webhook_endpoints`.`deleted_at` IS NULL) AND (`webhook_endpoints`.`id` ";
    let run = run_so_far();
    let run = run.get(database).into_iter().flatten();
    run.filter_map(|(sql, times)| {
        let (_, ids) = sql.split_once(BY_ID)?;
        Some(ids.matches('?').count() * times)
    })
    .sum()
}

/// Every change of an endpoint made each node read all of its live endpoints, one by one.
#[test]
fn a_change_of_one_endpoint_reads_that_one() {
    const LIVE: u8 = 40;
    set_default_instrumentation(|| Some(Box::<Notes>::default())).unwrap();
    on_virtual_time(async {
        let engine = TestEngine::on(Database::Sqlite);
        let mut ids = Vec::new();
        for n in 1..=LIVE {
            ids.push(
                engine
                    .endpoint(n, r#"{"rate_limit": "1/h", "concurrency": 1}"#)
                    .await,
            );
            engine.always(n, Reply::Hang);
        }
        engine.publish("a.b").await;
        pass(secs(5)).await;
        assert_eq!(
            engine.metric("postrider_supervisors").await,
            f64::from(LIVE)
        );
        let DatabaseUrl::Sqlite(path) = engine.database() else {
            panic!("a file")
        };
        let path = path.to_str().unwrap().to_owned();
        let before = endpoints_read(&path);
        assert!(before >= usize::from(LIVE), "{before}");
        // As another node does it.
        let change = "UPDATE webhook_counters SET value = value + 1 WHERE name = 'endpoints'; \
            UPDATE webhook_endpoints SET version = version + 1, \
            change_no = (SELECT value FROM webhook_counters WHERE name = 'endpoints') WHERE id = '";
        database::execute(&engine.database(), &format!("{change}{}'", ids[0]));
        pass(secs(5)).await;
        let read = endpoints_read(&path) - before;
        assert!(
            (1..5).contains(&read),
            "{read} endpoints were read for one change"
        );
    });
}

/// Each pooled read was preceded by `SELECT 1`.
#[test]
fn no_statement_only_asks_whether_a_connection_is_alive() {
    if !Database::Postgres.is_there() {
        return;
    }
    set_default_instrumentation(|| Some(Box::<Notes>::default())).unwrap();
    on_virtual_time(async {
        let engine = story(TestEngine::on(Database::Postgres), "only").await;
        let DatabaseUrl::Postgres(url) = engine.database() else {
            panic!("a server")
        };
        let of_it = |part: &str| {
            let run = run_so_far();
            let name = url.reveal().rsplit('/').next().unwrap().to_owned();
            let run = run
                .iter()
                .filter(|(database, _)| database.contains(&name))
                .flat_map(|(_, run)| run);
            run.filter(|(sql, _)| sql.trim() == part || sql.contains(part))
                .count()
        };
        assert!(of_it("webhook_deliveries") > 5, "statements are noted");
        assert_eq!(of_it("SELECT 1"), 0);
    });
}

/// The number of statements run on a database so far.
fn statements(url: &DatabaseUrl) -> usize {
    let name = match url {
        DatabaseUrl::Sqlite(path) => path.to_str().unwrap().to_owned(),
        DatabaseUrl::Postgres(url) => url.reveal().rsplit('/').next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    let run = run_so_far();
    let of_it = run.iter().filter(|(database, _)| database.contains(&name));
    of_it.flat_map(|(_, run)| run.values()).sum()
}

/// A list of 50 endpoints was 302 statements, a tenant's overview with as many 419.
fn lists_and_overviews_are_a_few_statements(database: Database) {
    set_default_instrumentation(|| Some(Box::<Notes>::default())).unwrap();
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let tenant = Tenant::parse("acme").unwrap();
        for n in 1..=50 {
            engine.endpoint_of(tenant.clone(), n, "{}").await;
        }
        let url = engine.database();
        let before = statements(&url);
        let query = EndpointQuery {
            tenant: Some(tenant.clone()),
            ..EndpointQuery::default()
        };
        let list = engine.postrider().endpoints(query, Page::first(50)).await;
        assert_eq!(list.unwrap().entries.len(), 50);
        let after_list = statements(&url);
        engine.postrider().overview(Some(tenant)).await.unwrap();
        let list = after_list - before;
        let overview = statements(&url) - after_list;
        assert!((1..=8).contains(&list), "{list} statements for a list");
        assert!(
            (1..=14).contains(&overview),
            "{overview} statements for an overview"
        );
    });
}

/// One event to one endpoint was 19 statements in three transactions.
fn an_event_is_at_most_sixteen_statements(database: Database) {
    set_default_instrumentation(|| Some(Box::<Notes>::default())).unwrap();
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        engine.endpoint(1, "{}").await;
        let mut notifications = engine.postrider().subscribe();
        let mut costs = Vec::new();
        for _ in 0..5 {
            let before = statements(&engine.database());
            engine.publish("a.b").await;
            while !matches!(
                notifications.recv().await.unwrap(),
                Notification::Delivered { .. }
            ) {}
            costs.push(statements(&engine.database()) - before);
        }
        // Without what happens to run at the same time, such as a poll.
        let least = *costs.iter().min().unwrap();
        assert!(
            (10..=16).contains(&least),
            "{costs:?} statements for an event"
        );
    });
}

conformance! {
    lists_and_overviews_are_a_few_statements,
    an_event_is_at_most_sixteen_statements,
}
