//! The Committer: the engine's only writer. Whatever queued up while the last commit ran goes into
//! the next one, and nobody is answered before it is durable.
//!
//! Where the database takes several writers at once, publishers have a lane, and a connection, of their own.
//!
//! It adds no delay of its own: alone, a request is a group of one. It never decides a transition,
//! and one member of a group can never fail another: after an error that is not the database's own
//! state, the group is run again member by member.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;
use crate::store::{Answer, Member, Store, StoreError, Tx, Unavailable, Wake, Writer};

/// How many requests may queue. A publisher beyond them waits before it is queued.
const QUEUE: usize = 8192;

/// The most members of one commit: past this, waiting for the others costs more than it saves.
const MAX_GROUP: usize = 512;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How much longer than its patience a commit may be under way before its askers are answered without it.
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
        last.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL_LASTS).map(|(_, why)| why.clone())
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
    /// Writes a member and answers once it is durable. Whoever can ask again is answered in time even by
    /// a database that says nothing at all; a supervisor waits for what became of its claims and outcomes.
    pub(super) async fn write<T>(&self, (member, answer): (Member, Answer<T>)) -> Result<T, StoreError> {
        let until = Instant::now() + self.patience;
        let waits = matches!(member, Member::Record(_) | Member::Claim(_));
        let queue = if matches!(member, Member::Publish(_)) { &self.publishers } else { &self.queue };
        let written = async {
            let entry = Entry::Write { member, until };
            queue.send(entry).await.map_err(|_| StoreError::from(Unavailable::Stopped))?;
            answer.await.unwrap_or_else(|_| Err(Unavailable::Stopped.into()))
        };
        if waits {
            return written.await;
        }
        let in_time = tokio::time::timeout(self.patience + OVERTIME, written).await;
        in_time.unwrap_or_else(|_| {
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
    let refused = Refusals { last: Arc::default(), metrics: Arc::clone(&metrics) };
    let lane = || start_lane(store, patience, &metrics, &refused, &on_commit, driver);
    let queue = lane()?;
    let publishers = if store.takes_many_writers() { lane()? } else { queue.clone() };
    Ok(Committer { queue, publishers, patience, refused })
}

/// Starts what commits the writes of one queue, on a connection of its own.
fn start_lane(
    store: &Store,
    patience: Duration,
    metrics: &Arc<Metrics>,
    refused: &Refusals,
    on_commit: &OnCommit,
    driver: Driver,
) -> Result<mpsc::Sender<Entry>, StoreError> {
    let (queue, incoming) = mpsc::channel(QUEUE);
    let writer = Some(store.writer()?);
    let state = State {
        refused: refused.clone(),
        store: store.clone(),
        patience,
        writer,
        metrics: Arc::clone(metrics),
        on_commit: Arc::clone(on_commit),
        waiting: VecDeque::new(),
        failures: 0,
    };
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
    /// Members that an unavailable database has not taken yet.
    waiting: VecDeque<(Member, Instant)>,
    failures: u32,
    refused: Refusals,
}

fn run(mut state: State, mut incoming: mpsc::Receiver<Entry>) {
    let mut closing = None;
    loop {
        let first =
            if state.waiting.is_empty() { incoming.blocking_recv() } else { incoming.try_recv().ok() };
        if first.is_none() && state.waiting.is_empty() {
            break;
        }
        let close = collect(&mut state, first, &mut incoming);
        let pause = state.commit_waiting();
        closing = closing.or(close);
        if closing.as_ref().is_some_and(|closing| state.has_flushed(closing)) {
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
        let first = if state.waiting.is_empty() { incoming.recv().await } else { incoming.try_recv().ok() };
        if first.is_none() && state.waiting.is_empty() {
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
        if closing.as_ref().is_some_and(|closing| state.has_flushed(closing)) {
            break;
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    finish(state, closing);
}

/// Takes what has queued up, as far as one commit should hold it.
fn collect(state: &mut State, first: Option<Entry>, incoming: &mut mpsc::Receiver<Entry>) -> Option<Closing> {
    let mut next = first;
    while let Some(entry) = next {
        match entry {
            Entry::Write { member, until } => state.waiting.push_back((member, until)),
            Entry::Close(done) => {
                incoming.close();
                return Some(Closing { done, until: Instant::now() + state.patience });
            }
        }
        next = if state.waiting.len() < MAX_GROUP { incoming.try_recv().ok() } else { None };
    }
    None
}

fn finish(state: State, closing: Option<Closing>) {
    for (member, _) in state.waiting {
        member.answer(Some(Unavailable::Stopped.into()));
    }
    drop(state.writer);
    if let Some(closing) = closing {
        let _ = closing.done.send(());
    }
}

/// What a database refuses may be the whole group's fault, or that of one in it.
fn is_perhaps_one_members(why: &Unavailable) -> bool {
    matches!(why, Unavailable::Refused(_))
}

impl State {
    fn has_flushed(&self, closing: &Closing) -> bool {
        self.waiting.is_empty() || Instant::now() >= closing.until
    }

    /// Commits what waits. `Some`: the database is unavailable, try again after that long.
    fn commit_waiting(&mut self) -> Option<Duration> {
        let (mut group, untils): (Vec<Member>, Vec<Instant>) = self.waiting.drain(..).unzip();
        if group.is_empty() {
            return None;
        }
        match self.commit(&mut group) {
            Ok(()) => group.into_iter().for_each(|member| member.answer(None)),
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

    fn commit_one_by_one(&mut self, group: Vec<Member>, untils: Vec<Instant>) -> Option<Duration> {
        let mut pause = None;
        for (member, until) in group.into_iter().zip(untils) {
            let mut alone = [member];
            let result = self.commit(&mut alone);
            let [member] = alone;
            match result {
                Ok(()) => {
                    self.failures = 0;
                    member.answer(None);
                }
                Err(error) => pause = self.settle_alone(member, until, error).or(pause),
            }
        }
        pause
    }

    /// What becomes of a member that failed by itself. (Whether that is the database's state or its own,
    /// the writes after it tell.)
    fn settle_alone(&mut self, member: Member, until: Instant, error: StoreError) -> Option<Duration> {
        match error {
            StoreError::Unavailable(why) => {
                self.keep_or_answer(vec![member], vec![until], &why);
                Some(self.pause())
            }
            error => {
                tracing::error!(%error, "a write failed");
                member.answer(Some(error));
                None
            }
        }
    }

    fn commit(&mut self, group: &mut [Member]) -> Result<(), StoreError> {
        let started = Instant::now();
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            // Whatever keeps it from opening passes, and nothing known may be dropped for it.
            None => match self.store.writer() {
                Ok(writer) => writer,
                Err(StoreError::Unavailable(why)) => return Err(why.into()),
                Err(error) => return Err(Unavailable::Io(error.to_string()).into()),
            },
        };
        let result = catch_unwind(AssertUnwindSafe(|| writer.commit(group)));
        self.metrics.commit(group.len(), started.elapsed().as_secs_f64());
        let wakes = match result {
            Ok(Ok(wakes)) => wakes,
            // SQLite may have ended the transaction by itself, and then diesel lost count of it: the
            // next commit gets a connection of its own.
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
        if !wakes.is_empty() {
            (self.on_commit)(wakes);
        }
        Ok(())
    }

    /// Outcomes wait until they land. The others wait while the database is merely busy, as long
    /// as their askers do.
    fn keep_or_answer(&mut self, group: Vec<Member>, untils: Vec<Instant>, why: &Unavailable) {
        tracing::warn!(%why, members = group.len(), "the database takes no writes");
        self.refused.note(why.clone());
        for (member, until) in group.into_iter().zip(untils) {
            let patient = *why == Unavailable::Busy && Instant::now() < until;
            if matches!(member, Member::Record(_)) || patient {
                self.waiting.push_back((member, until));
            } else {
                member.answer(Some(why.clone().into()));
            }
        }
    }

    fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        (FIRST_PAUSE * 2_u32.pow(self.failures.min(6))).min(LONGEST_PAUSE)
    }
}
