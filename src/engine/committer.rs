//! The Committer: the engine's only writer. Whatever queued up while the last commit ran goes into
//! the next one, and nobody is answered before it is durable.
//!
//! Where the database takes several writers at once, publishers have a lane, and a connection, of
//! their own.
//!
//! It adds no delay of its own: alone, a request is a group of one. It never decides a transition,
//! and one member of a group can never fail another: after an error that is not the database's own
//! state, the group is run again member by member.

mod settle;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use self::settle::is_perhaps_one_members;
use crate::domain::fair_queue::{Cost, FairQueue};
use crate::domain::ids::Tenant;
use crate::metrics::Metrics;
use crate::store::{Answer, Member, Store, StoreError, Tx, Unavailable, Wake, Writer};

/// How many requests may queue. A publisher beyond them waits before it is queued.
const QUEUE: usize = 8192;

/// The most members of one commit: past this, waiting for the others costs more than it saves.
const MAX_GROUP: usize = 512;

/// The most that publishers put into one commit: whoever comes next waits for no more than that, or
/// for one batch that is larger by itself.
const MAX_PUBLISHED: Cost = Cost {
    rows: 4096,
    bytes: 4 * 1024 * 1024,
};

/// How many deliveries an event is taken for of a tenant that has not published lately.
const ASSUMED_FAN_OUT: usize = 8;

/// How many tenants' fan-outs are remembered.
const MAX_FAN_OUTS: usize = 10_000;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How much longer than its patience a commit may be under way before its askers are answered
/// without it.
const OVERTIME: Duration = Duration::from_secs(5);

/// How long a refused write makes the engine unready: a small write may still fit where the next
/// event does not.
const REFUSAL_LASTS: Duration = Duration::from_secs(5);

/// Tells of the deliveries that a commit made.
pub(super) type OnCommit = Arc<dyn Fn(Vec<Wake>) + Send + Sync>;

/// The way to the committer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Committer {
    queue: mpsc::Sender<Entry>,
    /// Where publishers queue: the same, or a lane of their own.
    publishers: mpsc::Sender<Entry>,
    patience: Duration,
    refused: Refusals,
    /// The last commit of each lane that went well.
    progress: Progress,
}

/// When something was last committed, for telling an overloaded database from one that says
/// nothing.
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_within(&self, age: Duration) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|at| at.elapsed() < age)
    }
}

/// Why the database last refused a write, and when.
#[derive(Clone)]
struct Refusals {
    last: Arc<Mutex<Option<(Instant, Unavailable)>>>,
    metrics: Arc<Metrics>,
}

impl Refusals {
    fn note(&self, why: Unavailable) {
        self.metrics.refusals.inc();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why));
    }

    fn recent(&self) -> Option<Unavailable> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(at, _)| at.elapsed() < REFUSAL_LASTS)
            .map(|(_, why)| why.clone())
    }
}

enum Entry {
    Write {
        member: Member,
        until: Instant,
    },
    /// Everything queued before it has been answered when this is.
    Close(oneshot::Sender<()>),
}

impl Committer {
    /// Writes a member and answers once it is durable. Whoever can ask again is answered in time
    /// even by a database that says nothing at all; a supervisor waits for what became of its
    /// claims and outcomes.
    pub(super) async fn write<T>(
        &self,
        (member, answer): (Member, Answer<T>),
    ) -> Result<T, StoreError> {
        let until = Instant::now() + self.patience;
        let waits = matches!(member, Member::Record(_) | Member::Claim(_));
        let queue = if matches!(member, Member::Publish(_)) {
            &self.publishers
        } else {
            &self.queue
        };
        let written = async {
            let entry = Entry::Write { member, until };
            queue
                .send(entry)
                .await
                .map_err(|_| StoreError::from(Unavailable::Stopped))?;
            answer
                .await
                .unwrap_or_else(|_| Err(Unavailable::Stopped.into()))
        };
        if waits {
            return written.await;
        }
        let in_time = tokio::time::timeout(self.patience + OVERTIME, written).await;
        in_time.unwrap_or_else(|_| {
            // A database that takes others' writes is well: it is only asked for too much.
            if self.progress.is_within(self.patience) {
                return Err(Unavailable::Overloaded.into());
            }
            self.refused.note(Unavailable::Silent);
            Err(Unavailable::Silent.into())
        })
    }

    /// Writes whatever `operation` writes, and answers with what it returned.
    pub(super) async fn run<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.write(Member::operation(operation)).await
    }

    /// Why the database refused a write, if it did within [`REFUSAL_LASTS`].
    pub(super) fn recent_refusal(&self) -> Option<Unavailable> {
        self.refused.recent()
    }

    /// Flushes, and stops the committer.
    pub(super) async fn close(&self) {
        // The second one is closed already where both are the same.
        for queue in [&self.publishers, &self.queue] {
            let (done, closed) = oneshot::channel();
            if queue.send(Entry::Close(done)).await.is_ok() {
                let _ = closed.await;
            }
        }
    }
}

