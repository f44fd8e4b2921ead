//! Leases: which shards this process sends for, and how it comes to hold them.
//!
//! [`Leases`] is what it holds, for everyone in the engine to ask. The [`Keeper`] renews it, takes what is
//! free, lets go of what others should have, and gives up in time what it could not renew: at
//! `a renewal's own start + ttl − margin`, on a clock that goes on while the machine is suspended.
//!
//! It never sends, and never decides who gets what (`domain::lease` does).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::Shared;
use super::builder::StartError;
use super::registry::{Lost, PollNow, Registry, Vacate};
use crate::domain::FieldError;
use crate::domain::clock::Clock;
use crate::domain::ids::{EndpointId, InstanceId};
use crate::domain::lease::{self, Lease, Plan, Shard, Terms};
use crate::store::query;
use crate::store::{Hint, LeaseView, NodeRow, ProcessLock, Store, StoreError, Writer, look_at_leases};

/// How long shards that were vacated wait for others, to be given back together.
const SOON: Duration = Duration::from_millis(20);

/// How long a node that went away is shown.
const SHOWN: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: i64,
    /// On the monotonic clock: nothing is sent after it.
    until: Duration,
    /// It is being let go of: nothing new is started.
    leaving: bool,
}

/// What this process holds.
pub(super) struct Leases {
    clock: Arc<dyn Clock>,
    held: RwLock<HashMap<Shard, Held>>,
}

impl Leases {
    pub(super) fn new(clock: Arc<dyn Clock>, leases: Vec<Lease>, until: Duration) -> Self {
        let held = leases.into_iter().map(|lease| {
            let held = Held { epoch: lease.epoch, until, leaving: false };
            (lease.shard, held)
        });
        Self { clock, held: RwLock::new(held.collect()) }
    }

    fn read<T>(&self, read: impl FnOnce(&HashMap<Shard, Held>) -> T) -> T {
        read(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut HashMap<Shard, Held>) -> T) -> T {
        write(&mut self.held.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// What new work of an endpoint may be started under; `None` where it is another process's.
    pub(super) fn for_new_work(&self, endpoint: &EndpointId) -> Option<Lease> {
        let (shard, now) = (Shard::of(endpoint), self.clock.monotonic());
        let held = self.read(|held| held.get(&shard).copied());
        let held = held.filter(|held| !held.leaving && now < held.until)?;
        Some(Lease { shard, epoch: held.epoch })
    }

    /// What an endpoint's claims were made under, if that is still held.
    pub(super) fn of(&self, shard: Shard) -> Option<Lease> {
        self.read(|held| held.get(&shard).map(|held| Lease { shard, epoch: held.epoch }))
    }

    /// Whether an attempt under that lease may be on the wire right now.
    pub(super) fn may_send(&self, lease: Lease) -> bool {
        let now = self.clock.monotonic();
        self.read(|held| {
            held.get(&lease.shard).is_some_and(|held| held.epoch == lease.epoch && now < held.until)
        })
    }

    /// Those that new work may be started under.
    pub(super) fn open(&self) -> Vec<Lease> {
        self.read(|held| held.iter().filter(|(_, held)| !held.leaving).map(lease).collect())
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Lease> {
        self.read(|held| held.iter().map(lease).collect())
    }

    fn leaving(&self) -> HashSet<Shard> {
        self.read(|held| held.iter().filter(|(_, held)| held.leaving).map(|(shard, _)| *shard).collect())
    }

    fn leave(&self, shards: &[Shard]) {
        self.write(|held| {
            for shard in shards {
                if let Some(held) = held.get_mut(shard) {
                    held.leaving = true;
                }
            }
        });
    }

    fn add(&self, leases: &[Lease], until: Duration) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                held.insert(*shard, Held { epoch: *epoch, until, leaving: false });
            }
        });
    }

    fn renew(&self, leases: &[Lease], until: Duration) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                if let Some(held) = held.get_mut(shard).filter(|held| held.epoch == *epoch) {
                    held.until = until;
                }
            }
        });
    }

    fn remove(&self, leases: &[Lease]) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                if held.get(shard).is_some_and(|held| held.epoch == *epoch) {
                    held.remove(shard);
                }
            }
        });
    }

    /// Those whose time is up.
    fn run_out(&self) -> Vec<Lease> {
        let now = self.clock.monotonic();
        self.read(|held| held.iter().filter(|(_, held)| held.until <= now).map(lease).collect())
    }

    /// When the first of them runs out.
    fn first_end(&self) -> Option<Duration> {
        self.read(|held| held.values().map(|held| held.until).min())
    }
}

