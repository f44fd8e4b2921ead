//! Opens connections: resolves a name, checks all of its addresses, tries them in turn, adds TLS.
//!
//! A connection only goes to an address that was checked here, even if the name resolves to another
//! one a moment later.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Aborted, abortable};
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::connection::{ConnectionInfo, MeteredStream, UnderlyingStream};
use super::context::AttemptContext;
use super::guard::{AddressPolicy, Blocked};
use super::resolver::Resolve;

/// Delay before the next address of a name is tried (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Maximum addresses tried at once, per attempt, and for all attempts together beyond the first one
/// of each: each try takes a file descriptor.
const MAX_CONNECTING: usize = 8;
const MAX_EXTRA: usize = 256;

/// Variation of a connection's lifetime, so that those opened together do not end together.
const LIFETIME_JITTER: f64 = 0.2;

/// A reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The name did not resolve.
    #[error("{0}")]
    Name(String),
    /// Webhooks may not be sent to an address.
    #[error("{0}")]
    Blocked(Blocked),
    /// No address accepted a connection.
    #[error("{0}")]
    Tcp(io::Error),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(io::Error),
    /// The attempt's deadline passed.
    #[error("the deadline passed while connecting")]
    Deadline,
    /// The client asked for a connection outside an attempt.
    #[error("a connection was requested outside an attempt: this is a defect, please report it")]
    NoAttempt,
}

/// Opens connections for the client.
#[derive(Clone)]
pub(super) struct Connector {
    policy: Arc<AddressPolicy>,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
    lifetime: Duration,
    extra: Arc<Semaphore>,
}

impl Connector {
    pub(super) fn new(
        policy: Arc<AddressPolicy>,
        resolver: Arc<dyn Resolve>,
        tls: TlsConnector,
        lifetime: Duration,
    ) -> Self {
        Self {
            policy,
            resolver,
            tls,
            lifetime,
            extra: Arc::new(Semaphore::new(MAX_EXTRA)),
        }
    }

    async fn connect(
        self,
        uri: Uri,
        attempt: &AttemptContext,
    ) -> Result<MeteredStream, ConnectError> {
        let host = uri.host().unwrap_or_default();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses = self.judged_addresses(host, attempt).await?;
        let addresses = in_turn(addresses)
            .into_iter()
            .map(|address| SocketAddr::new(address, port));
        let tcp = connect_any(addresses.collect(), &self.extra)
            .await
            .map_err(ConnectError::Tcp)?;
        let remote = tcp.peer_addr().map_err(ConnectError::Tcp)?;
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let io = if is_tls {
            let name = server_name(host).map_err(ConnectError::Tls)?;
            let session = self
                .tls
                .connect(name, tcp)
                .await
                .map_err(ConnectError::Tls)?;
            UnderlyingStream::Tls(Box::new(session))
        } else {
            UnderlyingStream::Plain(tcp)
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "no result of a delivery depends on it"
        )]
        let jitter = 1.0 + LIFETIME_JITTER * (2.0 * rand::random::<f64>() - 1.0);
        let retire_at = Instant::now() + self.lifetime.mul_f64(jitter);
        let info = ConnectionInfo::new(attempt.id, remote, retire_at);
        Ok(MeteredStream::new(io, Arc::new(info)))
    }

    /// Returns the addresses of a host, all of them checked.
    async fn judged_addresses(
        &self,
        host: &str,
        attempt: &AttemptContext,
    ) -> Result<Vec<IpAddr>, ConnectError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            if address.is_ipv6() {
                // Only the network can tell if NAT64 translates it to an IPv4 address.
                self.policy
                    .learn_nat64(self.resolver.nat64_prefixes().await);
            }
            self.policy
                .check_address(address)
                .map_err(ConnectError::Blocked)?;
            return Ok(vec![address]);
        }
        let found = self
            .resolver
            .lookup(host.to_owned(), attempt.tenant.clone())
            .await;
        let addresses = found.map_err(ConnectError::Name)?;
        attempt.note_resolved();
        if addresses.iter().any(IpAddr::is_ipv6) {
            self.policy
                .learn_nat64(self.resolver.nat64_prefixes().await);
        }
        self.policy
            .check_resolved(host, &addresses)
            .map_err(ConnectError::Blocked)?;
        Ok(addresses)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<MeteredStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        let attempt = AttemptContext::current();
        Box::pin(async move {
            let attempt = attempt.ok_or(ConnectError::NoAttempt)?;
            // The client may continue connecting in the background, but only until the attempt's
            // deadline.
            let connected = timeout_at(attempt.deadline, connector.connect(uri, &attempt)).await;
            let stream = connected.map_err(|_| ConnectError::Deadline)??;
            attempt.note_connected();
            Ok(TokioIo::new(stream))
        })
    }
}

