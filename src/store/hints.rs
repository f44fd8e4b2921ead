//! Hints between the processes that share a database. Each may be lost; the poll finds what it told
//! of.

use std::sync::mpsc::SyncSender;

use super::{Source, StoreError};
use crate::domain::ids::EndpointId;

/// What one process tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Something is due at these endpoints.
    Due(Vec<EndpointId>),
    /// Endpoints or tokens were changed.
    Changed,
    /// Shards are free.
    Leases,
}

/// The way to the others. Cheap to clone; sends nothing where there are none to hear.
#[derive(Clone, Default)]
pub(crate) struct Hints {
    queue: Option<SyncSender<Hint>>,
}

impl Hints {
    /// Connects to the others, if there can be any. `on_hint` hears what they tell, and ourselves.
    pub(crate) fn start(
        source: &Source,
        on_hint: impl Fn(Hint) + Send + 'static,
    ) -> Result<Self, StoreError> {
        // A file has no others; a pooler in transaction mode passes on no notifications.
        #[cfg(feature = "postgres")]
        if source.is_server() && !matches!(source, Source::Url(url) if url.is_pooled()) {
            return Ok(Self {
                queue: Some(super::notify::start(source.clone(), on_hint)?),
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
