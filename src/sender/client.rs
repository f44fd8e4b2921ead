//! The transport that production uses: reqwest, with everything off that could send a request
//! twice, elsewhere, or to an address that was not judged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::client::danger::ServerCertVerifier;

use super::classify::classify;
use super::guard::{AddressPolicy, Blocked};
use super::resolver::Resolve;
use super::stopwatch::{Stopwatch, TimeConnecting};
use super::{BoxFuture, Exchanged, Failure, Transport, WireAnswer, WireRequest};
use crate::domain::delivery::Headers;

/// How much of an answer's body is read, in bytes, before its connection is closed.
const MAX_READ_BODY: usize = 64 * 1024;
/// How many headers an answer may have. (hyper takes at most 408 KiB of head in all.)
const MAX_HEADERS: usize = 100;
/// How much of an answer's head is kept, in bytes.
const MAX_KEPT_HEADERS: usize = 16 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Shorter than the five seconds after which common servers close an idle connection: a request that
/// crosses with that close would be an attempt that failed for nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A name resolved to what webhooks may not go to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BlockedAddress(pub(super) Blocked);

/// A name did not resolve.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NameError(pub(super) String);

/// Sends by reqwest.
pub(crate) struct HttpTransport {
    client: reqwest::Client,
}

impl HttpTransport {
    pub(crate) fn new(policy: Arc<AddressPolicy>, resolver: Arc<dyn Resolve>) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config()?)
            .dns_resolver(Arc::new(GuardedResolver { policy, resolver }))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .http1_only()
            .http1_max_headers(MAX_HEADERS)
            .connector_layer(TimeConnecting)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { client })
    }
}

/// rustls with ring and the system's root certificates, and no process-wide provider.
fn tls_config() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    match rustls_platform_verifier::Verifier::new(provider) {
        Ok(verifier) => {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
            Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
        }
        Err(error) => {
            tracing::warn!(%error, "no root certificates: every https endpoint will fail until they are installed (package ca-certificates)");
            Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
        }
    }
}

impl Transport for HttpTransport {
    fn exchange(&self, request: WireRequest) -> BoxFuture<'_, Exchanged> {
        Box::pin(async move {
            let watch = Stopwatch::start();
            let result = watch.over(self.post(request, &watch)).await;
            Exchanged { timings: watch.read(), result }
        })
    }
}

impl HttpTransport {
    async fn post(&self, request: WireRequest, watch: &Stopwatch) -> Result<WireAnswer, Failure> {
        let deadline = tokio::time::Instant::now() + request.timeout;
        let late = || Failure::Timeout(format!("no answer within {} ms", request.timeout.as_millis()));
        let sending = self
            .client
            .post(request.url.clone())
            .headers(header_map(&request.headers)?)
            .body(request.body.clone())
            .send();
        let mut response = match tokio::time::timeout_at(deadline, sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(classify(&error)),
            Err(_) => return Err(late()),
        };
        watch.note_answered();
        let mut answer = WireAnswer {
            status: response.status().as_u16(),
            headers: shown_headers(response.headers()),
            body: Vec::new(),
            remote_address: response.remote_addr().map(|address| address.to_string()),
        };
        // The status is the answer: a body that is late, endless or broken changes nothing of it.
        while answer.body.len() < MAX_READ_BODY {
            match tokio::time::timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    let room = MAX_READ_BODY - answer.body.len();
                    answer.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        Ok(answer)
    }
}

fn header_map(headers: &Headers) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let unsendable = |_| Failure::Protocol(format!("the header `{name}` cannot be sent"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable(()))?;
        map.append(name, HeaderValue::from_str(value).map_err(|_| unsendable(()))?);
    }
    Ok(map)
}

/// At most [`MAX_KEPT_HEADERS`] bytes of them: a receiver can send hundreds of kilobytes.
fn shown_headers(headers: &HeaderMap) -> Headers {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).replace('\0', "\u{fffd}");
    let mut room = MAX_KEPT_HEADERS;
    let fits = |(name, value): &(&HeaderName, &HeaderValue)| {
        let left = room.checked_sub(name.as_str().len() + value.len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    headers.iter().take_while(fits).map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Resolves, judges *all* answers, and hands out only judged ones: the connection goes to an
/// address that was looked at, whatever the name answers a moment later.
struct GuardedResolver {
    policy: Arc<AddressPolicy>,
    resolver: Arc<dyn Resolve>,
}

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.policy);
        let name = name.as_str().to_owned();
        let lookup = self.resolver.lookup(name.clone());
        Box::pin(async move {
            let addresses = lookup.await.map_err(NameError)?;
            Stopwatch::note_resolved();
            policy.check_resolved(&name, &addresses).map_err(BlockedAddress)?;
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
