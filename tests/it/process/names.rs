//! Names as the system resolves them: docs/receivers-and-networks.md, line by line, in a network of
//! the test's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::namespace::{AAAA, Says, is_inside, name_server, rewrite, run_inside};
use crate::support::raw::{OK, listen_at};
use crate::support::server::Server;
use crate::support::until;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where NAT64 leads, by a prefix that this network alone has, and the address that is meant.
const TRANSLATED: &str = "2a00:1:2::808:404";
const TRANSLATED_METADATA: &str = "2a00:1:2::a9fe:a9fe";
const PORT: u16 = 8404;

const RESOLV_CONF: &str =
    "nameserver 127.0.0.1\nsearch ns.svc.test svc.test bad..domain\noptions ndots:5\n";
const HOSTS: &str = "127.0.0.1 localhost\n127.0.0.1 in-hosts.test\n";

#[test]
fn names_resolve_as_the_systems_do() {
    let addresses: [IpAddr; 2] =
        [TRANSLATED, TRANSLATED_METADATA].map(|address| address.parse().unwrap());
    run_inside("process::names::inside", &addresses, RESOLV_CONF, HOSTS);
}

/// Counts requests at a port of an address.
fn receiver(address: &str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let note = Arc::clone(&count);
    listen_at(
        SocketAddr::new(address.parse().unwrap(), PORT),
        move |mut connection, _| {
            while connection.request().is_some() {
                note.fetch_add(1, Ordering::SeqCst);
                connection.send(OK);
            }
        },
    );
    count
}

fn here() -> Says {
    Says::Addresses(vec![HERE.into()])
}

/// The name server of this network.
fn zone(
    moves_to: Arc<Mutex<Ipv4Addr>>,
    silent: Arc<AtomicBool>,
) -> impl Fn(&str, u16) -> Says + Send {
    let appears = AtomicUsize::new(0);
    move |name, kind| match name {
        "dropped.test" if kind == AAAA => Says::Nothing,
        "dropped.test" | "my_receiver.test" | "short.ns.svc.test" | "other.ns.svc.test" => here(),
        "slow.test" => Says::Late(Duration::from_millis(2500), Box::new(here())),
        "appears.test" if appears.fetch_add(1, Ordering::SeqCst) >= 4 => here(),
        "half.test" if kind == AAAA => Says::Nothing,
        "refused.test" => Says::Addresses(vec![Ipv4Addr::new(127, 0, 0, 9).into(), HERE.into()]),
        "moves.test" => Says::Addresses(vec![(*moves_to.lock().unwrap()).into()]),
        "ipv4only.arpa" => Says::Addresses(vec!["2a00:1:2::c000:aa".parse().unwrap()]),
        "translated.test" => Says::Addresses(vec![TRANSLATED.parse().unwrap()]),
        "inner.test" => Says::Addresses(vec![TRANSLATED_METADATA.parse().unwrap()]),
        _ if name.ends_with("silent.test") && silent.load(Ordering::SeqCst) => Says::Nothing,
        _ if name.ends_with("silent.test") => here(),
        _ => Says::NoSuchName,
    }
}

struct World {
    api: Api,
}