/// What runs the commits: a thread of its own, or on virtual time one blocking job a commit
/// (waiting for a foreign thread would let the paused clock run ahead).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    Thread,
    #[cfg(feature = "testing")]
    BlockingJobs,
}

/// Starts a committer on writers of `store`.
pub(super) fn start(
    store: &Store,
    patience: Duration,
    metrics: Arc<Metrics>,
    on_commit: OnCommit,
    driver: Driver,
) -> Result<Committer, StoreError> {
    let refused = Refusals {
        last: Arc::default(),
        metrics: Arc::clone(&metrics),
    };
    let progress = Progress::default();
    let lane = || {
        let state = State {
            refused: refused.clone(),
            progress: progress.clone(),
            store: store.clone(),
            patience,
            writer: Some(store.writer()?),
            metrics: Arc::clone(&metrics),
            on_commit: Arc::clone(&on_commit),
            waiting: VecDeque::new(),
            publishing: FairQueue::default(),
            fan_outs: HashMap::new(),
            failures: 0,
        };
        start_lane(state, driver)
    };
    let queue = lane()?;
    let publishers = if store.takes_many_writers() {
        lane()?
    } else {
        queue.clone()
    };
    Ok(Committer {
        queue,
        publishers,
        patience,
        refused,
        progress,
    })
}

/// Starts what commits the writes of one queue, on a connection of its own.
fn start_lane(state: State, driver: Driver) -> Result<mpsc::Sender<Entry>, StoreError> {
    let (queue, incoming) = mpsc::channel(QUEUE);
    match driver {
        Driver::Thread => {
            std::thread::Builder::new()
                .name("postrider-committer".into())
                .spawn(move || run(state, incoming))
                .map_err(|error| StoreError::Setup(format!("cannot start a thread: {error}")))?;
        }
        #[cfg(feature = "testing")]
        Driver::BlockingJobs => {
            actix::spawn(run_in_jobs(state, incoming));
        }
    }
    Ok(queue)
}

/// The engine stops: what has not landed by `until` is left to the next start.
struct Closing {
    done: oneshot::Sender<()>,
    until: Instant,
}

struct State {
    store: Store,
    patience: Duration,
    /// `None` after an error or a panic left its transaction in an unknown state.
    writer: Option<Writer>,
    metrics: Arc<Metrics>,
    on_commit: OnCommit,
    /// Members that wait, but for publishes: new ones, and those that an unavailable database has
    /// not taken yet.
    waiting: VecDeque<(Member, Instant)>,
    /// Publishes that wait; their tenants take turns.
    publishing: FairQueue<Tenant, (Member, Instant)>,
    /// How many deliveries an event of a tenant makes, as its last commit had it.
    fan_outs: HashMap<Tenant, usize>,
    failures: u32,
    refused: Refusals,
    progress: Progress,
}

fn run(mut state: State, mut incoming: mpsc::Receiver<Entry>) {
    let mut closing = None;
    loop {
        let first = if state.is_idle() {
            incoming.blocking_recv()
        } else {
            incoming.try_recv().ok()
        };
        if first.is_none() && state.is_idle() {
            break;
        }
        let close = collect(&mut state, first, &mut incoming);
        let pause = state.commit_waiting();
        closing = closing.or(close);
        if closing
            .as_ref()
            .is_some_and(|closing| state.has_flushed(closing))
        {
            break;
        }
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    }
    finish(state, closing);
}

