//! The server over Postgres: all that changes for a user is the URL.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, serve};
use crate::support::until;

const TOKEN: &str = "a-token-for-this-test-alone";

fn start(folder: &Path, url: &str) -> Server {
    let mut command = serve(folder, &["--allow-network", "127.0.0.0/8"]);
    command
        .env("POSTRIDER_DATABASE_URL", url)
        .env("POSTRIDER_API_TOKEN", TOKEN);
    Server::spawn(folder, command)
}

#[test]
fn events_survive_a_kill_and_a_name_is_one_process() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let url = cluster.text(&database);
    let server = start(folder.path(), &url);
    let api = Api::new(&server.base, TOKEN);
    api.endpoint(
        &receiver.url("/slow/300"),
        r#"{"rate_limit":"unlimited","concurrency":5}"#,
    );
    let event = json!({"type": "a.b", "data": {"n": 1}});
    assert_eq!(
        api.post(
            "/events/batch",
            &json!({"events": vec![event; 30]}).to_string()
        )
        .status,
        202
    );
    until("some are in flight", Duration::from_secs(20), || {
        receiver.got().len() > 5
    });

    let mut second = serve(folder.path(), &[]);
    second
        .env("POSTRIDER_DATABASE_URL", &url)
        .env("POSTRIDER_API_TOKEN", TOKEN);
    let output = second.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("a node named"),
        "{text}"
    );

    server.kill();
    let server = start(folder.path(), &url);
    let of = |status: &str| {
        let sql = format!("SELECT count(*) AS n FROM webhook_deliveries WHERE status = '{status}'");
        database::number(&database, &sql)
    };
    until("all are delivered", Duration::from_secs(30), || {
        of("delivered") == 30
    });
    let twice = receiver.got().len() - 30;
    assert!(
        twice <= 5,
        "{twice} were sent twice, and five were in flight"
    );
    assert_eq!(
        database::number(
            &database,
            "SELECT count(*) AS n FROM webhook_attempts WHERE outcome = 'delivered'"
        ),
        30
    );
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert!(
        !log.contains("postgres@"),
        "the URL may hold a password:\n{log}"
    );
}

