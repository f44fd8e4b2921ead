//! Keeper: renews this process's leases, takes what is free, lets go of what others should have,
//! and gives up in time what it could not renew: at `a renewal's own start + ttl − margin`, on a
//! clock that goes on while the machine is suspended.
//!
//! It never sends, and never decides who gets what (`domain::lease` does).

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::Shared;
use super::registry::{Lost, PollNow, Registry, Vacate};
use crate::domain::lease::{Lease, Plan, Shard};
use crate::metrics::LeaseChange;
use crate::store::{Hint, LeaseView, StoreError, Writer, look_at_leases, query};

/// How long shards that were vacated wait for others, to be given back together.
const SOON: Duration = Duration::from_millis(20);

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
        let (member, held) = (&self.shared.membership, self.shared.leases.all());
        // What was lost meanwhile is nobody's to give back.
        self.vacated.retain(|lease| held.contains(lease));
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
        self.vacated
            .retain(|lease| !done.given_back.contains(lease));
        let is_mine = |lease: &Lease| {
            let row = done
                .view
                .shards
                .iter()
                .find(|state| state.lease.shard == lease.shard);
            row.is_some_and(|row| {
                row.lease.epoch == lease.epoch && row.holder.as_ref() == Some(&member.instance)
            })
        };
        let lost: Vec<Lease> = shared
            .leases
            .all()
            .into_iter()
            .filter(|lease| !is_mine(lease))
            .collect();
        self.lose(&lost, "another process has taken it over, or it ran out");
        let (taken, asked) = done.taken;
        shared.leases.add(&taken, member.end(asked));
        shared.metrics.leases(LeaseChange::Taken, taken.len());
        shared
            .metrics
            .leases(LeaseChange::GivenBack, done.given_back.len());
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

    /// Lets go of shards, each as soon as nothing is at work in it. Resolves once nothing is in
    /// any.
    fn let_go(
        &mut self,
        shards: Vec<Shard>,
        ctx: &mut Context<Self>,
    ) -> Vec<oneshot::Receiver<()>> {
        self.shared.leases.leave(&shards);
        let mut all = Vec::with_capacity(shards.len());
        for shard in shards {
            let Some(lease) = self.shared.leases.of(shard) else {
                continue;
            };
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
        self.shared.metrics.leases(LeaseChange::Lost, leases.len());
        tracing::warn!(
            shards = leases.len(),
            "this node has lost {} of its shards: {why}",
            leases.len()
        );
        self.registry
            .do_send(Lost(leases.iter().map(|lease| lease.shard).collect()));
    }

    /// One timer, for the first lease that would run out.
    fn set_deadline(&mut self, ctx: &mut Context<Self>) {
        self.shared
            .metrics
            .shards
            .set(i64::try_from(self.shared.leases.all().len()).unwrap_or(i64::MAX));
        if let Some(timer) = self.deadline.take() {
            ctx.cancel_future(timer);
        }
        let first = self
            .shared
            .leases
            .first_end()
            .filter(|end| *end < Duration::MAX);
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
        let look = if member.runs_out {
            self.shared.config.poll_interval
        } else {
            member.terms.renewal
        };
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
        let shards = self
            .shared
            .leases
            .all()
            .into_iter()
            .map(|lease| lease.shard)
            .collect();
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
        // On the connection that renewed, where there is one: nobody's reads are in its way.
        let view = if member.runs_out {
            self.writer()?.run(|tx| look_at_leases(tx.conn(), clock))?
        } else {
            shared
                .store
                .read_here(|conn, _| look_at_leases(conn, clock))?
        };
        let plan = if leaving {
            Plan::default()
        } else {
            member.plan(&view, &shared.leases.all(), &shared.leases.leaving())
        };
        let asked_for_more = clock.monotonic();
        let taken = match &plan.take[..] {
            [] => Vec::new(),
            wanted => self
                .writer()?
                .run(|tx| tx.take_over(wanted, &member.instance, &member.gone, ttl, clock))?,
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