fn lease((shard, held): (&Shard, &Held)) -> Lease {
    Lease { shard: *shard, epoch: held.epoch }
}

/// What of a process's part in the cluster does not change while it runs.
pub(super) struct Membership {
    pub(super) node: NodeRow,
    pub(super) instance: InstanceId,
    /// Former processes that are known to have ended.
    gone: Vec<InstanceId>,
    terms: Terms,
    /// Whether leases run out at all: those of a file last as long as its lock.
    runs_out: bool,
    /// Held until the process ends, or the engine has been drained.
    lock: std::sync::Mutex<Option<ProcessLock>>,
}

impl Membership {
    /// When a lease ends here that was asked for at `asked`.
    fn end(&self, asked: Duration) -> Duration {
        if self.runs_out { asked + self.terms.usable() } else { Duration::MAX }
    }

    /// Lets the next process take over at once.
    pub(super) fn unlock(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Makes this process known, and takes the shards that are free for it. Waits where a process of its name
/// may be alive, and refuses where it is.
pub(super) fn join(
    store: &Store,
    lock: ProcessLock,
    name: &str,
    terms: Terms,
    clock: &Arc<dyn Clock>,
) -> Result<(Membership, Leases), StartError> {
    let instance = InstanceId::generate();
    let view = wait_for_name(store, &lock, name, terms, &**clock)?;
    let others = view.nodes.iter().filter(|node| lock.proves_gone(node));
    let gone: Vec<InstanceId> = others.map(|node| InstanceId::from_text(node.instance.as_str())).collect();
    let node = NodeRow {
        instance: instance.to_string(),
        name: name.to_owned(),
        lock: lock.id().map(str::to_owned),
        started_at: clock.now().as_micros(),
        expires_at: 0,
    };
    let runs_out = store.leases_run_out();
    let lock = std::sync::Mutex::new(Some(lock));
    let membership = Membership { node, instance, gone, terms, runs_out, lock };
    let mut writer = store.writer()?;
    // Of those who had this name, and of those long gone, nobody needs to know any more.
    let old = view.nodes.iter().filter(|node| {
        node.name == name
            || membership.gone.iter().any(|gone| gone.as_str() == node.instance)
            || node.expires_at < (view.now - SHOWN).as_micros()
    });
    let old: Vec<InstanceId> = old.map(|node| InstanceId::from_text(node.instance.as_str())).collect();
    let asked = clock.monotonic();
    let taken = writer.run(|tx| {
        query::forget_nodes(tx.conn(), &old)?;
        tx.keep_leases(&membership.node, &[], terms.ttl, &**clock)?;
        let view = look_at_leases(tx.conn(), &**clock)?;
        // What nobody alive has is free as well as what nobody has.
        let plan = membership.plan(&view, &HashSet::new());
        tx.take_over(&plan.take, &membership.instance, &membership.gone, terms.ttl, &**clock)
    })?;
    let leases = Leases::new(Arc::clone(clock), taken, membership.end(asked));
    Ok((membership, leases))
}

/// Two nodes of one name are a mistake; one that has just died and comes back is none.
fn wait_for_name(
    store: &Store,
    lock: &ProcessLock,
    name: &str,
    terms: Terms,
    clock: &dyn Clock,
) -> Result<LeaseView, StartError> {
    let taken = || {
        let detail = format!(
            "a node of the name `{name}` is running on this database already: give this one another name (--node-name)"
        );
        StartError::Setting(FieldError::new("node_name", detail))
    };
    let mut first_seen = None;
    let patience = Instant::now() + terms.ttl * 2;
    loop {
        let view = store.read_here(|conn, _| look_at_leases(conn, clock))?;
        let namesake = view
            .nodes
            .iter()
            .find(|node| node.name == name && node.is_alive(view.now) && !lock.proves_gone(node));
        let Some(namesake) = namesake else { return Ok(view) };
        let seen = (namesake.instance.clone(), namesake.expires_at);
        let first = first_seen.get_or_insert_with(|| {
            tracing::info!("a node of the name {name} was alive a moment ago: waiting whether it still is");
            seen.clone()
        });
        // It was heard of again.
        if lock.proves_alive(namesake) || *first != seen || Instant::now() > patience {
            return Err(taken());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Membership {
    /// What to do next. What a process held that is known to have ended is free.
    fn plan(&self, view: &LeaseView, leaving: &HashSet<Shard>) -> Plan {
        let mut shards = view.shards.clone();
        for state in &mut shards {
            state.holder.take_if(|holder| self.gone.contains(holder));
        }
        lease::plan(&shards, &view.alive(), &self.instance, leaving)
    }
}

/// Look at the leases now: something has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LookAtLeases;

/// Let go of everything; answered once nothing is at work any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LeaveAll {
    pub(super) done: oneshot::Sender<()>,
}

/// The actor that keeps them.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    registry: Addr<Registry>,
    writer: Option<Writer>,
    /// A round is under way.
    busy: bool,
    /// Somebody asked for another one meanwhile.
    again: bool,
    /// The last one failed.
    failing: bool,
    /// When the last renewal that went well was asked for.
    renewed: Duration,
    /// Nothing is at work in them any more: the next round gives them back.
    vacated: Vec<Lease>,
    /// The engine stops.
    leaving: bool,
    deadline: Option<SpawnHandle>,
}

/// What a round is to do.
struct Round {
    shared: Arc<Shared>,
    writer: Option<Writer>,
    renew: bool,
    leaving: bool,
    vacated: Vec<Lease>,
}

/// What it came to.
struct Done {
    view: LeaseView,
    renewed: Option<(Vec<Lease>, Duration)>,
    given_back: Vec<Lease>,
    taken: (Vec<Lease>, Duration),
    release: Vec<Shard>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, registry: Addr<Registry>) -> Self {
        let renewed = shared.clock.monotonic();
        Self {
            shared,
            registry,
            writer: None,
            busy: false,
            again: false,
            failing: false,
            renewed,
            vacated: Vec::new(),
            leaving: false,
            deadline: None,
        }
    }

    fn round(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy, true) {
            self.again = true;
            return;
        }
        let member = &self.shared.membership;
        let due = self.shared.clock.monotonic() >= self.renewed + member.terms.renewal;
        let round = Round {
            shared: Arc::clone(&self.shared),
            writer: self.writer.take(),
            renew: member.runs_out && due,
            leaving: self.leaving,
            vacated: self.vacated.clone(),
        };
        let job = async move {
            let run = tokio::task::spawn_blocking(move || round.run());
            run.await.unwrap_or((None, Err(StoreError::Panicked)))
        };
        ctx.spawn(job.into_actor(self).map(|(writer, done), keeper, ctx| {
            keeper.busy = false;
            keeper.writer = writer;
            match done {
                Ok(done) => {
                    keeper.failing = false;
                    keeper.apply(done, ctx);
                }
                // Said once, not each second.
                Err(error) if !std::mem::replace(&mut keeper.failing, true) => {
                    tracing::warn!(%error, "the leases could not be looked after; trying again");
                }
                Err(_) => {}
            }
            if std::mem::take(&mut keeper.again) {
                keeper.round(ctx);
            }
        }));
    }

    fn apply(&mut self, done: Done, ctx: &mut Context<Self>) {
        let (shared, member) = (Arc::clone(&self.shared), &self.shared.membership);
        if let Some((leases, asked)) = done.renewed {
            shared.leases.renew(&leases, member.end(asked));
            self.renewed = asked;
        }
        shared.leases.remove(&done.given_back);
        self.vacated.retain(|lease| !done.given_back.contains(lease));
        let is_mine = |lease: &Lease| {
            let row = done.view.shards.iter().find(|state| state.lease.shard == lease.shard);
            row.is_some_and(|row| {
                row.lease.epoch == lease.epoch && row.holder.as_ref() == Some(&member.instance)
            })
        };
        let lost: Vec<Lease> = shared.leases.all().into_iter().filter(|lease| !is_mine(lease)).collect();
        self.lose(&lost, "another process has taken it over, or it ran out");
        let (taken, asked) = done.taken;
        shared.leases.add(&taken, member.end(asked));
        if !taken.is_empty() {
            tracing::info!(
                shards = taken.len(),
                "this node sends for {} more shards of the endpoints",
                taken.len()
            );
            self.registry.do_send(PollNow);
        }
        if !done.given_back.is_empty() {
            tracing::info!(
                shards = done.given_back.len(),
                "{} shards were left to other nodes",
                done.given_back.len()
            );
            shared.hints.send(Hint::Leases);
        }
        self.let_go(done.release, ctx);
        self.set_deadline(ctx);
    }

    /// Lets go of shards, each as soon as nothing is at work in it. Resolves once nothing is in any.
    fn let_go(&mut self, shards: Vec<Shard>, ctx: &mut Context<Self>) -> Vec<oneshot::Receiver<()>> {
        self.shared.leases.leave(&shards);
        let mut all = Vec::with_capacity(shards.len());
        for shard in shards {
            let Some(lease) = self.shared.leases.of(shard) else { continue };
            let (done, vacated) = oneshot::channel();
            let (told, is_told) = oneshot::channel();
            self.registry.do_send(Vacate { shard, done });
            all.push(is_told);
            ctx.spawn(vacated.into_actor(self).map(move |vacated, keeper, ctx| {
                if vacated.is_ok() {
                    keeper.vacated.push(lease);
                    ctx.notify_later(LookAtLeases, SOON);
                }
                let _ = told.send(());
            }));
        }
        all
    }

    /// Stops at once what is at work in shards that are ours no more.
    fn lose(&self, leases: &[Lease], why: &str) {
        if leases.is_empty() {
            return;
        }
        self.shared.leases.remove(leases);
        tracing::warn!(shards = leases.len(), "this node has lost {} of its shards: {why}", leases.len());
        self.registry.do_send(Lost(leases.iter().map(|lease| lease.shard).collect()));
    }

    /// One timer, for the first lease that would run out.
    fn set_deadline(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.deadline.take() {
            ctx.cancel_future(timer);
        }
        let first = self.shared.leases.first_end().filter(|end| *end < Duration::MAX);
        self.deadline = first.map(|end| {
            let wait = end.saturating_sub(self.shared.clock.monotonic());
            ctx.run_later(wait, |keeper, ctx| {
                let run_out = keeper.shared.leases.run_out();
                keeper.lose(&run_out, "they could not be renewed in time");
                keeper.set_deadline(ctx);
            })
        });
    }
}

impl Actor for Keeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.set_deadline(ctx);
        let member = &self.shared.membership;
        // Where leases do not run out there is next to nothing to see.
        let look = if member.runs_out { self.shared.config.poll_interval } else { member.terms.renewal };
        ctx.run_interval(look.min(member.terms.renewal), Self::round);
    }
}

