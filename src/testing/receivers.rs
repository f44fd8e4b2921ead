//! Receivers without a network.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::delivery::Timings;
use crate::sender::{
    BoxFuture, Transport, TransportError, TransportResult, WireAnswer, WireRequest,
};

/// Reaction of a scripted receiver to one request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Reply {
    /// Answers with this status after this time.
    Status(u16, Duration),
    /// Answers with this status and these headers, immediately.
    Answer(u16, Vec<(String, String)>),
    /// Never answers.
    Hang,
    /// Fails without an answer.
    Fail(TransportError),
    /// The attempt panics, like a bug in the sending code.
    Panic,
}

impl Reply {
    /// Returns a reply with this status, sent immediately.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Status(status, Duration::ZERO)
    }

    /// Returns a reply that never comes, so that the attempt ends with the endpoint's timeout.
    #[must_use]
    pub const fn time_out() -> Self {
        Self::Hang
    }
}

/// A request received by a scripted receiver.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Received {
    /// Time of arrival, on tokio's clock.
    pub at: Instant,
    /// The request.
    pub request: WireRequest,
}

impl Received {
    /// Returns one of its headers, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request
            .headers
            .iter()
            .find(|(one, _)| one == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Script {
    next: HashMap<String, VecDeque<Reply>>,
    otherwise: HashMap<String, Reply>,
    received: Vec<Received>,
    in_flight: HashMap<String, (usize, usize)>,
}

/// Receivers without a network, identified by their URL's host. Each replies as scripted, or 200
/// without a script.
#[derive(Debug, Clone, Default)]
pub struct ScriptedReceivers {
    script: Arc<Mutex<Script>>,
}

impl ScriptedReceivers {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scripts the replies of `host` to its next requests, one each.
    pub fn next(&self, host: &str, replies: impl IntoIterator<Item = Reply>) {
        self.script()
            .next
            .entry(host.to_owned())
            .or_default()
            .extend(replies);
    }

    /// Sets the reply of `host` for requests after its script.
    pub fn otherwise(&self, host: &str, reply: Reply) {
        self.script().otherwise.insert(host.to_owned(), reply);
    }

    /// Returns all requests that `host` received.
    #[must_use]
    pub fn received(&self, host: &str) -> Vec<Received> {
        let of_host = |one: &&Received| one.request.url.host_str() == Some(host);
        self.script()
            .received
            .iter()
            .filter(of_host)
            .cloned()
            .collect()
    }

    /// Returns the maximum number of requests that `host` had open at once.
    #[must_use]
    pub fn most_at_once(&self, host: &str) -> usize {
        self.script()
            .in_flight
            .get(host)
            .map_or(0, |(_, most)| *most)
    }
}

/// Counts a request as open until it is dropped, including on a panic.
struct Open {
    receivers: ScriptedReceivers,
    host: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((open, _)) = self.receivers.script().in_flight.get_mut(&self.host) {
            *open -= 1;
        }
    }
}

impl Transport for ScriptedReceivers {
    fn exchange<'a>(&'a self, request: &'a WireRequest) -> BoxFuture<'a, TransportResult> {
        let host = request.url.host_str().unwrap_or_default().to_owned();
        let timeout = request.timeout;
        let reply = {
            let mut script = self.script();
            script.received.push(Received {
                at: Instant::now(),
                request: request.clone(),
            });
            let (open, most) = script.in_flight.entry(host.clone()).or_default();
            *open += 1;
            *most = (*most).max(*open);
            let next = script.next.get_mut(&host).and_then(VecDeque::pop_front);
            next.or_else(|| script.otherwise.get(&host).cloned())
                .unwrap_or(Reply::Status(200, Duration::ZERO))
        };
        let open = Open {
            receivers: self.clone(),
            host,
        };
        Box::pin(async move {
            let _open = open;
            let late = || {
                Err(TransportError::Timeout(format!(
                    "no response within {} ms",
                    timeout.as_millis()
                )))
            };
            let result = match reply {
                Reply::Status(status, after) if after < timeout => {
                    tokio::time::sleep(after).await;
                    Ok(WireAnswer {
                        status,
                        ..WireAnswer::default()
                    })
                }
                Reply::Answer(status, headers) => Ok(WireAnswer {
                    status,
                    headers,
                    ..WireAnswer::default()
                }),
                Reply::Status(..) | Reply::Hang => {
                    tokio::time::sleep(timeout).await;
                    late()
                }
                Reply::Fail(failure) => Err(failure),
                Reply::Panic => panic!("injected into an attempt"),
            };
            TransportResult {
                result,
                remote_address: None,
                timings: Timings::default(),
            }
        })
    }
}
