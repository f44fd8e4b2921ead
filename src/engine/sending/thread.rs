//! One thread that sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;

use super::lag::{INTERVAL, LAGGING, Lag};
use crate::domain::clock::Clock;
use crate::ports::runtime;
use crate::sender::Sender;

/// Time between two reports of a thread's lag.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A thread that sends: its HTTP client, and the supervisors on it.
pub(super) struct SendingThread {
    pub(super) number: usize,
    pub(super) sender: Sender,
    /// `None` for the thread of the caller's own `System`.
    arbiter: Option<Arbiter>,
    pub(super) lag: Arc<Lag>,
    supervisors: AtomicUsize,
}

impl SendingThread {
    /// Returns the calling thread, which runs an actix `System`.
    pub(super) fn here(sender: Sender, clock: &dyn Clock) -> Self {
        Self {
            number: 0,
            sender,
            arbiter: None,
            lag: Arc::new(Lag::new(clock.monotonic())),
            supervisors: AtomicUsize::new(0),
        }
    }

    /// Starts a thread in the current `System`.
    pub(super) fn start(
        number: usize,
        sender: Sender,
        clock: &Arc<dyn Clock>,
        blocking_threads: usize,
    ) -> Self {
        let arbiter = Arbiter::with_tokio_rt(runtime(blocking_threads));
        let lag = Arc::new(Lag::new(clock.monotonic()));
        arbiter.spawn(measure(number, Arc::clone(&lag), Arc::clone(clock)));
        Self {
            number,
            sender,
            arbiter: Some(arbiter),
            lag,
            supervisors: AtomicUsize::new(0),
        }
    }

    /// Measures the lag of the calling thread.
    pub(super) fn measure_here(&self, clock: &Arc<dyn Clock>) {
        actix::spawn(measure(
            self.number,
            Arc::clone(&self.lag),
            Arc::clone(clock),
        ));
    }

    pub(super) fn supervisors(&self) -> usize {
        self.supervisors.load(Ordering::Relaxed)
    }
}

/// Measures the lag of the current thread until it ends.
async fn measure(number: usize, lag: Arc<Lag>, clock: Arc<dyn Clock>) {
    let mut reported: Option<Duration> = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = clock.monotonic();
        let late = lag.beat(now);
        let is_quiet = reported.is_none_or(|at| now.saturating_sub(at) >= REPORT_INTERVAL);
        if late > LAGGING && is_quiet {
            reported = Some(now);
            let ms = late.as_millis();
            tracing::warn!(
                thread = number,
                lag_ms = ms,
                "sending thread {number} was {ms} ms late: its endpoints wait for each other (is the machine overloaded?)"
            );
        }
    }
}

/// A supervisor's place on a thread, given up when it is dropped.
pub(crate) struct Place(Arc<SendingThread>);

impl Place {
    pub(super) fn on(thread: &Arc<SendingThread>) -> Self {
        thread.supervisors.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(thread))
    }

    /// Returns the sender of the thread.
    pub(crate) fn sender(&self) -> &Sender {
        &self.0.sender
    }

    /// Starts an actor on the thread. `make` gets this place.
    pub(crate) fn start<A>(self, make: impl FnOnce(Self) -> A + Send + 'static) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        match self.0.arbiter.as_ref().map(Arbiter::handle) {
            Some(arbiter) => A::start_in_arbiter(&arbiter, move |_| make(self)),
            None => make(self).start(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.supervisors.fetch_sub(1, Ordering::Relaxed);
    }
}
