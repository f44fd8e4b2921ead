//! A network of this test's own, in which metadata and private addresses really listen: nothing
//! arrives there, by whatever way somebody tries.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::api::Api;
use crate::support::namespace::{A, Says, is_inside, name_server, run_inside};
use crate::support::server::{Server, serve};
use crate::support::until;

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

#[test]
fn nothing_arrives_at_a_closed_address_by_any_way() {
    let addresses = [
        METADATA.into(),
        PRIVATE.into(),
        PUBLIC.into(),
        IpAddr::from(METADATA_V6),
    ];
    let resolv_conf = "nameserver 127.0.0.1\nsearch inside.example\noptions ndots:5\n";
    let hosts = format!("127.0.0.1 localhost\n{PRIVATE} in-hosts.example\n");
    run_inside(
        "process::namespace::inside",
        &addresses,
        resolv_conf,
        &hosts,
    );
}

/// Counts who connects.
fn listen(address: impl Into<IpAddr>, port: u16) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(SocketAddr::new(address.into(), port)).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    count
}

/// A receiver at the public address: each connection gets one answer. `/redirect` sends elsewhere.
fn public_receiver() -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((PUBLIC, 80)).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap())
                .lines()
                .map_while(Result::ok);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = if head.first().is_some_and(|line| line.contains("/redirect")) {
                format!("HTTP/1.1 307 Elsewhere\r\nlocation: http://{METADATA}/latest/\r\n")
            } else {
                "HTTP/1.1 200 OK\r\n".to_owned()
            };
            let _ = connection.write_all(
                format!("{answer}content-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
            );
        }
    });
    count
}

/// What names answer. Until it is armed, only public addresses.
fn names(armed: Arc<AtomicBool>) -> impl Fn(&str, u16) -> Says {
    let asked = AtomicUsize::new(0);
    move |name, kind| {
        let armed = armed.load(Ordering::SeqCst);
        let flips =
            (kind == A && name == "flip.example").then(|| asked.fetch_add(1, Ordering::SeqCst));
        Says::Addresses(match name {
            "public.example" => vec![PUBLIC.into()],
            "flip.example" if armed && flips.is_some_and(|count| count % 2 == 1) => {
                vec![METADATA.into()]
            }
            "flip.example" => vec![PUBLIC.into()],
            "meta.example" | "metadata.inside.example" if armed => vec![METADATA.into()],
            "private.example" if armed => vec![PRIVATE.into()],
            "mixed.example" if armed => vec![PUBLIC.into(), METADATA.into()],
            "mapped.example" if armed => vec![METADATA.to_ipv6_mapped().into()],
            "six.example" if armed => vec![METADATA_V6.into()],
            _ => Vec::new(),
        })
    }
}

fn start(folder: &Path, arguments: &[&str]) -> Server {
    let mut command = serve(folder, arguments);
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env(name, format!("http://{PRIVATE}:3128"));
    }
    Server::spawn(folder, command)
}

/// How often each (endpoint, outcome) came about, once every delivery has ended.
fn outcomes(api: &Api) -> BTreeMap<(String, String), usize> {
    let mut deliveries = Vec::new();
    until("all have ended", Duration::from_secs(60), || {
        deliveries = api.get("/deliveries?limit=250").body["data"]
            .as_array()
            .unwrap()
            .clone();
        deliveries
            .iter()
            .all(|one| one["status"] == "delivered" || one["status"] == "failed")
    });
    let mut found = BTreeMap::new();
    for delivery in deliveries {
        let shown = api
            .get(&format!("/deliveries/{}", delivery["id"].as_str().unwrap()))
            .body;
        let attempt = &shown["attempts"][0];
        let shows = attempt["error"].to_string();
        assert!(
            !shows.contains("169.254") && !shows.contains("10.9.8"),
            "its class, not the address: {shows}"
        );
        let of = delivery["event_type"].as_str().unwrap().to_owned();
        *found
            .entry((of, attempt["outcome"].as_str().unwrap().to_owned()))
            .or_default() += 1;
    }
    found
}

