//! All threads that send, and the choice between them.

use std::sync::Arc;
use std::time::Duration;

use super::lag::LAGGING;
use super::thread::{Place, SendingThread};
use crate::domain::clock::Clock;
use crate::sender::Sender;

/// Blocking threads of a sending thread, besides one per read connection.
const SPARE_THREADS: usize = 4;

/// All threads that send.
pub(crate) struct SendingThreads {
    all: Vec<Arc<SendingThread>>,
    clock: Arc<dyn Clock>,
}

impl SendingThreads {
    /// Uses the calling thread alone, for virtual time.
    pub(crate) fn here(senders: Vec<Sender>, clock: &Arc<dyn Clock>) -> Self {
        let here = |sender| Arc::new(SendingThread::here(sender, &**clock));
        Self {
            all: senders.into_iter().take(1).map(here).collect(),
            clock: Arc::clone(clock),
        }
    }

    /// Starts one thread per sender in the current `System`. A single sender uses the calling
    /// thread: without neighbours, another thread would only cost.
    pub(crate) fn start(
        senders: Vec<Sender>,
        clock: &Arc<dyn Clock>,
        read_connections: u32,
    ) -> Self {
        if senders.len() == 1 {
            let here = Self::here(senders, clock);
            here.all
                .iter()
                .for_each(|thread| thread.measure_here(clock));
            return here;
        }
        let blocking = read_connections.max(1) as usize + SPARE_THREADS;
        let start =
            |(number, sender)| Arc::new(SendingThread::start(number, sender, clock, blocking));
        Self {
            all: senders.into_iter().enumerate().map(start).collect(),
            clock: Arc::clone(clock),
        }
    }

    /// Takes a place for another supervisor.
    pub(crate) fn place(&self) -> Place {
        let now = self.clock.monotonic();
        let load = |thread: &Arc<SendingThread>| Load {
            lag: thread.lag.present(now),
            supervisors: thread.supervisors(),
        };
        let loads: Vec<Load> = self.all.iter().map(load).collect();
        Place::on(&self.all[lightest(&loads)])
    }

    /// Returns the number of supervisors on all threads.
    pub(crate) fn supervisors(&self) -> usize {
        self.all.iter().map(|thread| thread.supervisors()).sum()
    }

    /// Reloads the system's files that the senders use.
    pub(crate) fn reload(&self) {
        self.all.iter().for_each(|thread| thread.sender.reload());
    }

    /// Returns the largest recent lag of each thread, with its number.
    pub(crate) fn lags(&self) -> Vec<(usize, Duration)> {
        let now = self.clock.monotonic();
        self.all
            .iter()
            .map(|thread| (thread.number, thread.lag.recent(now)))
            .collect()
    }
}

/// The load of a thread.
#[derive(Debug, Clone, Copy)]
struct Load {
    lag: Duration,
    supervisors: usize,
}

/// Returns the thread for the next supervisor: with the fewest, away from those that lag.
fn lightest(loads: &[Load]) -> usize {
    let key = |load: &Load| (load.lag >= LAGGING, load.supervisors);
    let all = loads.iter().enumerate();
    all.min_by_key(|(_, load)| key(load))
        .map_or(0, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_supervisor_goes_where_there_are_few_and_away_from_a_lag() {
        let load = |lag_ms, supervisors| Load {
            lag: Duration::from_millis(lag_ms),
            supervisors,
        };
        for (loads, expected) in [
            (vec![load(0, 0)], 0),
            (vec![load(0, 1), load(0, 0)], 1),
            (vec![load(0, 1), load(0, 1)], 0),
            (vec![load(500, 0), load(3, 9)], 1),
            (vec![load(500, 2), load(900, 1)], 1),
        ] {
            assert_eq!(lightest(&loads), expected, "{loads:?}");
        }
    }
}
