//! Reads due deliveries for all supervisors together: whatever was requested while earlier reads ran
//! is read by the next one. Events that other nodes publish arrive as hints for many endpoints; so
//! they cost a few statements, not a few for each endpoint.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::store::{DuePage, DueScan, Store, StoreError};

/// Maximum number of endpoints of one read.
const GROUP: usize = 64;

/// Reads that run at the same time.
const READS_AT_ONCE: usize = 2;

struct DueRequest {
    scan: DueScan,
    reply: oneshot::Sender<Result<DuePage, StoreError>>,
}

/// The queue of reads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DueReader {
    queue: mpsc::UnboundedSender<DueRequest>,
}

impl DueReader {
    /// Starts reading, in the current actix `System`.
    pub(crate) fn start(store: Store) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        actix::spawn(serve(store, requests));
        Self { queue }
    }

    /// Reads due deliveries of an endpoint. Each supervisor waits for one read at a time.
    pub(crate) async fn read(&self, scan: DueScan) -> Result<DuePage, StoreError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.queue.send(DueRequest { scan, reply });
        answer.await.unwrap_or(Err(StoreError::Panicked))
    }
}

async fn serve(store: Store, mut requests: mpsc::UnboundedReceiver<DueRequest>) {
    let turns = Arc::new(Semaphore::new(READS_AT_ONCE));
    while let Some(first) = requests.recv().await {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = requests.try_recv()
        {
            group.push(next);
        }
        let store = store.clone();
        actix::spawn(async move {
            let _turn = turn;
            read(&store, group).await;
        });
    }
}

async fn read(store: &Store, mut group: Vec<DueRequest>) {
    group.retain(|request| !request.reply.is_closed());
    let scans: Vec<DueScan> = group.iter().map(|request| request.scan.clone()).collect();
    if scans.is_empty() {
        return;
    }
    match store.due(scans).await {
        Ok(pages) => {
            for (request, page) in group.into_iter().zip(pages) {
                let _ = request.reply.send(Ok(page));
            }
        }
        Err(error) if group.len() == 1 => {
            if let Some(request) = group.pop() {
                let _ = request.reply.send(Err(error));
            }
        }
        // One endpoint's rows may be the reason.
        Err(_) => {
            for request in group {
                let page = store.due(vec![request.scan]).await;
                let page = page.map(|mut pages| pages.pop().unwrap_or_default());
                let _ = request.reply.send(page);
            }
        }
    }
}
