//! Receivers that do everything wrong, a thousand attempts at once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::postgres::Cluster;
use crate::support::raw::listen;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, serve};
use crate::support::until;

const TIMEOUT_MS: u64 = 3000;
const AT_ONCE: usize = 100;
const ROUNDS: usize = 4;

/// How a receiver behaves once it is connected to, and how that is to be told.
struct Kind {
    name: &'static str,
    outcome: &'static str,
    behave: fn(TcpStream),
}

const KINDS: &[Kind] = &[
    Kind {
        name: "resets",
        outcome: "protocol_error",
        behave: |stream| {
            read_head(&stream);
            // What was not read makes the kernel send a reset.
            drop(stream);
        },
    },
    Kind {
        name: "half_closes",
        outcome: "protocol_error",
        behave: |stream| {
            let _ = stream.shutdown(Shutdown::Write);
            read_all(stream);
        },
    },
    Kind {
        name: "trickles_its_head",
        outcome: "timeout",
        behave: |mut stream| {
            read_head(&stream);
            for byte in b"HTTP/1.1 200 OK and so on".iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        },
    },
    Kind {
        name: "trickles_its_body",
        outcome: "delivered",
        behave: |mut stream| {
            read_head(&stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
            while stream.write_all(b".").is_ok() {
                std::thread::sleep(Duration::from_secs(1));
            }
        },
    },
    Kind {
        name: "never_ends",
        outcome: "delivered",
        behave: |mut stream| {
            read_head(&stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            while stream.write_all(chunk.as_bytes()).is_ok() {}
        },
    },
    Kind {
        name: "talks_nonsense",
        outcome: "protocol_error",
        behave: |mut stream| {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\0\0\0\x04\x0a\x14");
            read_all(stream);
        },
    },
    Kind {
        name: "says_nothing",
        outcome: "timeout",
        behave: |stream| read_all(stream),
    },
    Kind {
        name: "sends_a_large_header",
        outcome: "protocol_error",
        behave: |mut stream| {
            read_head(&stream);
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\nx-large: {}\r\ncontent-length: 0\r\n\r\n",
                "h".repeat(100_000)
            );
            let _ = stream.write_all(head.as_bytes());
            read_all(stream);
        },
    },
    Kind {
        name: "sends_a_head_without_end",
        outcome: "protocol_error",
        behave: |mut stream| {
            read_head(&stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            let line = format!("x-more: {}\r\n", "h".repeat(1000));
            while stream.write_all(line.as_bytes()).is_ok() {}
        },
    },
    Kind {
        name: "floods_with_interim_responses",
        outcome: "protocol_error",
        behave: |mut stream| {
            read_head(&stream);
            let heads = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
            while stream.write_all(heads.as_bytes()).is_ok() {}
        },
    },
    Kind {
        name: "answers_before_it_reads_the_body",
        outcome: "delivered",
        behave: |mut stream| {
            read_head(&stream);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
            std::thread::sleep(Duration::from_secs(1));
            read_all(stream);
        },
    },
];

fn read_head(stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let _ = lines.by_ref().take_while(|line| !line.is_empty()).count();
}

fn read_all(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let mut buffer = [0; 16 * 1024];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

/// A TLS server whose certificate nobody has signed but itself.
fn self_signed() -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = Arc::new(
        config
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap(),
    );
    listen(move |connection, _| {
        let stream = connection.stream;
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let _ = tls.read(&mut [0; 1024]);
    })
}

/// A process' memory in KiB: what it has (`VmRSS`), the most that it has had (`VmHWM`).
fn memory(server: &Server, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn each_is_told_rightly_and_on_time_and_memory_stays_flat() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = serve(
        folder.path(),
        &["--allow-network", "127.0.0.0/8", "--max-in-flight", "2000"],
    );
    // What is freed goes back to the system at once, so that what is resident is what is held.
    command.env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0");
    let server = Server::spawn(folder.path(), command);
    let api = server.api();
    let mut expected = BTreeMap::new();
    let mut add = |name: &str, url: String, outcome: &'static str| {
        // Larger than any socket's buffer where it must not fit, and small where the test's own
        // debug build would spend its time on signing.
        let wants = if name.ends_with("the_body") {
            "large"
        } else {
            "small"
        };
        let settings = json!({
            "event_types": [wants], "concurrency": AT_ONCE, "rate_limit": "unlimited", "retry_delays_s": [],
            "timeout_ms": TIMEOUT_MS, "breaker_after": 0,
        });
        expected.insert(
            api.endpoint(&url, &settings.to_string()),
            (name.to_owned(), outcome),
        );
    };
    for kind in KINDS {
        add(
            kind.name,
            format!(
                "http://{}/",
                listen(|connection, _| (kind.behave)(connection.stream))
            ),
            kind.outcome,
        );
    }
    add(
        "bad_certificate",
        format!("https://{}/", self_signed()),
        "tls_error",
    );

    let mut kept = vec![];
    for round in 0..ROUNDS {
        for (name, bytes) in [("small", 1000), ("large", 250_000)] {
            let event = json!({"type": name, "data": "x".repeat(bytes)});
            let batch = json!({"events": vec![event; AT_ONCE / 2]}).to_string();
            for _ in 0..2 {
                assert_eq!(api.post("/events/batch", &batch).status, 202);
            }
        }
        let (mut in_flight, mut ended) = (0, 0);
        until("all have ended", Duration::from_secs(60), || {
            let health: Vec<Value> = api.get("/endpoints").body["data"]
                .as_array()
                .unwrap()
                .clone();
            let sum = |field: &str| {
                health
                    .iter()
                    .map(|one| one["health"][field].as_u64().unwrap())
                    .sum::<u64>()
            };
            in_flight = in_flight.max(sum("sending"));
            ended = sum("pending") + sum("sending");
            ended == 0
        });
        kept.push(memory(&server, "VmRSS"));
        let peak = memory(&server, "VmHWM");
        eprintln!(
            "round {round}: {in_flight} in flight at once; KiB kept: {kept:?}, at most: {peak}"
        );
        assert!(peak < 400 * 1024, "{peak} KiB");
    }
    // How many attempts meet, and with them the peak, is chance; a leak is what does not come back.
    // A response's 16 KiB of each attempt would be 20 MiB a round.
    until(
        "the memory is as after the first round",
        Duration::from_secs(30),
        || memory(&server, "VmRSS") < kept[0] + kept[0] / 4,
    );
    let mut told: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut slowest: f64 = 0.0;
    for (endpoint, (name, _)) in &expected {
        let mut cursor = String::new();
        loop {
            let page = api
                .get(&format!(
                    "/deliveries?endpoint_id={endpoint}&limit=250{cursor}"
                ))
                .body;
            for delivery in page["data"].as_array().unwrap() {
                let shown = api
                    .get(&format!("/deliveries/{}", delivery["id"].as_str().unwrap()))
                    .body;
                let attempts = shown["attempts"].as_array().unwrap();
                assert_eq!(attempts.len(), 1, "{shown}");
                let outcome = attempts[0]["outcome"].as_str().unwrap().to_owned();
                *told.entry((name.clone(), outcome)).or_default() += 1;
                slowest = slowest.max(attempts[0]["duration_ms"].as_f64().unwrap());
                assert!(
                    attempts[0]["response_body"]
                        .as_str()
                        .is_none_or(|body| body.len() <= 16 * 1024)
                );
                assert!(attempts[0]["response_headers"].to_string().len() <= 20 * 1024);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    let all = expected
        .values()
        .map(|(name, outcome)| ((name.clone(), (*outcome).to_owned()), ROUNDS * AT_ONCE))
        .collect();
    assert_eq!(told, all);
    eprintln!("slowest attempt: {slowest:.0} ms");
    // The test's own thousand threads share two cores with the server.
    assert!(slowest < TIMEOUT_MS as f64 + 2000.0, "{slowest} ms");
}

/// The delays from publishing to arrival of some events, in milliseconds, sorted.
fn delays(api: &Api, receiver: &Receiver) -> Vec<u128> {
    let one = |_| {
        let before = receiver.got().len();
        let published = Instant::now();
        assert_eq!(
            api.post("/events", r#"{"type":"near","data":1}"#).status,
            202
        );
        while receiver.got().len() == before {
            assert!(published.elapsed() < Duration::from_secs(20), "it arrives");
            std::thread::sleep(Duration::from_millis(1));
        }
        published.elapsed().as_millis()
    };
    let mut all: Vec<u128> = (0..9).map(one).collect();
    all.sort_unstable();
    all
}

/// Endless interim responses to one endpoint made its neighbours wait for seconds.
#[test]
fn a_neighbour_of_each_hardly_waits() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let server = Server::start(
        folder.path(),
        &["--allow-network", "127.0.0.0/8", "--threads", "1"],
    );
    let api = server.api();
    let near = json!({"event_types": ["near"], "rate_limit": "unlimited"});
    api.endpoint(&receiver.url("/near"), &near.to_string());
    delays(&api, &receiver);
    let alone = delays(&api, &receiver);
    for kind in KINDS {
        let url = format!(
            "http://{}/",
            listen(|connection, _| (kind.behave)(connection.stream))
        );
        let settings = json!({
            "event_types": ["far"], "concurrency": 10, "rate_limit": "unlimited",
            "timeout_ms": TIMEOUT_MS, "breaker_after": 0, "retry_delays_s": [],
        });
        let far = api.endpoint(&url, &settings.to_string());
        let event = json!({"type": "far", "data": "x".repeat(1000)});
        let batch = json!({"events": vec![event; 300]}).to_string();
        assert_eq!(api.post("/events/batch", &batch).status, 202);
        let beside = delays(&api, &receiver);
        api.delete(&format!("/endpoints/{far}"));
        eprintln!("{}: {beside:?} ms, alone {alone:?}", kind.name);
        // Debug builds on shared cores are slow; a thread that is held stands still for seconds.
        assert!(
            beside[4] < 500,
            "{}: {beside:?} ms, alone {alone:?}",
            kind.name
        );
    }
}

/// Small requests that would be large work, or that a database cannot take.
#[test]
fn a_callers_tricks_are_refused_and_cost_its_neighbours_nothing() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let mut command = serve(folder.path(), &["--allow-network", "127.0.0.0/8"]);
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    command.env("POSTRIDER_DATABASE_URL", cluster.text(&cluster.database()));
    let token = "a-token-for-this-test-alone";
    command.env("POSTRIDER_API_TOKEN", token);
    let server = Server::spawn(folder.path(), command);
    let api = Api::new(&server.base, token);
    let ready = || api.try_request("GET", "/readyz", &[], None).unwrap().status;

    // A NUL, which Postgres takes in no text.
    let answer = api.post(
        "/events",
        r#"{"type":"a.b","data":1,"ordering_key":"a\u0000b"}"#,
    );
    assert_eq!(
        (answer.status, answer.fields()),
        (422, vec!["ordering_key"])
    );
    for (method, path) in [
        ("GET", "/endpoints/%00"),
        ("GET", "/deliveries/%00"),
        ("POST", "/deliveries/%00/retry"),
        ("DELETE", "/tokens/%00"),
        ("GET", "/events/%00"),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let answer = api
            .try_request(method, &format!("/api/v1{path}"), &headers, None)
            .unwrap();
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
    }
    assert_eq!(api.get("/deliveries?endpoint_id=%00").status, 422);
    assert_eq!(ready(), 200);

    // A batch of more than a million events in 16 MiB is not read to its end, nor answered one by
    // one.
    let empty = vec![r#"{"type":""}"#; 1_300_000].join(",");
    let answer = api.post("/events/batch", &format!(r#"{{"events":[{empty}]}}"#));
    assert_eq!(
        (answer.status, answer.fields()),
        (422, vec!["events"]),
        "{}",
        answer.text("detail")
    );
    let wrong = vec![r#"{"type":""}"#; 1000].join(",");
    let answer = api.post("/events/batch", &format!(r#"{{"events":[{wrong}]}}"#));
    assert_eq!((answer.status, answer.fields().len()), (422, 100));

    // Each key signs each attempt: there are at most ten older ones.
    let endpoint = api.endpoint(&receiver.url("/ok"), "{}");
    let rotate = || {
        api.post(
            &format!("/endpoints/{endpoint}/secret/rotate"),
            r#"{"grace_s":604800}"#,
        )
        .status
    };
    let answers: Vec<u16> = (0..12).map(|_| rotate()).collect();
    assert_eq!(
        answers,
        [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 409, 409]
    );
    let leaked = api.post(
        &format!("/endpoints/{endpoint}/secret/rotate"),
        r#"{"grace_s":0}"#,
    );
    assert_eq!(leaked.status, 200, "a leaked secret can always be replaced");
    assert_eq!(
        api.get(&format!("/endpoints/{endpoint}/secret")).body["older"],
        json!([])
    );
}
