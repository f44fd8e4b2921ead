//! For tests, a host's and our own: [`TestBed`], an engine on virtual time whose receivers follow a
//! script.
//!
//! Under it are its parts: a clock that follows tokio's, [`ScriptedReceivers`], and their records.

mod bed;
pub mod invariants;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use self::bed::{START, TestBed, TestReceiver, launch};
use crate::domain::clock::{Clock, ORIGIN_AGE, Timestamp};
use crate::domain::delivery::Timings;
pub use crate::sender::{BoxFuture, Exchanged, Failure, Transport, WireAnswer, WireRequest};

/// A clock that follows tokio's: it stands still where that is paused, and jumps where it does.
#[derive(Debug)]
pub struct TokioClock {
    base: Timestamp,
    origin: Instant,
}

impl TokioClock {
    /// A clock that shows `base` now. To be made inside the runtime that it follows.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Self {
        Self {
            base,
            origin: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.base + self.origin.elapsed()
    }

    fn monotonic(&self) -> Duration {
        ORIGIN_AGE + self.origin.elapsed()
    }
}

/// Lets `duration` pass, on tokio's clock: at once where it is paused.
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs `test` in an actix `System` whose clock is paused: it jumps whenever nothing else is left
/// to do, so that an hour takes as long as what happens in it.
///
/// # Panics
/// When there is no I/O driver to be had.
pub fn on_virtual_time<F: Future>(test: F) -> F::Output {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder
            .enable_all()
            .start_paused(true)
            .build()
            .expect("an I/O driver")
    };
    actix::System::with_tokio_rt(runtime).block_on(test)
}

/// What a scripted receiver does with one request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Reply {
    /// Answers with this status after this long.
    Status(u16, Duration),
    /// Answers with this status and these headers, at once.
    Answer(u16, Vec<(String, String)>),
    /// Never answers.
    Hang,
    /// Fails without an answer.
    Fail(Failure),
    /// The attempt panics, as a defect in sending would.
    Panic,
}

impl Reply {
    /// Answers with this status, at once.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Status(status, Duration::ZERO)
    }

    /// Never answers, so that the attempt ends when the endpoint's time-out does.
    #[must_use]
    pub const fn time_out() -> Self {
        Self::Hang
    }
}

/// A request as a scripted receiver got it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Received {
    /// When it came, by tokio's clock.
    pub at: Instant,
    /// The request.
    pub request: WireRequest,
}

impl Received {
    /// One of its headers, by its name in lower case.
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

/// Receivers without a network, told apart by their URL's host: each answers as its script says,
/// and 200 when it has none.
#[derive(Debug, Clone, Default)]
pub struct ScriptedReceivers {
    script: Arc<Mutex<Script>>,
}

impl ScriptedReceivers {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `host` does with its next requests, one each.
    pub fn next(&self, host: &str, replies: impl IntoIterator<Item = Reply>) {
        self.script()
            .next
            .entry(host.to_owned())
            .or_default()
            .extend(replies);
    }

    /// What `host` does once its script is over.
    pub fn otherwise(&self, host: &str, reply: Reply) {
        self.script().otherwise.insert(host.to_owned(), reply);
    }

    /// All requests that `host` got.
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

    /// The most requests that `host` had open at once.
    #[must_use]
    pub fn most_at_once(&self, host: &str) -> usize {
        self.script()
            .in_flight
            .get(host)
            .map_or(0, |(_, most)| *most)
    }
}

/// Counts a request as open until it is dropped, however it ends.
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
    fn exchange(&self, request: WireRequest) -> BoxFuture<'_, Exchanged> {
        let host = request.url.host_str().unwrap_or_default().to_owned();
        let timeout = request.timeout;
        let reply = {
            let mut script = self.script();
            script.received.push(Received {
                at: Instant::now(),
                request,
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
                Err(Failure::Timeout(format!(
                    "no answer within {} ms",
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
            Exchanged {
                result,
                remote_address: None,
                timings: Timings::default(),
            }
        })
    }
}
