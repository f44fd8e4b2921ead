//! Registry: which endpoint has which supervisor. It starts one when work is due, lets it go when
//! idle, and replaces it when it dies.
//!
//! A supervisor that panicked is replaced only after its attempts were told to stop and seen to
//! end, and its claims were taken back; its neighbours go on meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::Shared;
use super::supervisor::{Changed, Drain, EndpointSupervisor, Inspect, Leave, Live, Polled, Roster, Wake};
use crate::domain::delivery::Queued;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::store::query::{self, ClaimName, Stirring};
use crate::store::{Scope, StoreError, Wake as Committed};

/// A supervisor is started this long before its next delivery is due.
const HEAD_START: Duration = Duration::from_secs(2);

/// From the committer: deliveries that were just made. A hint; the poll finds what is lost of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct NewDeliveries(pub(super) Vec<Committed>);

/// An endpoint was changed, paused, resumed or created. Answered once its supervisor knows.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct EndpointChanged {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) resumed: bool,
}

/// Something became due at an endpoint other than by publishing.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Nudge(pub(super) EndpointId);

/// From a supervisor with nothing to do.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct MayLeave {
    pub(super) endpoint_id: EndpointId,
    pub(super) generation: u64,
    /// How many of our messages it had got by then.
    pub(super) heard: u64,
    pub(super) supervisor: Addr<EndpointSupervisor>,
}

/// From a supervisor's `Drop`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct SupervisorGone {
    pub(super) endpoint_id: EndpointId,
    pub(super) generation: u64,
    pub(super) cleanly: bool,
}

/// Stop claiming; answered by `done` when every supervisor has left.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct DrainAll {
    pub(super) done: oneshot::Sender<()>,
}

/// Break off what is still in flight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AbortAll;

/// What an endpoint's supervisor is doing; `None` where there is none.
#[derive(Debug, Message)]
#[rtype(result = "Option<Live>")]
pub(super) struct InspectEndpoint(pub(super) EndpointId);

/// Makes an endpoint's supervisor panic. False where there is none.
#[cfg(feature = "testing")]
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct PanicSupervisor(pub(super) EndpointId);

enum Entry {
    Running {
        supervisor: Addr<EndpointSupervisor>,
        generation: u64,
        roster: Roster,
        /// Messages sent to it, to tell whether it has got them all.
        told: u64,
    },
    /// Its supervisor died: its attempts are ending, its claims are being taken back.
    Recovering,
}

/// What a poll has found.
struct Look {
    found: Vec<Stirring>,
    /// The counter of changes of endpoints.
    endpoints: i64,
    /// Whether this process still owns what it claims.
    owner: bool,
}

pub(super) struct Registry {
    shared: Arc<Shared>,
    entries: HashMap<EndpointId, Entry>,
    generation: u64,
    polling: bool,
    /// The counter of changes of endpoints, as the supervisors last heard of it.
    endpoints: Option<i64>,
    /// Claims of endpoints without a supervisor, as the last poll found them.
    orphans: HashSet<ClaimName>,
    /// The engine stops: no supervisor is started any more.
    draining: bool,
    drained: Option<oneshot::Sender<()>>,
}