#[test]
fn a_server_that_crashes_again_and_again_loses_nothing_that_was_accepted() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let server = start(folder.path(), &cluster.text(&database));
    let api = Api::new(&server.base, TOKEN);
    let settings =
        r#"{"rate_limit":"unlimited","concurrency":20,"retry_delays_s":[1,1,1,1,1,1,1,1]}"#;
    api.endpoint(&receiver.url("/slow/20"), settings);
    let mut accepted = HashSet::new();
    let (mut sent, mut refused) = (0, 0);
    let mut publish = |accepted: &mut HashSet<String>| {
        sent += 1;
        let id = format!("e{sent}");
        let answer = api.post(
            "/events",
            &json!({"type": "a.b", "data": sent, "id": id}).to_string(),
        );
        match answer.status {
            202 => {
                accepted.insert(id);
            }
            503 => {
                assert_eq!(answer.problem(), "unavailable", "{}", answer.body);
                assert!(answer.headers.contains_key("retry-after"));
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
        answer.status
    };
    let ready = || api.try_request("GET", "/readyz", &[], None).unwrap().status;
    for _ in 0..10 {
        for _ in 0..20 {
            publish(&mut accepted);
        }
        cluster.crash();
        assert_eq!(publish(&mut accepted), 503);
        assert_eq!(ready(), 503);
        cluster.up();
        until("it takes events again", Duration::from_secs(20), || {
            publish(&mut accepted) == 202
        });
    }
    until("it is ready again", Duration::from_secs(20), || {
        ready() == 200
    });
    until(
        "all that was accepted has arrived",
        Duration::from_secs(60),
        || {
            let got: HashSet<String> = receiver.got().iter().map(|one| one.id.clone()).collect();
            accepted.iter().all(|id| got.contains(id))
        },
    );
    let of = |status: &str| {
        let sql = format!("SELECT count(*) AS n FROM webhook_deliveries WHERE status = '{status}'");
        database::number(&database, &sql)
    };
    until("nothing is stuck", Duration::from_secs(30), || {
        of("pending") + of("sending") == 0
    });
    assert_eq!(of("failed"), 0);
    eprintln!(
        "{} accepted, {refused} refused, {} requests",
        accepted.len(),
        receiver.got().len()
    );
}

#[test]
fn a_server_that_says_nothing_is_answered_for_and_waited_out() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let server = start(folder.path(), &cluster.text(&database));
    let api = Api::new(&server.base, TOKEN);
    api.endpoint(&receiver.url("/slow/500"), r#"{"rate_limit":"unlimited"}"#);
    assert_eq!(
        api.post("/events", r#"{"type":"a.b","data":1,"id":"before"}"#)
            .status,
        202
    );
    until("it is in flight", Duration::from_secs(10), || {
        receiver.got().len() == 1
    });
    cluster.signal("STOP");
    let started = Instant::now();
    let answer = api.post("/events", r#"{"type":"a.b","data":2,"id":"during"}"#);
    assert_eq!(
        (answer.status, answer.problem()),
        (503, "unavailable"),
        "{}",
        answer.body
    );
    assert!(
        answer.text("detail").contains("no response") && answer.headers.contains_key("retry-after")
    );
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        api.try_request("GET", "/readyz", &[], None).unwrap().status,
        503
    );
    assert_eq!(
        api.try_request("GET", "/healthz", &[], None)
            .unwrap()
            .status,
        200
    );
    let bearer = format!("Bearer {TOKEN}");
    let metrics = api
        .try_request("GET", "/metrics", &[("authorization", &bearer)], None)
        .unwrap();
    let metrics = metrics.body.as_str().unwrap();
    assert!(metrics.contains("\npostrider_database_up 0\n"), "{metrics}");
    assert!(
        !metrics.contains("\npostrider_waiting "),
        "what is not known is not shown: {metrics}"
    );
    assert!(
        !metrics.contains("\npostrider_database_refusals_total 0\n"),
        "{metrics}"
    );
    cluster.signal("CONT");
    // By its id nothing is there twice, whatever became of the one that was refused.
    until("it takes events again", Duration::from_secs(20), || {
        api.post("/events", r#"{"type":"a.b","data":2,"id":"during"}"#)
            .status
            < 300
    });
    until("all is delivered", Duration::from_secs(20), || {
        let sql = "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'";
        database::number(&database, sql) == 2
    });
    assert_eq!(
        receiver.got().len(),
        2,
        "the outcome that was known is not forgotten, and nothing sent twice"
    );
}

/// Ways in which a server refuses for a while, each with its end. (Postgres has no way to be told
/// that its disk is full; a trigger says what it would.)
const FAULTS: [(&str, &str, &str); 4] = [
    (
        "read-only",
        "ALTER DATABASE NAME SET default_transaction_read_only = on | AWAY",
        "ALTER DATABASE NAME RESET default_transaction_read_only | AWAY",
    ),
    (
        "full",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON webhook_events EXECUTE FUNCTION refuse(); \
         CREATE TRIGGER refuse BEFORE INSERT ON webhook_attempts EXECUTE FUNCTION refuse(); \
         CREATE TRIGGER refuse BEFORE UPDATE ON webhook_counters EXECUTE FUNCTION refuse()",
        "DROP FUNCTION refuse() CASCADE",
    ),
    (
        "slow, with a time-out",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_sleep(2); RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON webhook_events FOR EACH ROW EXECUTE FUNCTION refuse(); \
         CREATE TRIGGER refuse BEFORE INSERT ON webhook_attempts FOR EACH ROW EXECUTE FUNCTION refuse(); \
         CREATE TRIGGER refuse BEFORE UPDATE ON webhook_counters FOR EACH ROW EXECUTE FUNCTION refuse() | \
         ALTER DATABASE NAME SET statement_timeout = '300ms' | AWAY",
        "DROP FUNCTION refuse() CASCADE | ALTER DATABASE NAME RESET statement_timeout | AWAY",
    ),
    (
        "closed to connections",
        "ALTER DATABASE NAME ALLOW_CONNECTIONS false | AWAY",
        "ALTER DATABASE NAME ALLOW_CONNECTIONS true",
    ),
];

#[test]
fn a_server_that_refuses_for_a_while_is_answered_for_and_nothing_known_is_forgotten() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    for (name, fault, mended) in FAULTS {
        let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
        let database = cluster.database();
        let server = start(folder.path(), &cluster.text(&database));
        let api = Api::new(&server.base, TOKEN);
        api.endpoint(&receiver.url("/slow/500"), r#"{"rate_limit":"unlimited"}"#);
        assert_eq!(
            api.post("/events", r#"{"type":"a.b","data":1,"id":"before"}"#)
                .status,
            202
        );
        until("it is in flight", Duration::from_secs(10), || {
            receiver.got().len() == 1
        });
        let run = |sql: &str| {
            let url = cluster.text(&database);
            let name = url.rsplit('/').next().unwrap();
            let away = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            );
            for part in sql
                .replace("NAME", name)
                .replace("AWAY", &away)
                .split(" | ")
            {
                match part.starts_with("ALTER DATABASE") || part == away {
                    true => database::execute(&cluster.maintenance(), part),
                    false => database::execute(&database, part),
                }
            }
        };
        run(fault);
        let answer = api.post("/events", r#"{"type":"a.b","data":2,"id":"during"}"#);
        assert_eq!(
            (answer.status, answer.problem()),
            (503, "unavailable"),
            "{name}: {}",
            answer.body
        );
        assert!(answer.headers.contains_key("retry-after"), "{name}");
        assert_eq!(
            api.try_request("GET", "/readyz", &[], None).unwrap().status,
            503,
            "{name}"
        );
        std::thread::park_timeout(Duration::from_millis(1500));
        run(mended);
        until("it takes events again", Duration::from_secs(20), || {
            api.post("/events", r#"{"type":"a.b","data":2,"id":"during"}"#)
                .status
                < 300
        });
        until("all is delivered", Duration::from_secs(20), || {
            let sql = "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'";
            database::number(&database, sql) == 2
        });
        assert_eq!(
            receiver.got().len(),
            2,
            "{name}: the outcome that was known is not forgotten"
        );
        until("it is ready again", Duration::from_secs(20), || {
            api.try_request("GET", "/readyz", &[], None).unwrap().status == 200
        });
        let (status, log) = server.terminate();
        assert!(status.success(), "{name}: {log}");
    }
}

/// All connections that read wait for somebody's lock: nobody is made to wait with them for long.
#[test]
fn a_pool_that_is_used_up_means_503_and_no_restart() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let server = start(folder.path(), &cluster.text(&database));
    let api = Api::new(&server.base, TOKEN);
    api.endpoint(&receiver.url("/ok"), r#"{"rate_limit":"unlimited"}"#);
    let url = cluster.text(&database);
    let locker = std::thread::spawn(move || {
        let place: postrider::config::DatabaseUrl = url.parse().unwrap();
        database::execute(
            &place,
            "BEGIN; LOCK TABLE webhook_deliveries, webhook_endpoints IN ACCESS EXCLUSIVE MODE; \
             SELECT pg_sleep(18); COMMIT",
        );
    });
    std::thread::park_timeout(Duration::from_millis(500));
    let asked = Instant::now();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let ask = || Api::new(&server.base, TOKEN).get("/endpoints").status;
        let asks: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert_eq!(answers, [503; 8]);
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(
        api.try_request("GET", "/healthz", &[], None)
            .unwrap()
            .status,
        200
    );
    locker.join().unwrap();
    until("it takes events again", Duration::from_secs(20), || {
        api.post("/events", r#"{"type":"a.b","data":2,"id":"after"}"#)
            .status
            < 300
    });
    until("it is delivered", Duration::from_secs(20), || {
        receiver.got().len() == 1
    });
    assert_eq!(api.get("/endpoints").status, 200);
}

/// The connection to the database is encrypted and its server verified where the URL says so.
#[test]
fn tls_to_the_database_is_verified() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let root = folder.path().join("root.crt");
    std::fs::write(&root, cert.pem()).unwrap();
    let Some(cluster) = Cluster::with_tls(&cert.pem(), &signing_key.serialize_pem()) else {
        return;
    };
    let database = cluster.database();
    let verified = |host: &str| {
        let url = cluster.text(&database).replace("127.0.0.1", host);
        format!("{url}?sslmode=verify-full&sslrootcert={}", root.display())
    };
    let server = start(folder.path(), &verified("localhost"));
    let api = Api::new(&server.base, TOKEN);
    api.endpoint(&receiver.url("/ok"), "{}");
    assert_eq!(
        api.post("/events", r#"{"type":"a.b","data":1}"#).status,
        202
    );
    until("it is delivered", Duration::from_secs(10), || {
        receiver.got().len() == 1
    });
    let encrypted = "SELECT count(*) AS n FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE datname = current_database() AND pid <> pg_backend_pid() AND NOT ssl";
    assert_eq!(database::number(&database, encrypted), 0);
    // Another name than the certificate's.
    let mut wrong = serve(folder.path(), &["--node-name", "wrong"]);
    let wrong = wrong
        .env("POSTRIDER_DATABASE_URL", verified("127.0.0.1"))
        .env("POSTRIDER_API_TOKEN", TOKEN);
    let text = String::from_utf8_lossy(&wrong.output().unwrap().stderr).into_owned();
    assert!(text.contains("certificate"), "{text}");
}