impl Handler<LookAtLeases> for Keeper {
    type Result = ();
    fn handle(&mut self, _: LookAtLeases, ctx: &mut Self::Context) {
        self.round(ctx);
    }
}

impl Handler<LeaveAll> for Keeper {
    type Result = ();
    fn handle(&mut self, LeaveAll { done }: LeaveAll, ctx: &mut Self::Context) {
        self.leaving = true;
        let shards = self.shared.leases.all().into_iter().map(|lease| lease.shard).collect();
        let all = self.let_go(shards, ctx);
        ctx.spawn(
            async move {
                for vacated in all {
                    let _ = vacated.await;
                }
                let _ = done.send(());
            }
            .into_actor(self),
        );
    }
}

impl Round {
    fn run(mut self) -> (Option<Writer>, Result<Done, StoreError>) {
        let done = self.go();
        // What state an error left the connection in is not known.
        let writer = self.writer.take().filter(|_| done.is_ok());
        (writer, done)
    }

    fn go(&mut self) -> Result<Done, StoreError> {
        let shared = Arc::clone(&self.shared);
        let (member, clock) = (&shared.membership, &*shared.clock);
        let ttl = member.terms.ttl;
        let held = shared.leases.all();
        let asked = clock.monotonic();
        let (renew, leaving, vacated) = (self.renew, self.leaving, self.vacated.clone());
        if renew || leaving || !vacated.is_empty() {
            self.writer()?.run(|tx| {
                if renew {
                    tx.keep_leases(&member.node, &held, ttl, clock)?;
                }
                if leaving {
                    // Others need not count on it any more.
                    query::forget_nodes(tx.conn(), std::slice::from_ref(&member.instance))?;
                }
                tx.give_back(&vacated, &member.instance)
            })?;
        }
        let view = shared.store.read_here(|conn, _| look_at_leases(conn, clock))?;
        let plan = if leaving { Plan::default() } else { member.plan(&view, &shared.leases.leaving()) };
        let asked_for_more = clock.monotonic();
        let taken = match &plan.take[..] {
            [] => Vec::new(),
            wanted => {
                self.writer()?.run(|tx| tx.take_over(wanted, &member.instance, &member.gone, ttl, clock))?
            }
        };
        Ok(Done {
            view,
            renewed: renew.then_some((held, asked)),
            given_back: vacated,
            taken: (taken, asked_for_more),
            release: plan.release,
        })
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(self.shared.store.writer()?)),
        }
    }
}