impl World {
    fn endpoint(&self, host: &str, tenant: &str, more: Value) {
        let mut settings = json!({
            "rate_limit": "unlimited", "retry_delays_s": [], "breaker_after": 0, "tenant": tenant,
            "timeout_ms": 20_000
        });
        settings
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap_or_default());
        self.api
            .endpoint(&format!("http://{host}:{PORT}/"), &settings.to_string());
    }

    fn publish(&self, tenant: &str) -> String {
        let event = json!({"type": "a.b", "tenant": tenant, "data": 1}).to_string();
        let answer = self.api.post("/events", &event);
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["deliveries"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn ended(&self, id: &str) -> Value {
        let mut shown = Value::Null;
        until("it has ended", Duration::from_secs(40), || {
            shown = self.api.get(&format!("/deliveries/{id}")).body;
            shown["status"] == "delivered" || shown["status"] == "failed"
        });
        shown
    }

    /// What each attempt at a host came to, which gets a tenant of its own.
    fn outcomes_of(&self, host: &str, more: Value) -> Vec<String> {
        let tenant = host.replace('.', "-");
        self.endpoint(host, &tenant, more);
        let shown = self.ended(&self.publish(&tenant));
        let attempts = shown["attempts"].as_array().unwrap().iter();
        attempts
            .map(|one| one["outcome"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
#[ignore = "run by the test above, inside its namespace"]
fn inside() {
    if !is_inside() {
        return;
    }
    let silent = Arc::new(AtomicBool::new(false));
    let moves_to = Arc::new(Mutex::new(HERE));
    let first = SocketAddr::from(([127, 0, 0, 1], 53));
    let asked = name_server(first, zone(Arc::clone(&moves_to), Arc::clone(&silent)));
    let (here, moved, translated) = (
        receiver("127.0.0.1"),
        receiver("127.0.0.3"),
        receiver(TRANSLATED),
    );
    let metadata = receiver(TRANSLATED_METADATA);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--connection-lifetime", "1s"]);
    let world = World { api: server.api() };
    let delivered = ["delivered"];

    // Search domains and ndots, underscores, a family that is never answered, the hosts file.
    for host in [
        "short",
        "other.ns",
        "my_receiver.test",
        "dropped.test",
        "in-hosts.test",
        "refused.test",
    ] {
        assert_eq!(world.outcomes_of(host, json!({})), delivered, "{host}");
    }
    assert_eq!(here.load(Ordering::SeqCst), 6);
    let was_asked = |name: &str| asked.lock().unwrap().iter().any(|(one, _)| one == name);
    assert!(was_asked("short.ns.svc.test") && was_asked("other.ns.ns.svc.test"));
    assert!(
        !was_asked("in-hosts.test"),
        "nobody is asked for what the hosts file has"
    );

    // A name that does not exist is no matter for the other family.
    assert_eq!(world.outcomes_of("half.test", json!({})), ["dns_error"]);
    // A slow name server has the endpoint's own deadline.
    assert_eq!(world.outcomes_of("slow.test", json!({})), delivered);
    // A name that appears is there for the next retry.
    let outcomes = world.outcomes_of("appears.test", json!({"retry_delays_s": [1, 1]}));
    assert_eq!(outcomes, ["dns_error", "delivered"]);

    // NAT64 by a prefix that this network tells of: what is judged is the address that is meant.
    assert_eq!(world.outcomes_of("translated.test", json!({})), delivered);
    let event = json!({"url": format!("http://inner.test:{PORT}/")}).to_string();
    let refused = world.api.post("/endpoints", &event);
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["url"]),
        "{}",
        refused.body
    );
    assert_eq!(
        (
            translated.load(Ordering::SeqCst),
            metadata.load(Ordering::SeqCst)
        ),
        (1, 0)
    );

    // A receiver that moves is followed although its connection is never idle.
    world.endpoint("moves.test", "moves", json!({}));
    world.ended(&world.publish("moves"));
    *moves_to.lock().unwrap() = Ipv4Addr::new(127, 0, 0, 3);
    until("the new address is used", Duration::from_secs(30), || {
        world.ended(&world.publish("moves"));
        moved.load(Ordering::SeqCst) > 0
    });

    // Names whose servers are silent cost their own tenant's, and not even its other names.
    for number in 0..60 {
        world.endpoint(&format!("n{number}.silent.test"), "dead", json!({}));
    }
    world.endpoint("my_receiver.test", "alive", json!({}));
    silent.store(true, Ordering::SeqCst);
    asked.lock().unwrap().clear();
    let dead = world.publish("dead");
    until("they are asked for", Duration::from_secs(10), || {
        asked.lock().unwrap().len() >= 32
    });
    for _ in 0..5 {
        let shown = world.ended(&world.publish("alive"));
        let dns = shown["attempts"][0]["timings_ms"]["dns"].as_f64();
        assert!(
            shown["status"] == "delivered" && dns.is_none_or(|dns| dns < 1000.0),
            "{shown}"
        );
    }
    let waits = world.api.get(&format!("/deliveries/{dead}")).body;
    assert_eq!(
        waits["status"], "sending",
        "the silent ones still wait: {waits}"
    );

    // Another name server, and another hosts file, while the server runs.
    let second = SocketAddr::from(([127, 0, 0, 2], 53));
    name_server(second, |name, _| match name {
        "elsewhere.test" => Says::Addresses(vec![HERE.into()]),
        _ => Says::NoSuchName,
    });
    assert_eq!(
        world.outcomes_of("elsewhere.test", json!({})),
        ["dns_error"]
    );
    rewrite(Path::new("/etc/resolv.conf"), "nameserver 127.0.0.2\n");
    world.endpoint("elsewhere.test", "again", json!({}));
    assert_eq!(world.ended(&world.publish("again"))["status"], "delivered");
    rewrite(
        Path::new("/etc/hosts"),
        "127.0.0.1 localhost\n# Caf\u{e9}\n127.0.0.1 new-in-hosts.test\n",
    );
    assert_eq!(world.outcomes_of("new-in-hosts.test", json!({})), delivered);
    // The hosts file answers where no name server does.
    rewrite(Path::new("/etc/resolv.conf"), "# none\n");
    world.endpoint("new-in-hosts.test", "alone", json!({}));
    assert_eq!(world.ended(&world.publish("alone"))["status"], "delivered");
}
