//! Where an attempt's time went before its request was on the wire.
//!
//! reqwest resolves and connects inside the future that sends, so the watch of the attempt that asked
//! is found as that task's own. A connection that another attempt left open shows neither time.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use tower_layer::Layer;
use tower_service::Service;

use crate::domain::delivery::Timings;

tokio::task_local! {
    static RUNNING: Arc<Stopwatch>;
}

/// Runs from the start of an attempt.
#[derive(Debug)]
pub(super) struct Stopwatch {
    started: Instant,
    resolved: OnceLock<f64>,
    connected: OnceLock<f64>,
    answered: OnceLock<f64>,
}

impl Stopwatch {
    pub(super) fn start() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            resolved: OnceLock::new(),
            connected: OnceLock::new(),
            answered: OnceLock::new(),
        })
    }

    /// Runs `attempt`, whose resolving and connecting this watch takes the time of.
    pub(super) async fn over<F: Future>(self: &Arc<Self>, attempt: F) -> F::Output {
        RUNNING.scope(Arc::clone(self), attempt).await
    }

    /// The name has been resolved, by whichever attempt this is.
    pub(super) fn note_resolved() {
        let _ = RUNNING.try_with(|watch| watch.resolved.set(watch.elapsed_ms()));
    }

    fn note_connected() {
        let _ = RUNNING.try_with(|watch| watch.connected.set(watch.elapsed_ms()));
    }

    fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    /// The answer's head has been read.
    pub(super) fn note_answered(&self) {
        let _ = self.answered.set(self.elapsed_ms());
    }

    /// What it shows, whatever became of the attempt.
    pub(super) fn read(&self) -> Timings {
        Timings {
            dns: self.resolved.get().copied(),
            connect: self.connected.get().copied(),
            first_byte: self.answered.get().copied(),
        }
    }
}

/// Puts [`TimedConnector`] around reqwest's connector.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeConnecting;

impl<S> Layer<S> for TimeConnecting {
    type Service = TimedConnector<S>;
    fn layer(&self, inner: S) -> TimedConnector<S> {
        TimedConnector(inner)
    }
}

/// Notes when a connection stands, TLS included.
#[derive(Debug, Clone)]
pub(super) struct TimedConnector<S>(S);

impl<S, R> Service<R> for TimedConnector<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let connecting = self.0.call(request);
        Box::pin(async move {
            let connected = connecting.await;
            if connected.is_ok() {
                Stopwatch::note_connected();
            }
            connected
        })
    }
}