#[cfg(feature = "testing")]
async fn run_in_jobs(mut state: State, mut incoming: mpsc::Receiver<Entry>) {
    let mut closing = None;
    loop {
        let first = if state.is_idle() {
            incoming.recv().await
        } else {
            incoming.try_recv().ok()
        };
        if first.is_none() && state.is_idle() {
            break;
        }
        let close = collect(&mut state, first, &mut incoming);
        let job = tokio::task::spawn_blocking(move || {
            let pause = state.commit_waiting();
            (state, pause)
        });
        let Ok((back, pause)) = job.await else { return };
        state = back;
        closing = closing.or(close);
        if closing
            .as_ref()
            .is_some_and(|closing| state.has_flushed(closing))
        {
            break;
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    finish(state, closing);
}

/// Takes what has queued up, so that those who wait can take turns.
fn collect(
    state: &mut State,
    first: Option<Entry>,
    incoming: &mut mpsc::Receiver<Entry>,
) -> Option<Closing> {
    let mut next = first;
    while let Some(entry) = next {
        match entry {
            Entry::Write { member, until } => state.enqueue(member, until),
            Entry::Close(done) => {
                incoming.close();
                return Some(Closing {
                    done,
                    until: Instant::now() + state.patience,
                });
            }
        }
        let is_full = state.waiting.len() + state.publishing.len() >= QUEUE;
        next = if is_full {
            None
        } else {
            incoming.try_recv().ok()
        };
    }
    None
}

fn finish(mut state: State, closing: Option<Closing>) {
    for (member, _) in state.waiting.drain(..).chain(state.publishing.drain()) {
        member.answer(Some(Unavailable::Stopped.into()));
    }
    drop(state.writer);
    if let Some(closing) = closing {
        let _ = closing.done.send(());
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.publishing.is_empty()
    }

    fn has_flushed(&self, closing: &Closing) -> bool {
        self.is_idle() || Instant::now() >= closing.until
    }

    fn enqueue(&mut self, member: Member, until: Instant) {
        let Some((
            tenant,
            Cost {
                rows: events,
                bytes,
            },
        )) = member.publishing()
        else {
            self.waiting.push_back((member, until));
            return;
        };
        let tenant = tenant.clone();
        let fan_out = self
            .fan_outs
            .get(&tenant)
            .copied()
            .unwrap_or(ASSUMED_FAN_OUT);
        let cost = Cost {
            rows: events.saturating_mul(1 + fan_out),
            bytes,
        };
        self.publishing.push(tenant, cost, (member, until));
    }

    /// Remembers what the publishes of a commit came to.
    fn note_fan_outs(&mut self, group: &[Member]) {
        for member in group {
            let Some(((tenant, cost), made)) = member.publishing().zip(member.deliveries_made())
            else {
                continue;
            };
            if self.fan_outs.len() >= MAX_FAN_OUTS {
                self.fan_outs.clear();
            }
            self.fan_outs
                .insert(tenant.clone(), made.div_ceil(cost.rows.max(1)));
        }
    }

    /// Commits what waits. `Some`: the database is unavailable, try again after that long.
    fn commit_waiting(&mut self) -> Option<Duration> {
        let others = self.waiting.len().min(MAX_GROUP);
        let mut next: Vec<(Member, Instant)> = self.waiting.drain(..others).collect();
        let publishing = self
            .publishing
            .take(MAX_PUBLISHED, MAX_GROUP.saturating_sub(others).max(1));
        // Who has gone away publishes again, or not at all.
        next.extend(
            publishing
                .into_iter()
                .filter(|(member, _)| !member.is_abandoned()),
        );
        let (mut group, untils): (Vec<Member>, Vec<Instant>) = next.into_iter().unzip();
        if group.is_empty() {
            return None;
        }
        match self.commit(&mut group) {
            Ok(()) => {
                self.note_fan_outs(&group);
                group.into_iter().for_each(|member| member.answer(None));
            }
            Err(StoreError::Unavailable(why)) if !is_perhaps_one_members(&why) => {
                self.keep_or_answer(group, untils, &why);
                return Some(self.pause());
            }
            Err(error) => match <[Member; 1]>::try_from(group) {
                Ok([member]) => return self.settle_alone(member, untils[0], error),
                Err(group) => {
                    tracing::warn!(%error, members = group.len(), "a group failed: running its members one by one");
                    return self.commit_one_by_one(group, untils);
                }
            },
        }
        self.failures = 0;
        None
    }

    fn commit(&mut self, group: &mut [Member]) -> Result<(), StoreError> {
        let started = Instant::now();
        // A connection that died while nobody used it is nobody's problem: nothing has been sent
        // over it.
        let mut writer = match self.writer.take().and_then(Writer::if_alive) {
            Some(writer) => writer,
            None => self.open_writer()?,
        };
        let mut result = catch_unwind(AssertUnwindSafe(|| writer.commit(group)));
        if matches!(result, Ok(Err(_))) && !writer.has_begun() {
            writer = self.open_writer()?;
            result = catch_unwind(AssertUnwindSafe(|| writer.commit(group)));
        }
        self.metrics
            .commit(group.len(), started.elapsed().as_secs_f64());
        let wakes = match result {
            Ok(Ok(wakes)) => wakes,
            // SQLite may have ended the transaction by itself, and then diesel lost count of it:
            // the next commit gets a connection of its own.
            Ok(Err(error)) => {
                self.metrics.commit_failures.inc();
                if matches!(error, StoreError::Unavailable(Unavailable::Busy)) {
                    self.writer = Some(writer);
                }
                return Err(error);
            }
            Err(_) => {
                self.metrics.commit_failures.inc();
                // Dropping a connection in that state may panic once more.
                let _ = catch_unwind(AssertUnwindSafe(move || drop(writer)));
                return Err(StoreError::Panicked);
            }
        };
        self.writer = Some(writer);
        self.progress.note();
        if !wakes.is_empty() {
            (self.on_commit)(wakes);
        }
        Ok(())
    }

    /// Whatever keeps a writer from opening passes, and nothing known may be dropped for it.
    fn open_writer(&self) -> Result<Writer, StoreError> {
        self.store.writer().map_err(|error| match error {
            StoreError::Unavailable(why) => why.into(),
            error => Unavailable::Io(error.to_string()).into(),
        })
    }
}
