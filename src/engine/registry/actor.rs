//! The registry's actor: starts supervisors, polls the database, and routes messages.

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use actix::prelude::*;

use super::draining::Draining;
use super::loading::{LoadQueue, MissedChange};
use super::table::{Route, Table};
use super::tails::WatchedTails;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::ClaimName;
use crate::domain::endpoint::Endpoint;
use crate::domain::handover::Tail;
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::engine::context::EngineContext;
use crate::engine::known_tokens::KnownTokens;
use crate::engine::supervisor::{
    AttemptTasks, Changed, Drain, EndpointSupervisor, Polled, Share, TailEnded, ToRegistry,
};
use crate::engine::writer_horizon::WriterHorizon;
use crate::store::{
    DueScan, EndpointWork, Interruption, LoadedEndpoint, Poll, PollScan, Scope, StoreError,
};

/// Two of that many polls look at all deliveries, also those before a mark.
const FULL_POLL_EVERY: u64 = 60;

/// Maximum number of endpoints that a poll names, for the length of its statement.
const MAX_MARKS: usize = 500;

/// A supervisor starts this long before its next delivery is due.
const HEAD_START: Duration = Duration::from_secs(2);

/// Delay between tries to reclaim the claims of a dead supervisor.
const RECLAIM_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A supervisor's address, and its attempts.
#[derive(Clone)]
pub(super) struct Supervisor {
    pub(super) address: Addr<EndpointSupervisor>,
    pub(super) tasks: AttemptTasks,
    /// Number of its endpoint.
    number: i32,
    /// Time in microseconds before which none of its deliveries is due.
    mark: Arc<AtomicI64>,
}

pub(crate) struct Registry {
    pub(super) context: Arc<EngineContext>,
    tokens: Arc<KnownTokens>,
    pub(super) table: Table<Supervisor>,
    pub(super) loading: LoadQueue,
    pub(super) draining: Draining,
    pub(super) tails: WatchedTails,
    /// True while the claims of former owners are read.
    checking_tails: bool,
    /// True if another check was requested during the current one, which may have read too early.
    check_tails_again: bool,
    horizon: WriterHorizon,
    /// Number of polls so far.
    polls: u64,
    polling: bool,
    /// True if a poll was requested during the current one, which may have read too early.
    poll_again: bool,
    /// The endpoints' change counter that the supervisors know.
    endpoints: Option<i64>,
}

impl Registry {
    pub(crate) fn new(context: Arc<EngineContext>, tokens: Arc<KnownTokens>) -> Self {
        Self {
            context,
            tokens,
            table: Table::default(),
            loading: LoadQueue::default(),
            draining: Draining::default(),
            tails: WatchedTails::default(),
            checking_tails: false,
            check_tails_again: false,
            horizon: WriterHorizon::default(),
            polls: 0,
            polling: false,
            poll_again: false,
            endpoints: None,
        }
    }

    /// Reads what the next supervisors start with, if any are to start.
    pub(super) fn load(&mut self, ctx: &mut Context<Self>) {
        while let Some(batch) = self.loading.start_read() {
            let supervisors = self.context.threads.supervisors() + self.loading.len();
            let (share, now) = (Share::among(supervisors), self.context.clock.schedule_now());
            let scan = move |endpoint: &Endpoint| DueScan {
                endpoint_id: endpoint.id.clone(),
                tenant: endpoint.tenant.clone(),
                now,
                limit: share.window(endpoint.limits.concurrency),
                from: Timestamp::from_micros(0),
                max_bytes: share.room(0),
                at_hand: HashSet::new(),
            };
            let (context, ids) = (Arc::clone(&self.context), batch.clone());
            let shards: BTreeSet<Shard> = batch.iter().map(Shard::of).collect();
            let tails = shards
                .into_iter()
                .filter_map(|shard| context.leases.tail_of(shard));
            let tails: Vec<Arc<Tail>> = tails.collect();
            let read = async move {
                let clock = Arc::clone(&context.clock);
                context.store.load(ids, tails, clock, scan).await
            };
            ctx.spawn(read.into_actor(self).map(move |found, registry, ctx| {
                registry.loaded(&batch, found, ctx);
            }));
        }
    }

    fn loaded(
        &mut self,
        batch: &[EndpointId],
        found: Result<Vec<LoadedEndpoint>, StoreError>,
        ctx: &mut Context<Self>,
    ) {
        let mut news = self.loading.end_read(batch);
        match found {
            Ok(found) => {
                for loaded in found {
                    let news = news.remove(&loaded.endpoint.id).unwrap_or_default();
                    self.start(news.apply_to(loaded), news.is_due, ctx);
                }
                let now = self.context.clock.schedule_now();
                for (id, _) in news.into_iter().filter(|(_, news)| news.is_resumed()) {
                    self.loading.add_due(&id, now);
                }
                self.load(ctx);
            }
            Err(error) => {
                // The poll finds all of them again.
                self.loading.clear();
                tracing::warn!(%error, "cannot read endpoints with due deliveries");
            }
        }
    }

