//! Checks of the machine: its clock, DNS, port and file limit.

use std::io::ErrorKind;
use std::net::{TcpListener, ToSocketAddrs as _};
use std::time::{Duration, SystemTime};

use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::clock::Clock as _;
use postrider::ports::SystemClock;
use postrider::schema::inspect_at;

use super::check::Check;
use crate::settings::ServerSettings;

/// Tolerated difference of two clocks. Receivers reject timestamps that are five minutes off.
const MAX_CLOCK_DIFFERENCE_S: i64 = 30;

/// Time limit of a DNS lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// File limits below this are worth raising: every connection uses a file descriptor.
const LOW_FILE_LIMIT: u64 = 4096;

/// Compares this machine's clock with the database's, or with a running server's.
pub(super) fn clock(settings: &ServerSettings, date: Option<&str>) -> Check {
    let now = SystemClock::new().now().as_seconds();
    let database = match settings.database() {
        Ok(url @ DatabaseUrl::Postgres(_)) => inspect_at(&url).ok().and_then(|found| found.time),
        _ => None,
    };
    let (reference, time) = match (database, date.and_then(unix_seconds)) {
        (Some(time), _) => ("the database", time.as_seconds()),
        (None, Some(time)) => ("the running server", time),
        (None, None) => {
            return Check::note(
                "clock",
                "not checked: no running server or database server to compare it with",
            );
        }
    };
    let difference = now - time;
    if difference.abs() <= MAX_CLOCK_DIFFERENCE_S {
        let within = difference.abs().max(1);
        return Check::ok("clock", format!("within {within} s of {reference}"));
    }
    let direction = if difference > 0 { "ahead of" } else { "behind" };
    Check::wrong(
        "clock",
        format!("{} s {direction} {reference}", difference.abs()),
        "synchronise both clocks (NTP): receivers reject signatures with a timestamp five minutes off",
    )
}

/// Converts an HTTP date to Unix seconds.
fn unix_seconds(date: &str) -> Option<i64> {
    let date = httpdate::parse_http_date(date).ok()?;
    i64::try_from(date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Looks a host name up, on a thread of its own: the system's resolver cannot be cancelled.
pub(super) async fn names(name: &str) -> Check {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let host = (name.to_owned(), 443);
    std::thread::spawn(move || sender.send(host.to_socket_addrs().map(Iterator::count)));
    let found = match tokio::time::timeout(LOOKUP_TIMEOUT, receiver).await {
        Ok(Ok(Ok(count))) if count > 0 => return Check::ok("names", format!("{name} resolves")),
        Ok(Ok(Err(error))) => format!("{name} does not resolve: {error}"),
        Ok(_) => format!("{name} resolves to no address"),
        Err(_) => format!(
            "the lookup of {name} timed out after {} s",
            LOOKUP_TIMEOUT.as_secs()
        ),
    };
    Check::wrong(
        "names",
        found,
        "check the name servers (/etc/resolv.conf) and the network; to look up another name, use --resolve NAME",
    )
}

/// Checks that the port is free, or in use by a running Postrider.
pub(super) fn port(settings: &ServerSettings, is_postrider: bool) -> Check {
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
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_postrider => Check::ok(
            "port",
            format!("{address} is in use by a running Postrider"),
        ),
        Err(error) => Check::wrong(
            "port",
            format!("cannot listen on {address}: {error}"),
            "choose another with --listen, or stop the program that uses it",
        ),
    }
}

/// Compares the file limit with the number of attempts in flight.
pub(super) fn file_limit(config: &EngineConfig) -> Check {
    let attempts = config.max_in_flight;
    #[cfg(unix)]
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let found = format!("limit {limit} open files, up to {attempts} attempts in flight");
        return if limit < LOW_FILE_LIMIT {
            Check::note(
                "files",
                format!("{found}; for more, raise the limit (`ulimit -n`, LimitNOFILE=)"),
            )
        } else {
            Check::ok("files", found)
        };
    }
    Check::ok(
        "files",
        format!("no limit on open files, up to {attempts} attempts in flight"),
    )
}
