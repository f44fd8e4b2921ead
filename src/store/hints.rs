//! Hints between the processes that share a database. Each may be lost; the poll finds what it told of.

use std::sync::mpsc::{SyncSender, sync_channel};

use super::StoreError;
use crate::config::DatabaseUrl;
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

/// More hints than these are dropped: the poll is faster by then.
const QUEUE: usize = 1024;

impl Hints {
    /// Connects to the others, if there can be any. `on_hint` hears what they tell, and ourselves.
    pub(crate) fn start(
        url: &DatabaseUrl,
        on_hint: impl Fn(Hint) + Send + 'static,
    ) -> Result<Self, StoreError> {
        match url {
            // A pooler in transaction mode passes on no notifications.
            #[cfg(feature = "postgres")]
            DatabaseUrl::Postgres(url) if !url.is_pooled() => {
                let (queue, hints) = sync_channel(QUEUE);
                let url = url.clone();
                std::thread::Builder::new()
                    .name("postrider-hints".into())
                    .spawn(move || super::notify::run(&url, &hints, &on_hint))
                    .map_err(|error| StoreError::Setup(format!("cannot start a thread: {error}")))?;
                Ok(Self { queue: Some(queue) })
            }
            _ => Ok(Self::default()),
        }
    }

    pub(crate) fn send(&self, hint: Hint) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(hint);
        }
    }
}
