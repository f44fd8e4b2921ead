//! The production transport: hyper's client with its own connector, and without everything that
//! could send a request twice, elsewhere, or to an unchecked address.
//!
//! docs/decisions/0007 explains why it is not reqwest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use url::Url;

use super::classify::{classify, is_of_parsing, was_not_sent};
use super::connection::ConnectionInfo;
use super::connector::Connector;
use super::context::AttemptContext;
use super::guard::AddressPolicy;
use super::resolver::Resolve;
use super::reuse::Reuse;
use super::transport::{
    BoxFuture, Transport, TransportError, TransportResult, WireAnswer, WireRequest,
};
use super::trust::{self, SystemTrust};
use super::wire_meter::MAX_HEAD_BYTES;
use crate::domain::delivery::Headers;

/// Maximum bytes read of a response body before its connection is closed.
const MAX_READ_BODY: usize = 64 * 1024;

/// Maximum time for reading a body once the status is known.
const BODY_GRACE: Duration = Duration::from_secs(2);

/// Maximum number of response headers. The parser reserves space for all of them per response.
const MAX_HEADERS: usize = 256;

/// Maximum bytes kept of a response's headers.
const MAX_KEPT_HEADERS: usize = 16 * 1024;

/// Shorter than the five seconds after which common servers close an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Placeholder for header lines that cannot be shown.
const GAP: &str = "\u{fffd}";

type HttpClient = Client<Connector, Full<Bytes>>;

/// Transport that uses hyper's client.
pub(crate) struct HttpTransport {
    connector: Connector,
    /// Keeps connections per origin.
    pooled: HttpClient,
    /// Opens a new connection for each request.
    unpooled: HttpClient,
    reuse: Mutex<Reuse>,
    started: Instant,
    next_attempt: AtomicU64,
    trust: Arc<SystemTrust>,
}

impl HttpTransport {
    /// Creates a transport whose connections are used for about `lifetime`.
    pub(crate) fn new(
        policy: Arc<AddressPolicy>,
        resolver: Arc<dyn Resolve>,
        lifetime: Duration,
    ) -> Result<Self, String> {
        let trust = Arc::new(SystemTrust::load());
        let tls = TlsConnector::from(Arc::new(tls_config(&trust)?));
        let connector = Connector::new(policy, resolver, tls, lifetime);
        Ok(Self::with(connector, trust))
    }

    /// Creates another transport with connections of its own, for another thread.
    pub(crate) fn another(&self) -> Self {
        Self::with(self.connector.clone(), Arc::clone(&self.trust))
    }

    fn with(connector: Connector, trust: Arc<SystemTrust>) -> Self {
        Self {
            pooled: client(connector.clone(), usize::MAX),
            unpooled: client(connector.clone(), 0),
            connector,
            reuse: Mutex::default(),
            started: Instant::now(),
            next_attempt: AtomicU64::new(0),
            trust,
        }
    }
}

/// Creates a client that keeps at most `max_idle` idle connections per origin.
fn client(connector: Connector, max_idle: usize) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(max_idle)
        // Each request is one recorded attempt, so the client must not resend any on its own.
        .retry_canceled_requests(false)
        // The status is what matters; curl and browsers accept these malformed headers as well.
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(MAX_HEADERS)
        .http1_max_buf_size(2 * MAX_HEAD_BYTES)
        .build(connector)
}

