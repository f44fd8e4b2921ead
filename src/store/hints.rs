//! Sending hints to the other processes, and receiving theirs.

use std::sync::mpsc::SyncSender;

use super::error::StoreError;
use super::hint::Hint;
#[cfg(feature = "postgres")]
use super::postgres::notify;
use super::source::Source;

/// Sends hints to the other processes. Cheap to clone; without other processes it sends nothing.
#[derive(Clone, Default)]
pub(crate) struct Hints {
    queue: Option<SyncSender<Hint>>,
}

impl Hints {
    /// Connects to the other processes, if there can be any. `on_hint` is called with each hint
    /// that arrives, including our own.
    pub(crate) fn start(
        source: &Source,
        on_hint: impl Fn(Hint) + Send + 'static,
    ) -> Result<Self, StoreError> {
        // A file has a single process; a pooler in transaction mode does not pass on notifications.
        #[cfg(feature = "postgres")]
        if source.is_server() && !matches!(source, Source::Url(url) if url.is_pooled()) {
            return Ok(Self {
                queue: Some(notify::start(source.clone(), on_hint)?),
            });
        }
        let _ = source;
        drop(on_hint);
        Ok(Self::default())
    }

    pub(crate) fn send(&self, hint: Hint) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(hint);
        }
    }
}