impl Registry {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            entries: HashMap::new(),
            generation: 0,
            polling: false,
            endpoints: None,
            orphans: HashSet::new(),
            draining: false,
            drained: None,
        }
    }

    /// The endpoint's supervisor, started if need be. `None` while one must not run.
    fn supervisor(&mut self, endpoint: &Arc<Endpoint>, ctx: &mut Context<Self>) -> Option<&mut Entry> {
        if self.draining {
            return None;
        }
        if !self.entries.contains_key(&endpoint.id) && !endpoint.is_active() {
            return None;
        }
        let entry = self.entries.entry(endpoint.id.clone()).or_insert_with(|| {
            self.generation += 1;
            let roster = Roster::default();
            let supervisor = EndpointSupervisor::new(
                Arc::clone(&self.shared),
                ctx.address(),
                Arc::clone(endpoint),
                self.generation,
                roster.clone(),
            );
            Entry::Running { supervisor: supervisor.start(), generation: self.generation, roster, told: 0 }
        });
        Some(entry)
    }

    /// Looks for due work that no hint told of.
    fn poll(&mut self, ctx: &mut Context<Self>) {
        if self.polling || self.draining {
            return;
        }
        self.polling = true;
        let horizon = self.shared.clock.now() + HEAD_START;
        let shared = Arc::clone(&self.shared);
        let read = async move {
            let (epoch, of_tokens) = (shared.epoch, Arc::clone(&shared));
            let poll = move |conn: &mut _, _: &_| {
                of_tokens.keep_lock();
                of_tokens.tokens.refresh(conn)?;
                Ok(Look {
                    found: query::stirring(conn, epoch, horizon)?,
                    endpoints: query::counter(conn, query::ENDPOINTS)?,
                    owner: query::counter(conn, query::EPOCH)? == epoch,
                })
            };
            shared.store.read("poll", poll).await
        };
        ctx.spawn(read.into_actor(self).map(|found, registry, ctx| {
            registry.polling = false;
            match found {
                Ok(Look { owner: false, .. }) => registry.yield_to_another(),
                Ok(Look { found, endpoints, .. }) => {
                    if registry.endpoints != Some(endpoints) {
                        registry.reconcile(endpoints, ctx);
                    }
                    registry.take_back_orphans(&found);
                    found.into_iter().for_each(|one| registry.stir(one, ctx));
                }
                Err(error) => tracing::warn!(%error, "cannot look for due deliveries"),
            }
        }));
    }

    /// Another process sends from now on: what this one has claimed is that one's to take back.
    fn yield_to_another(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        tracing::error!(
            "another process has started to send from this database: this one sends nothing more"
        );
        self.shared.superseded.store(true, std::sync::atomic::Ordering::Relaxed);
        for entry in self.entries.values() {
            if let Entry::Running { supervisor, .. } = entry {
                supervisor.do_send(Drain);
            }
        }
    }

    fn stir(&mut self, found: Stirring, ctx: &mut Context<Self>) {
        match self.entries.get_mut(&found.endpoint_id) {
            Some(Entry::Running { supervisor, told, .. }) => {
                *told += 1;
                supervisor.do_send(Polled { next: found.next, sending: Some(found.sending) });
            }
            Some(Entry::Recovering) => {}
            None if found.next.is_some() => self.load_and_start(found.endpoint_id, ctx),
            None => {}
        }
    }

    /// Some endpoint has changed since the last poll. Whoever changed it has told its supervisor, or
    /// went away before: so every supervisor hears of its endpoint as it stands.
    fn reconcile(&mut self, endpoints: i64, ctx: &mut Context<Self>) {
        let live: Vec<EndpointId> = self.entries.keys().cloned().collect();
        let shared = Arc::clone(&self.shared);
        let read = async move {
            let read = move |conn: &mut _, codec: &_| {
                let each = live.into_iter().map(|id| query::endpoint(conn, codec, &id));
                each.collect::<Result<Vec<_>, _>>()
            };
            shared.store.read("live endpoints", read).await
        };
        ctx.spawn(read.into_actor(self).map(move |found, registry, _| match found {
            Ok(found) => {
                registry.endpoints = Some(endpoints);
                for endpoint in found.into_iter().flatten() {
                    if let Some(Entry::Running { supervisor, told, .. }) =
                        registry.entries.get_mut(&endpoint.id)
                    {
                        *told += 1;
                        supervisor.do_send(Changed { endpoint: Arc::new(endpoint), resumed: false });
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the live endpoints anew"),
        }));
    }

    /// Claims that two polls in a row found at an endpoint without a supervisor are nobody's.
    fn take_back_orphans(&mut self, found: &[Stirring]) {
        let of_nobody = found.iter().filter(|one| !self.entries.contains_key(&one.endpoint_id));
        let now: HashSet<ClaimName> = of_nobody.flat_map(|one| one.sending.iter().cloned()).collect();
        let stuck: Vec<ClaimName> = now.intersection(&self.orphans).cloned().collect();
        self.orphans = now;
        if !stuck.is_empty() {
            let shared = Arc::clone(&self.shared);
            actix::spawn(async move { shared.take_back(stuck).await });
        }
    }

    fn load_and_start(&mut self, id: EndpointId, ctx: &mut Context<Self>) {
        let shared = Arc::clone(&self.shared);
        let read = async move {
            shared.store.read("endpoint", move |conn, codec| query::endpoint(conn, codec, &id)).await
        };
        ctx.spawn(read.into_actor(self).map(
            |endpoint: Result<_, StoreError>, registry, ctx| match endpoint {
                Ok(Some(endpoint)) => {
                    registry.supervisor(&Arc::new(endpoint), ctx);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot read an endpoint with due deliveries"),
            },
        ));
    }

    /// After a panic: the attempts end, the claims are taken back, and the poll starts anew.
    fn recover(&mut self, id: EndpointId, roster: Roster, ctx: &mut Context<Self>) {
        tracing::error!(endpoint = %id, "the supervisor of {id} panicked: this is a defect, please report it; it is being replaced");
        self.shared.metrics.supervisor_panics.inc();
        self.entries.insert(id.clone(), Entry::Recovering);
        let shared = Arc::clone(&self.shared);
        let recovery = async move {
            roster.abort.cancel();
            roster.tracker.close();
            roster.tracker.wait().await;
            loop {
                let (scope, at) = (Scope::Endpoint(id.clone()), shared.clock.now());
                let taken_back = shared
                    .committer
                    .run(move |tx| tx.interrupt(&scope, at, true, "its supervisor broke off"))
                    .await;
                match taken_back {
                    Ok(_) => return id,
                    Err(error) => {
                        tracing::warn!(endpoint = %id, %error, "cannot take back the claims of {id} yet")
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        ctx.spawn(recovery.into_actor(self).map(|id, registry, ctx| {
            registry.entries.remove(&id);
            registry.finish_drain();
            registry.load_and_start(id, ctx);
        }));
    }

    fn finish_drain(&mut self) {
        if self.entries.is_empty()
            && let Some(done) = self.drained.take()
        {
            let _ = done.send(());
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        self.poll(ctx);
        ctx.run_interval(self.shared.config.poll_interval, Self::poll);
    }
}

impl Handler<NewDeliveries> for Registry {
    type Result = ();
    fn handle(&mut self, NewDeliveries(new): NewDeliveries, ctx: &mut Self::Context) {
        let mut by_endpoint: HashMap<EndpointId, (Arc<Endpoint>, Vec<Queued>)> = HashMap::new();
        for Committed { endpoint, queued } in new {
            by_endpoint.entry(endpoint.id.clone()).or_insert_with(|| (endpoint, Vec::new())).1.push(queued);
        }
        for (endpoint, queued) in by_endpoint.into_values() {
            if let Some(Entry::Running { supervisor, told, .. }) = self.supervisor(&endpoint, ctx) {
                *told += 1;
                supervisor.do_send(Wake(queued));
            }
        }
    }
}

impl Handler<EndpointChanged> for Registry {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, changed: EndpointChanged, ctx: &mut Self::Context) -> Self::Result {
        let EndpointChanged { endpoint, resumed } = changed;
        let Some(Entry::Running { supervisor, told, .. }) = self.supervisor(&endpoint, ctx) else {
            return Box::pin(async {});
        };
        *told += 1;
        let told = supervisor.send(Changed { endpoint, resumed });
        // A supervisor that is gone by then reads the endpoint anew when it is replaced.
        Box::pin(async move {
            let _ = told.await;
        })
    }
}

impl Handler<Nudge> for Registry {
    type Result = ();
    fn handle(&mut self, Nudge(id): Nudge, ctx: &mut Self::Context) {
        match self.entries.get_mut(&id) {
            Some(Entry::Running { supervisor, told, .. }) => {
                *told += 1;
                supervisor.do_send(Polled { next: Some(self.shared.clock.now()), sending: None });
            }
            Some(Entry::Recovering) => {}
            None => self.load_and_start(id, ctx),
        }
    }
}

impl Handler<MayLeave> for Registry {
    type Result = ();
    fn handle(&mut self, ask: MayLeave, _: &mut Self::Context) {
        let up_to_date = matches!(
            self.entries.get(&ask.endpoint_id),
            Some(Entry::Running { generation, told, .. }) if *generation == ask.generation && *told == ask.heard
        );
        if up_to_date {
            self.entries.remove(&ask.endpoint_id);
            self.finish_drain();
        }
        ask.supervisor.do_send(if up_to_date { Leave::Go } else { Leave::Stay });
    }
}

impl Handler<SupervisorGone> for Registry {
    type Result = ();
    fn handle(&mut self, gone: SupervisorGone, ctx: &mut Self::Context) {
        let roster = match self.entries.get(&gone.endpoint_id) {
            Some(Entry::Running { generation, roster, .. }) if *generation == gone.generation => {
                roster.clone()
            }
            _ => return,
        };
        if gone.cleanly {
            self.entries.remove(&gone.endpoint_id);
            self.finish_drain();
        } else {
            self.recover(gone.endpoint_id, roster, ctx);
        }
    }
}

impl Handler<DrainAll> for Registry {
    type Result = ();
    fn handle(&mut self, DrainAll { done }: DrainAll, _: &mut Self::Context) {
        self.draining = true;
        self.drained = Some(done);
        for entry in self.entries.values() {
            if let Entry::Running { supervisor, .. } = entry {
                supervisor.do_send(Drain);
            }
        }
        self.finish_drain();
    }
}

impl Handler<AbortAll> for Registry {
    type Result = ();
    fn handle(&mut self, _: AbortAll, _: &mut Self::Context) {
        for entry in self.entries.values() {
            if let Entry::Running { roster, .. } = entry {
                roster.abort.cancel();
            }
        }
    }
}

impl Handler<InspectEndpoint> for Registry {
    type Result = ResponseFuture<Option<Live>>;
    fn handle(&mut self, InspectEndpoint(id): InspectEndpoint, _: &mut Self::Context) -> Self::Result {
        let asked = match self.entries.get(&id) {
            Some(Entry::Running { supervisor, .. }) => Some(supervisor.send(Inspect)),
            _ => None,
        };
        Box::pin(async move { asked?.await.ok() })
    }
}

#[cfg(feature = "testing")]
impl Handler<PanicSupervisor> for Registry {
    type Result = bool;
    fn handle(&mut self, PanicSupervisor(id): PanicSupervisor, _: &mut Self::Context) -> bool {
        match self.entries.get(&id) {
            Some(Entry::Running { supervisor, .. }) => {
                supervisor.do_send(super::supervisor::InjectPanic);
                true
            }
            _ => false,
        }
    }
}