/// Creates the TLS configuration: the system's trust store, and no process-wide provider.
fn tls_config(trust: &Arc<SystemTrust>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = Arc::clone(trust);
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A resumed session skips certificate verification, so it would survive the end of trust.
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl Transport for HttpTransport {
    fn exchange<'a>(&'a self, request: &'a WireRequest) -> BoxFuture<'a, TransportResult> {
        let id = self.next_attempt.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + request.timeout;
        let attempt = AttemptContext::new(id, request.tenant.clone(), deadline);
        Box::pin(async move {
            let result = attempt.scope(self.post(request, &attempt)).await;
            TransportResult {
                remote_address: attempt.remote(),
                timings: attempt.timings(),
                result,
            }
        })
    }

    fn reload(&self) {
        self.trust.reload();
    }
}

impl HttpTransport {
    async fn post(
        &self,
        request: &WireRequest,
        attempt: &AttemptContext,
    ) -> Result<WireAnswer, TransportError> {
        let late = || {
            TransportError::Timeout(format!(
                "no response within {} ms",
                request.timeout.as_millis()
            ))
        };
        let client = if request.fresh_connection || !self.may_reuse(&request.url) {
            &self.unpooled
        } else {
            &self.pooled
        };
        let mut http = http_request(request)?;
        let connection = capture_connection(&mut http);
        let response = timeout_at(attempt.deadline, client.request(http)).await;
        let info = info_of(&connection);
        info.as_ref()
            .inspect(|info| attempt.note_remote(info.remote));
        let reused = info
            .as_ref()
            .is_some_and(|info| info.opened_by != attempt.id);
        let response = match response {
            Err(_) => return Err(late()),
            Ok(Err(error)) if ended_before_response(&error, info.as_deref(), attempt) => {
                return Err(self.connection_lost(&request.url));
            }
            Ok(Err(error)) => {
                let status = info
                    .as_ref()
                    .and_then(|info| status_on_the_wire(&error, info));
                return match status.map(StatusCode::from_u16) {
                    Some(Ok(StatusCode::REQUEST_TIMEOUT)) if reused => {
                        Err(self.connection_lost(&request.url))
                    }
                    Some(Ok(status)) => Ok(unreadable_answer(status, &classify(&error))),
                    _ => Err(classify(&error)),
                };
            }
            Ok(Ok(response)) => response,
        };
        attempt.note_answered();
        if reused && response.status() == StatusCode::REQUEST_TIMEOUT {
            // The server timed out the idle connection (RFC 9110, section 15.5.9).
            return Err(self.connection_lost(&request.url));
        }
        // A new connection resolves the name again, in case the receiver has moved.
        if info
            .as_ref()
            .is_some_and(|info| info.retire_at <= Instant::now())
        {
            connection
                .connection_metadata()
                .as_ref()
                .inspect(|connected| connected.poison());
        }
        Ok(read_answer(response, info.as_deref(), attempt.deadline).await)
    }

    fn may_reuse(&self, url: &Url) -> bool {
        let reuse = self.reuse.lock().unwrap_or_else(PoisonError::into_inner);
        let is_allowed = || reuse.is_allowed(&origin(url), self.started.elapsed());
        reuse.is_empty() || is_allowed()
    }

    fn connection_lost(&self, url: &Url) -> TransportError {
        let origin = origin(url);
        let mut reuse = self.reuse.lock().unwrap_or_else(PoisonError::into_inner);
        if reuse.note_lost(&origin, self.started.elapsed()) {
            tracing::info!(%origin, "{origin} closes connections that it should keep open: using a new one per request for ten minutes");
        }
        TransportError::ConnectionLost
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Returns the connection's data once the client has chosen one.
fn info_of(connection: &CaptureConnection) -> Option<Arc<ConnectionInfo>> {
    let mut extensions = http::Extensions::new();
    connection
        .connection_metadata()
        .as_ref()?
        .get_extras(&mut extensions);
    extensions.remove()
}

/// Returns whether a connection that another attempt had opened ended before the first byte of a
/// response to this one.
fn ended_before_response(
    error: &hyper_util::client::legacy::Error,
    connection: Option<&ConnectionInfo>,
    attempt: &AttemptContext,
) -> bool {
    let Some(info) = connection else { return false };
    let meter = info.meter();
    let unanswered =
        was_not_sent(error) || meter.closed_before_request() || !meter.response_begun();
    info.opened_by != attempt.id && unanswered
}

fn http_request(request: &WireRequest) -> Result<Request<Full<Bytes>>, TransportError> {
    let uri: Uri =
        request.url.as_str().parse().map_err(|error| {
            TransportError::Protocol(format!("the URL cannot be sent: {error}"))
        })?;
    let mut http = Request::post(uri)
        .body(Full::new(request.body.clone()))
        .map_err(|error| {
            TransportError::Protocol(format!("the request cannot be sent: {error}"))
        })?;
    *http.headers_mut() = header_map(&request.headers)?;
    // Set for an empty body as well: some servers require it (RFC 9110, section 8.6).
    http.headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(request.body.len()));
    Ok(http)
}

fn header_map(headers: &Headers) -> Result<HeaderMap, TransportError> {
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        let unsendable =
            |_| TransportError::Protocol(format!("the header `{name}` cannot be sent"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable(()))?;
        map.append(
            name,
            HeaderValue::from_str(value).map_err(|_| unsendable(()))?,
        );
    }
    Ok(map)
}

/// Returns the status of a final response that the client could not parse, as seen on the wire.
fn status_on_the_wire(
    error: &hyper_util::client::legacy::Error,
    info: &ConnectionInfo,
) -> Option<u16> {
    let meter = info.meter();
    let begun = is_of_parsing(error)
        .then(|| meter.begun_final_status())
        .flatten();
    meter.final_status().or(begun)
}

/// Builds the answer to a response of which only the status could be read, for example because its
/// length is invalid. Its connection is closed.
fn unreadable_answer(status: StatusCode, failure: &TransportError) -> WireAnswer {
    let why = match failure {
        TransportError::Protocol(why) => why.clone(),
        _ => "the connection was lost".to_owned(),
    };
    let headers = vec![(
        GAP.to_owned(),
        format!("the response cannot be displayed: {why}"),
    )];
    WireAnswer {
        status: status.as_u16(),
        headers,
        body: Vec::new(),
    }
}

/// Reads the stored part of a response. Only the status decides the result: if the body is late,
/// endless or broken, its connection is closed and nothing else changes.
async fn read_answer(
    response: Response<Incoming>,
    info: Option<&ConnectionInfo>,
    deadline: Instant,
) -> WireAnswer {
    let lines = info.map_or(0, |info| info.meter().header_lines());
    let mut answer = WireAnswer {
        status: response.status().as_u16(),
        headers: shown_headers(response.headers(), lines),
        body: Vec::new(),
    };
    let until = deadline.min(Instant::now() + BODY_GRACE);
    let mut body = response.into_body();
    while answer.body.len() < MAX_READ_BODY {
        let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await else {
            break;
        };
        if let Some(chunk) = frame.data_ref() {
            let room = MAX_READ_BODY - answer.body.len();
            answer
                .body
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
    }
    answer
}

/// Returns up to [`MAX_KEPT_HEADERS`] bytes of a response's headers. `lines` is the number of
/// header lines on the wire.
fn shown_headers(headers: &HeaderMap, lines: usize) -> Headers {
    let mut room = MAX_KEPT_HEADERS;
    let fits = |(name, value): &(&HeaderName, &HeaderValue)| {
        let left = room.checked_sub(name.as_str().len() + value.len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    let shown = headers.iter().take_while(fits);
    let mut shown: Headers = shown
        .map(|(name, value)| (name.to_string(), shown_value(value)))
        .collect();
    if let Some(left_out) = lines
        .checked_sub(headers.len())
        .filter(|left_out| *left_out > 0)
    {
        shown.push((
            GAP.to_owned(),
            format!("{left_out} header lines cannot be displayed"),
        ));
    }
    shown
}

fn shown_value(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    let shown = |c: char| {
        if c.is_control() && c != '\t' {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}