#[test]
#[ignore = "run by the test above, inside its namespace"]
fn inside() {
    if !is_inside() {
        return;
    }
    let closed = [
        listen(METADATA, 80),
        listen(PRIVATE, 80),
        listen(PRIVATE, 3128),
        listen(METADATA_V6, 80),
        listen(Ipv4Addr::LOCALHOST, 80),
    ];
    let arrived = || {
        closed
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect::<Vec<_>>()
    };
    let public = public_receiver();
    let armed = Arc::new(AtomicBool::new(false));
    name_server(
        SocketAddr::from(([127, 0, 0, 1], 53)),
        names(Arc::clone(&armed)),
    );

    // Literals in an endpoint that was written while they were open, and are sent to when they are
    // not.
    let folder = tempfile::tempdir().unwrap();
    let server = start(
        folder.path(),
        &[
            "--allow-network",
            "169.254.169.254/32,10.0.0.0/8,fd00::/8,fd00:ec2::254/128",
        ],
    );
    let api = server.api();
    let settings = |name: &str| {
        json!({
        "event_types": [name], "retry_delays_s": [], "rate_limit": "unlimited", "concurrency": 4, "breaker_after": 0
    }).to_string()
    };
    let mut literals = Vec::new();
    for url in [
        format!("http://{METADATA}/"),
        format!("http://{PRIVATE}/"),
        format!("http://[{METADATA_V6}]/"),
    ] {
        let id = api.endpoint(&url, &settings("literal"));
        api.post(&format!("/endpoints/{id}/pause"), "");
        literals.push(id);
    }
    assert_eq!(
        api.post("/events", r#"{"type":"literal","data":1}"#).status,
        202
    );
    server.terminate();

    let server = start(folder.path(), &[]);
    let api = server.api();
    for id in literals {
        api.post(&format!("/endpoints/{id}/resume"), "");
    }
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.254.169.254.",
        "\u{ff11}\u{ff16}\u{ff19}.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "10.9.8.7",
        "127.1",
        "localhost",
        "in-hosts.example",
        "user:pass@public.example",
    ] {
        let refused = api.post(
            "/endpoints",
            &json!({"url": format!("http://{host}/")}).to_string(),
        );
        assert_eq!(
            (refused.status, refused.fields()),
            (422, vec!["url"]),
            "{host}: {}",
            refused.body
        );
    }
    let names = [
        "public", "flip", "meta", "private", "mixed", "mapped", "six",
    ];
    for name in names {
        api.endpoint(&format!("http://{name}.example/"), &settings(name));
    }
    api.endpoint("http://metadata/", &settings("search"));
    api.endpoint("http://public.example/redirect", &settings("redirect"));
    armed.store(true, Ordering::SeqCst);
    for name in names.into_iter().chain(["search", "redirect"]) {
        for _ in 0..10 {
            assert_eq!(
                api.post("/events", &json!({"type": name, "data": 1}).to_string())
                    .status,
                202
            );
        }
    }
    let outcomes = outcomes(&api);
    let count = |name: &str, outcome: &str| {
        outcomes
            .get(&(name.to_owned(), outcome.to_owned()))
            .copied()
            .unwrap_or_default()
    };
    for name in ["meta", "private", "mixed", "mapped", "six", "search"] {
        assert_eq!(count(name, "blocked_address"), 10, "{name}: {outcomes:?}");
    }
    assert_eq!(count("literal", "blocked_address"), 3, "{outcomes:?}");
    assert_eq!(count("redirect", "rejected"), 10, "{outcomes:?}");
    let (through, blocked) = (count("flip", "delivered"), count("flip", "blocked_address"));
    assert!(
        through + blocked == 10 && through > 0 && blocked > 0,
        "{outcomes:?}"
    );
    // The control: what may arrive does, and is seen.
    assert_eq!(count("public", "delivered"), 10, "{outcomes:?}");
    assert_eq!(public.load(Ordering::SeqCst), 20 + through);
    assert_eq!(
        arrived(),
        [0; 5],
        "metadata, private, proxy, metadata by IPv6, loopback"
    );
}