    /// Starts a supervisor, if it may run now.
    fn start(&mut self, loaded: LoadedEndpoint, more_is_due: bool, ctx: &mut Context<Self>) {
        let id = loaded.endpoint.id.clone();
        let is_ours = self.context.leases.for_new_work(&id).is_some();
        if !is_ours || !loaded.endpoint.is_active() || self.table.contains(&id) {
            return;
        }
        self.tails.watch(&id, loaded.tail_claims());
        let context = Arc::clone(&self.context);
        let place = context.threads.place();
        self.table.start(&id, |generation| {
            let tasks = AttemptTasks::default();
            let registry = ToRegistry {
                stop: ctx.address().recipient(),
                quiet: ctx.address().recipient(),
                stopped: ctx.address().recipient(),
                generation,
                mark: Arc::default(),
            };
            let mark = Arc::clone(&registry.mark);
            let (of, number) = (tasks.clone(), loaded.number);
            let make = move |place| EndpointSupervisor::new(context, place, registry, loaded, of);
            Supervisor {
                address: place.start(make),
                tasks,
                number,
                mark,
            }
        });
        if more_is_due {
            self.notify_due(&id);
        }
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, id: &EndpointId) {
        self.table.remove(id);
        self.draining.ended(id);
    }

    /// Finds out which attempts of former owners have ended, and tells the supervisors that count
    /// them.
    pub(super) fn check_tails(&mut self, ctx: &mut Context<Self>) {
        let asked = self.tails.all();
        if asked.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.checking_tails, true) {
            self.check_tails_again = true;
            return;
        }
        let (context, names) = (Arc::clone(&self.context), asked.clone());
        let read = async move { context.store.standing_claims(names).await };
        ctx.spawn(read.into_actor(self).map(move |found, registry, ctx| {
            registry.checking_tails = false;
            if std::mem::take(&mut registry.check_tails_again) {
                registry.check_tails(ctx);
            }
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the attempts of former owners");
                    return;
                }
            };
            let names = found.iter().map(|one| (one.key, one.claim_no));
            // The attempts of a tail that is gone are not waited for: the poll reclaims them.
            let leases = &registry.context.leases;
            let standing = names.filter(|claim| leases.is_of_tail(claim)).collect();
            for (id, ended) in registry.tails.end(&asked, &standing) {
                if let Some(supervisor) = registry.table.get(&id) {
                    supervisor.address.do_send(TailEnded(ended));
                }
            }
        }));
    }

    /// Makes every supervisor of a shard stop claiming, and then stop.
    pub(super) fn drain(&self, shard: Shard, abort: bool) {
        for supervisor in self.table.of_shard(shard) {
            if abort {
                supervisor.tasks.abort.cancel();
            }
            supervisor.address.do_send(Drain);
        }
    }

    /// Polls for due work without a hint.
    pub(super) fn poll(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.polling, true) {
            self.poll_again = true;
            return;
        }
        let now = self.context.clock.schedule_now();
        self.polls = self.polls.wrapping_add(1);
        let scan = PollScan {
            held: self.context.leases.open(),
            known: self.marks(),
            horizon: now + HEAD_START,
            tokens: self.tokens.version(),
        };
        let context = Arc::clone(&self.context);
        let read = async move {
            // The check itself logs a moved file; claims and publishes fail by the same check.
            let _ = context.store.check_file();
            context.store.poll(scan).await
        };
        ctx.spawn(read.into_actor(self).map(move |found, registry, ctx| {
            registry.polling = false;
            let again = std::mem::take(&mut registry.poll_again);
            match found {
                Ok(poll) => {
                    let writers = poll.snapshot;
                    let horizon = writers.and_then(|open| registry.horizon.note(now, open));
                    if let Some(horizon) = horizon {
                        registry.context.horizon.set(horizon);
                    }
                    registry.polled(poll, ctx);
                }
                Err(error) => tracing::warn!(%error, "cannot look for due deliveries"),
            }
            if again {
                registry.poll(ctx);
            }
        }));
    }

    /// Returns the marks of supervisors, in the order of their endpoints' numbers.
    fn marks(&self) -> Vec<(i32, i64)> {
        // A full poll twice in a row finds claims without an owner below a mark.
        if self.polls % FULL_POLL_EVERY < 2 {
            return Vec::new();
        }
        // A shard that was given up has another owner, whose claims are not ours to judge.
        let open = self.context.leases.open();
        let all = open
            .iter()
            .flat_map(|lease| self.table.of_shard(lease.shard));
        let marks = all.map(|supervisor| {
            let mark = supervisor.mark.load(Ordering::Relaxed);
            (supervisor.number, mark)
        });
        // Without a mark an endpoint is found by the walk, as quickly.
        let mut marks: Vec<(i32, i64)> = marks.filter(|(_, mark)| *mark > 0).collect();
        marks.sort_unstable();
        marks.truncate(MAX_MARKS);
        marks
    }

    fn polled(&mut self, poll: Poll, ctx: &mut Context<Self>) {
        if let Some(tokens) = poll.tokens {
            self.tokens.update(tokens);
        }
        if self.endpoints != Some(poll.endpoints) {
            self.reconcile(poll.endpoints, ctx);
        }
        self.check_tails(ctx);
        let leases = Arc::clone(&self.context.leases);
        let is_own = |claim: &ClaimName| !leases.is_of_tail(claim);
        let ownerless = self.table.ownerless_claims(&poll.work, is_own);
        if !ownerless.is_empty() {
            let context = Arc::clone(&self.context);
            actix::spawn(async move { context.reclaim(ownerless).await });
        }
        for work in poll.work {
            self.notify_supervisor(work);
        }
        self.load(ctx);
    }

    fn notify_supervisor(&mut self, work: EndpointWork) {
        match self.table.route(&work.endpoint_id) {
            Route::Deliver(supervisor) => {
                let polled = Polled {
                    next: work.next,
                    sending: Some(work.sending),
                };
                supervisor.address.do_send(polled);
            }
            Route::Recovering => {}
            Route::Absent => {
                if let Some(next) = work.next {
                    self.loading.add(&work.endpoint_id, next);
                }
            }
        }
    }

    /// Sends endpoints that have changed since the last poll to their supervisors. The author of a
    /// change may have died before it notified them, or be another node.
    fn reconcile(&mut self, endpoints: i64, ctx: &mut Context<Self>) {
        let before = self.endpoints;
        // Those that are being read may have been read before the change.
        let mut live = self.table.endpoints();
        live.extend(self.loading.endpoints().cloned());
        let context = Arc::clone(&self.context);
        let read = async move { context.store.changed_endpoints(before, live).await };
        ctx.spawn(read.into_actor(self).map(move |found, registry, _| {
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the changed endpoints");
                    return;
                }
            };
            registry.endpoints = Some(endpoints);
            for (endpoint, health) in found {
                let (endpoint, health) = (Arc::new(endpoint), Some(health));
                match registry.table.route(&endpoint.id) {
                    Route::Deliver(supervisor) => {
                        supervisor.address.do_send(Changed { endpoint, health });
                    }
                    Route::Recovering => {}
                    Route::Absent => registry
                        .loading
                        .note_change(MissedChange { endpoint, health }),
                }
            }
        }));
    }

    /// Tells an endpoint's supervisor that something is due. Call [`load`](Self::load) afterwards,
    /// which starts a missing one.
    pub(super) fn notify_due(&mut self, id: &EndpointId) {
        let now = self.context.clock.schedule_now();
        match self.table.route(id) {
            Route::Deliver(supervisor) => {
                supervisor.address.do_send(Polled {
                    next: Some(now),
                    sending: None,
                });
            }
            Route::Recovering => {}
            Route::Absent => self.loading.add_due(id, now),
        }
    }

    /// Replaces a supervisor that panicked: its attempts end, its claims are reclaimed, and a new
    /// one starts.
    pub(super) fn recover(&mut self, id: EndpointId, tasks: AttemptTasks, ctx: &mut Context<Self>) {
        tracing::error!(endpoint = %id, "the supervisor of {id} panicked: this is a defect, please report it; it is being replaced");
        self.context.metrics.supervisor_panics.inc();
        let context = Arc::clone(&self.context);
        let recovery = async move {
            // Attempts end before their claims are reclaimed, or a delivery could be in flight twice.
            tasks.abort.cancel();
            tasks.tracker.close();
            tasks.tracker.wait().await;
            reclaim_all(&context, &id).await;
            id
        };
        ctx.spawn(recovery.into_actor(self).map(|id, registry, ctx| {
            registry.remove(&id);
            registry.notify_due(&id);
            registry.load(ctx);
        }));
    }
}

/// Reclaims the claims of an endpoint's dead supervisor. After a lost lease, its next owner does.
async fn reclaim_all(context: &EngineContext, id: &EndpointId) {
    while let Some(lease) = context.leases.of(Shard::of(id)) {
        let scope = Scope::Endpoint(id.clone(), lease);
        let interruption = Interruption {
            at: context.clock.now(),
            counts: true,
            reason: "its supervisor panicked",
        };
        match context
            .committer
            .run(move |tx| tx.interrupt(&scope, interruption))
            .await
        {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(endpoint = %id, %error, "cannot reclaim the claims of {id} yet");
            }
        }
        tokio::time::sleep(RECLAIM_RETRY_DELAY).await;
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        self.poll(ctx);
        ctx.run_interval(self.context.config.poll_interval, Self::poll);
    }
}
