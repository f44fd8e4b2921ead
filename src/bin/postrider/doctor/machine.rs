//! Whether the machine is fit: its time, names, ports and files.

use std::io::ErrorKind;
use std::net::{TcpListener, ToSocketAddrs as _};
use std::time::{Duration, SystemTime};

use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::clock::{Clock as _, SystemClock};
use postrider::inspect_at;

use super::Check;
use crate::settings::Settings;

/// How far two clocks may be apart. Receivers refuse what is signed five minutes off.
const APART_S: i64 = 30;

/// How long a lookup may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// Fewer files than this are soon used up: each connection is one.
const FEW_FILES: u64 = 4096;

/// This machine's time against the database's, or a running server's.
pub(super) fn clock(settings: &Settings, date: Option<&str>) -> Check {
    let now = SystemClock::new().now().as_seconds();
    let database = match settings.database() {
        Ok(url @ DatabaseUrl::Postgres(_)) => inspect_at(&url).ok().and_then(|found| found.time),
        _ => None,
    };
    let of_server = || {
        let date = httpdate::parse_http_date(date?).ok()?;
        i64::try_from(date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()
    };
    let (whose, other) = match (database, of_server()) {
        (Some(time), _) => ("the database", time.as_seconds()),
        (None, Some(time)) => ("the running server", time),
        (None, None) => return Check::note("clock", "nothing to compare it with"),
    };
    let apart = now - other;
    if apart.abs() <= APART_S {
        return Check::ok(
            "clock",
            format!("as {whose} has it, within {} s", apart.abs().max(1)),
        );
    }
    Check::wrong(
        "clock",
        format!(
            "{} s {} {whose}",
            apart.abs(),
            if apart > 0 { "ahead of" } else { "behind" }
        ),
        "synchronise both (NTP): receivers refuse signatures that are minutes off",
    )
}

/// Whether names can be looked up. On a thread that may take its time: nothing waits for it.
pub(super) async fn names(name: &str) -> Check {
    let (told, hear) = tokio::sync::oneshot::channel();
    let asked = (name.to_owned(), 443);
    std::thread::spawn(move || told.send(asked.to_socket_addrs().map(Iterator::count)));
    let found = match tokio::time::timeout(LOOKUP, hear).await {
        Ok(Ok(Ok(count))) if count > 0 => return Check::ok("names", format!("{name} resolves")),
        Ok(Ok(Err(error))) => format!("{name} does not resolve: {error}"),
        Ok(_) => format!("{name} has no address"),
        Err(_) => format!("no answer about {name} within {} s", LOOKUP.as_secs()),
    };
    Check::wrong(
        "names",
        found,
        "check the name servers (/etc/resolv.conf) and the network; --resolve NAME asks for another name",
    )
}

/// Whether the server could listen, or does so already.
pub(super) fn port(settings: &Settings, ours: bool) -> Check {
    let address = match settings.address() {
        Ok(address) => address,
        Err(error) => {
            return Check::wrong(
                "port",
                format!("{error:#}"),
                "write `listen` as 127.0.0.1:8400",
            );
        }
    };
    match TcpListener::bind(address) {
        Ok(_) => Check::ok("port", format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && ours => {
            Check::ok("port", format!("{address} is in use by a Postrider"))
        }
        Err(error) => Check::wrong(
            "port",
            format!("cannot listen on {address}: {error}"),
            "choose another by --listen, or end the program that holds it",
        ),
    }
}

/// Whether there are files enough for as many connections as are to be in flight.
pub(super) fn file_limit(config: &EngineConfig) -> Check {
    let most = config.max_in_flight;
    #[cfg(unix)]
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let found = format!("{limit} files may be open, {most} attempts in flight");
        return if limit < FEW_FILES {
            Check::note(
                "files",
                format!("{found}: raise it for more (`ulimit -n`, LimitNOFILE=)"),
            )
        } else {
            Check::ok("files", found)
        };
    }
    Check::ok("files", format!("no limit, {most} attempts in flight"))
}
