//! Execution of the commit loops: a dedicated thread, or a task on virtual time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::commit_loop::{CommitLoop, Observers, Turn};
use super::committer::{Committer, LaneMessage, WriteHealth};
use super::queue::MAX_QUEUED;
#[cfg(feature = "testing")]
use crate::ports::Blocking;
use crate::store::{Store, StoreError};

/// Executor of a commit loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Thread,
    /// For tests: waiting for another thread would let a paused clock run ahead.
    #[cfg(feature = "testing")]
    Task(Blocking),
}

/// Starts a committer on writers of `store`.
pub(crate) fn start(
    store: &Store,
    timeout: Duration,
    observers: Observers,
    driver: Driver,
) -> Result<Committer, StoreError> {
    let observers = Arc::new(observers);
    let clock = Arc::clone(&observers.clock);
    let health = WriteHealth::new(clock, Arc::clone(&observers.metrics));
    let lane = || {
        let lane = CommitLoop::open(store, timeout, Arc::clone(&observers), health.clone())?;
        start_lane(lane, driver)
    };
    let queue = lane()?;
    let publishers = if store.is_server() {
        lane()?
    } else {
        queue.clone()
    };
    Ok(Committer {
        queue,
        publishers,
        timeout,
        health,
    })
}

fn start_lane(lane: CommitLoop, driver: Driver) -> Result<mpsc::Sender<LaneMessage>, StoreError> {
    let (queue, incoming) = mpsc::channel(MAX_QUEUED);
    match driver {
        Driver::Thread => {
            std::thread::Builder::new()
                .name("postrider-committer".into())
                .spawn(move || run_on_thread(lane, incoming))
                .map_err(|error| StoreError::Setup(format!("cannot start a thread: {error}")))?;
        }
        #[cfg(feature = "testing")]
        Driver::Task(blocking) => {
            actix::spawn(run_as_task(lane, incoming, blocking));
        }
    }
    Ok(queue)
}

#[expect(clippy::disallowed_methods, reason = "the committer's own thread")]
fn run_on_thread(mut lane: CommitLoop, mut incoming: mpsc::Receiver<LaneMessage>) {
    let mut turn = Turn::Wait;
    loop {
        let mut first = None;
        match turn {
            Turn::Wait => match incoming.blocking_recv() {
                Some(entry) => first = Some(entry),
                None => lane.disconnect(),
            },
            Turn::Continue => {}
            Turn::Pause(pause) => std::thread::sleep(pause),
            Turn::Finished => break,
        }
        lane.collect(first, &mut incoming);
        turn = lane.turn();
    }
    lane.finish();
}

#[cfg(feature = "testing")]
async fn run_as_task(
    mut lane: CommitLoop,
    mut incoming: mpsc::Receiver<LaneMessage>,
    blocking: Blocking,
) {
    let mut turn = Turn::Wait;
    loop {
        let mut first = None;
        match turn {
            Turn::Wait => match incoming.recv().await {
                Some(entry) => first = Some(entry),
                None => lane.disconnect(),
            },
            Turn::Continue => {}
            Turn::Pause(pause) => tokio::time::sleep(pause).await,
            Turn::Finished => break,
        }
        lane.collect(first, &mut incoming);
        let job = blocking.run(move || {
            let turn = lane.turn();
            (lane, turn)
        });
        let Some((back, next)) = job.await else {
            return;
        };
        lane = back;
        turn = next;
    }
    lane.finish();
}