/// Returns the name that the certificate must be valid for: without a final dot (RFC 6066,
/// section 3).
fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.');
    ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Orders addresses with alternating families, IPv6 first (RFC 8305, section 4).
fn in_turn(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(IpAddr::is_ipv6);
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    while let Some(address) = first.pop_front() {
        ordered.push(address);
        if !second.is_empty() {
            std::mem::swap(&mut first, &mut second);
        }
    }
    ordered.extend(second);
    ordered
}

/// Connects to the first address that answers. The next one is tried 250 ms after the last one, or
/// as soon as that has failed (RFC 8305, section 5). At the limit of simultaneous tries, or without
/// a permit of `extra`, the oldest try is aborted.
async fn connect_any(addresses: Vec<SocketAddr>, extra: &Semaphore) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut connecting = FuturesUnordered::new();
    let mut tries: VecDeque<AbortHandle> = VecDeque::new();
    let mut failed: Option<io::Error> = None;
    loop {
        if let Some(address) = waiting.next() {
            // The first try needs no permit, so every attempt can connect.
            let place = if connecting.is_empty() {
                None
            } else {
                extra.try_acquire().ok()
            };
            let is_full =
                connecting.len() >= MAX_CONNECTING || (place.is_none() && !connecting.is_empty());
            if is_full && let Some(oldest) = tries.pop_front() {
                oldest.abort();
            }
            let (connect, handle) = abortable(TcpStream::connect(address));
            tries.push_back(handle);
            connecting.push(async move {
                let connected = connect.await;
                drop(place);
                connected
            });
        }
        let ended = if waiting.len() > 0 {
            match timeout(ATTEMPT_DELAY, connecting.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        } else {
            connecting.next().await
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => failed = Some(more_telling(failed, error)),
            Some(Err(Aborted)) => {}
            None => {
                let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                return Err(failed.unwrap_or_else(nothing));
            }
        }
    }
}

/// Returns the more informative of two errors: a family without a route says nothing about the
/// receiver.
fn more_telling(before: Option<io::Error>, error: io::Error) -> io::Error {
    let no_route = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable
        )
    };
    match before {
        Some(before) if !no_route(&before) => before,
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let mixed = addresses(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "2606::1", "2606::2"]);
        let ordered = addresses(&["2606::1", "1.1.1.1", "2606::2", "1.1.1.2", "1.1.1.3"]);
        assert_eq!(in_turn(mixed), ordered);
        assert_eq!(
            in_turn(addresses(&["1.1.1.1", "1.1.1.2"])),
            addresses(&["1.1.1.1", "1.1.1.2"])
        );
        assert_eq!(in_turn(addresses(&["2606::1"])), addresses(&["2606::1"]));
    }

    #[test]
    fn of_two_failures_the_one_that_reached_something_is_told() {
        let error = |kind: io::ErrorKind| io::Error::from(kind);
        let (refused, no_route) = (
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::NetworkUnreachable,
        );
        for (before, then) in [(refused, no_route), (no_route, refused)] {
            assert_eq!(
                more_telling(Some(error(before)), error(then)).kind(),
                refused
            );
        }
        assert_eq!(more_telling(None, error(no_route)).kind(), no_route);
    }

    /// Listeners with a full backlog neither accept nor refuse connections.
    #[tokio::test]
    async fn an_address_that_says_nothing_does_not_keep_the_next_one_waiting() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let address = silent.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        let addresses = vec![address, address, good];
        // With permits for more than one at a time, and without any.
        for places in [MAX_EXTRA, 0] {
            let extra = Semaphore::new(places);
            let connected = timeout(
                Duration::from_secs(20),
                connect_any(addresses.clone(), &extra),
            )
            .await;
            assert_eq!(
                connected.unwrap().unwrap().peer_addr().unwrap(),
                good,
                "{places} places"
            );
            assert_eq!(
                extra.available_permits(),
                places,
                "every place is free again"
            );
        }
    }

    #[test]
    fn a_certificate_is_for_the_name_without_its_final_dot() {
        assert_eq!(
            server_name("a.example.").unwrap(),
            server_name("a.example").unwrap()
        );
        assert!(matches!(
            server_name("[2606::1]").unwrap(),
            ServerName::IpAddress(_)
        ));
        assert!(server_name("my_service.test").is_ok());
    }
}
