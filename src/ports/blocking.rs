//! Blocking work: reads of the database, and everything else that a runtime must not wait for.

use tokio::runtime::{Builder, Runtime};

/// Returns the maker of a runtime on the thread that calls it, with so many threads for blocking
/// work.
pub(crate) fn runtime(blocking_threads: usize) -> impl Fn() -> Runtime + Send + 'static {
    move || {
        Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking_threads)
            .build()
            .expect("an I/O driver and a timer, which the process has had already")
    }
}

/// Runs blocking work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// On the runtime's blocking threads, in the operating system's order.
    #[default]
    Threads,
    /// Immediately on the calling thread, so that the order of work is deterministic.
    #[cfg(feature = "testing")]
    Inline,
}

impl Blocking {
    /// Runs `work`; `None` if it panicked.
    pub(crate) async fn run<T, F>(self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the room of blocking work")]
            Self::Threads => tokio::task::spawn_blocking(work).await.ok(),
            #[cfg(feature = "testing")]
            Self::Inline => {
                // Others get their turn, as they would while a thread works.
                tokio::task::yield_now().await;
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
            }
        }
    }
}
