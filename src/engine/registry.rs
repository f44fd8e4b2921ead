//! Registry: which endpoint has which supervisor. It starts one when work is due, lets it go when
//! idle, and replaces it when it dies.
//!
//! A supervisor that panicked is replaced only after its attempts were told to stop and seen to
//! end, and its claims were taken back; its neighbours go on meanwhile.

mod inbox;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

#[cfg(feature = "testing")]
pub(super) use self::inbox::PanicSupervisor;
pub(super) use self::inbox::{
    AbortAll, Due, EndpointChanged, InspectEndpoint, Lost, MayLeave, NewDeliveries, Nudge, PollNow,
    SupervisorGone, Vacate,
};
use super::Shared;
use super::supervisor::{Changed, Drain, EndpointSupervisor, Polled, Roster};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;
use crate::domain::lease::Shard;
use crate::store::query::{self, ClaimName, Stirring};
use crate::store::{Scope, StoreError};

/// A supervisor is started this long before its next delivery is due.
const HEAD_START: Duration = Duration::from_secs(2);

/// How many changes are looked at one by one; beyond them every supervisor's endpoint is read.
const MAX_CHANGES: i64 = 1000;

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
}

/// The supervisors of a shard, by their endpoints.
type Entries = HashMap<EndpointId, Entry>;

pub(super) struct Registry {
    shared: Arc<Shared>,
    entries: HashMap<Shard, Entries>,
    /// Who waits for a shard to be vacated.
    vacating: Vec<Vacate>,
    generation: u64,
    polling: bool,
    /// Somebody asked for a poll during the present one, which may have read too early.
    poll_again: bool,
    /// The counter of changes of endpoints, as the supervisors last heard of it.
    endpoints: Option<i64>,
    /// Claims of endpoints without a supervisor, as the last poll found them.
    orphans: HashSet<ClaimName>,
}

impl Registry {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            entries: HashMap::new(),
            vacating: Vec::new(),
            generation: 0,
            polling: false,
            poll_again: false,
            endpoints: None,
            orphans: HashSet::new(),
        }
    }

    /// The endpoint's supervisor, started if need be. `None` while one must not run.
    fn supervisor(
        &mut self,
        endpoint: &Arc<Endpoint>,
        ctx: &mut Context<Self>,
    ) -> Option<&mut Entry> {
        self.shared.leases.for_new_work(&endpoint.id)?;
        if !endpoint.is_active() && self.entry(&endpoint.id).is_none() {
            return None;
        }
        let entries = self.entries.entry(Shard::of(&endpoint.id)).or_default();
        let entry = entries.entry(endpoint.id.clone()).or_insert_with(|| {
            self.generation += 1;
            let roster = Roster::default();
            let supervisor = EndpointSupervisor::new(
                Arc::clone(&self.shared),
                ctx.address(),
                Arc::clone(endpoint),
                self.generation,
                roster.clone(),
            );
            Entry::Running {
                supervisor: supervisor.start(),
                generation: self.generation,
                roster,
                told: 0,
            }
        });
        Some(entry)
    }

    fn entry(&mut self, id: &EndpointId) -> Option<&mut Entry> {
        self.entries.get_mut(&Shard::of(id))?.get_mut(id)
    }

    fn remove(&mut self, id: &EndpointId) {
        let shard = Shard::of(id);
        if let Some(entries) = self.entries.get_mut(&shard) {
            entries.remove(id);
            if entries.is_empty() {
                self.entries.remove(&shard);
                self.answer_vacated(shard);
            }
        }
    }

    fn answer_vacated(&mut self, shard: Shard) {
        if !self.entries.contains_key(&shard) {
            for vacate in self.vacating.extract_if(.., |vacate| vacate.shard == shard) {
                let _ = vacate.done.send(());
            }
        }
    }

    /// Every supervisor of a shard: to claim nothing more, and to leave.
    fn drain(&self, shard: Shard, abort: bool) {
        for entry in self
            .entries
            .get(&shard)
            .into_iter()
            .flat_map(HashMap::values)
        {
            if let Entry::Running {
                supervisor, roster, ..
            } = entry
            {
                if abort {
                    roster.abort.cancel();
                }
                supervisor.do_send(Drain);
            }
        }
    }

    /// Looks for due work that no hint told of.
    fn poll(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.polling, true) {
            self.poll_again = true;
            return;
        }
        let horizon = self.shared.clock.schedule_now() + HEAD_START;
        let shared = Arc::clone(&self.shared);
        let read = async move {
            // It says so in the log by itself; what is claimed and published fails by it.
            let _ = shared.store.check_file();
            let (held, of_tokens) = (shared.leases.open(), Arc::clone(&shared));
            let poll = move |conn: &mut _, _: &_| {
                of_tokens.tokens.refresh(conn)?;
                Ok(Look {
                    found: query::stirring(conn, &held, horizon)?,
                    endpoints: query::counter(conn, query::ENDPOINTS)?,
                })
            };
            shared.store.read("poll", poll).await
        };
        ctx.spawn(read.into_actor(self).map(|found, registry, ctx| {
            registry.polling = false;
            let again = std::mem::take(&mut registry.poll_again);
            match found {
                Ok(Look { found, endpoints }) => {
                    if registry.endpoints != Some(endpoints) {
                        registry.reconcile(endpoints, ctx);
                    }
                    registry.take_back_orphans(&found);
                    found.into_iter().for_each(|one| registry.stir(one, ctx));
                }
                Err(error) => tracing::warn!(%error, "cannot look for due deliveries"),
            }
            if again {
                registry.poll(ctx);
            }
        }));
    }

    fn stir(&mut self, found: Stirring, ctx: &mut Context<Self>) {
        match self.entry(&found.endpoint_id) {
            Some(Entry::Running {
                supervisor, told, ..
            }) => {
                *told += 1;
                supervisor.do_send(Polled {
                    next: found.next,
                    sending: Some(found.sending),
                });
            }
            Some(Entry::Recovering) => {}
            None if found.next.is_some() => self.load_and_start(found.endpoint_id, ctx),
            None => {}
        }
    }

    /// Some endpoint has changed since the last poll. Whoever changed it has told its supervisor,
    /// or went away before, or is another node: so the supervisors of those that changed hear how
    /// they stand.
    fn reconcile(&mut self, endpoints: i64, ctx: &mut Context<Self>) {
        let before = self.endpoints.unwrap_or(-1);
        let live: HashSet<EndpointId> = self
            .entries
            .values()
            .flat_map(HashMap::keys)
            .cloned()
            .collect();
        let shared = Arc::clone(&self.shared);
        let read = async move {
            let read = move |conn: &mut _, codec: &_| {
                let changed = query::changed_after(conn, before, MAX_CHANGES)?;
                let is_cut =
                    i64::try_from(changed.len()).is_ok_and(|changed| changed >= MAX_CHANGES);
                let changed: HashSet<EndpointId> = changed.into_iter().map(|(id, _)| id).collect();
                let concerned = live.into_iter().filter(|id| is_cut || changed.contains(id));
                let each = concerned.map(|id| {
                    Ok((
                        query::endpoint(conn, codec, &id)?,
                        query::health(conn, &id)?,
                    ))
                });
                each.collect::<Result<Vec<_>, StoreError>>()
            };
            shared.store.read("changed endpoints", read).await
        };
        ctx.spawn(
            read.into_actor(self)
                .map(move |found, registry, _| match found {
                    Ok(found) => {
                        registry.endpoints = Some(endpoints);
                        for (endpoint, health) in found {
                            let Some(endpoint) = endpoint else { continue };
                            if let Some(Entry::Running {
                                supervisor, told, ..
                            }) = registry.entry(&endpoint.id)
                            {
                                *told += 1;
                                let (endpoint, health) = (Arc::new(endpoint), Some(health));
                                supervisor.do_send(Changed { endpoint, health });
                            }
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot read the changed endpoints"),
                }),
        );
    }

    /// Claims that two polls in a row found at an endpoint without a supervisor are nobody's.
    fn take_back_orphans(&mut self, found: &[Stirring]) {
        let of_nobody = found.iter().filter(|one| {
            let entries = self.entries.get(&Shard::of(&one.endpoint_id));
            !entries.is_some_and(|entries| entries.contains_key(&one.endpoint_id))
        });
        let now: HashSet<ClaimName> = of_nobody
            .flat_map(|one| one.sending.iter().cloned())
            .collect();
        let stuck: Vec<ClaimName> = now.intersection(&self.orphans).cloned().collect();
        self.orphans = now;
        if !stuck.is_empty() {
            let shared = Arc::clone(&self.shared);
            actix::spawn(async move { shared.take_back(stuck).await });
        }
    }

    fn nudge(&mut self, id: EndpointId, ctx: &mut Context<Self>) {
        let now = self.shared.clock.schedule_now();
        match self.entry(&id) {
            Some(Entry::Running {
                supervisor, told, ..
            }) => {
                *told += 1;
                supervisor.do_send(Polled {
                    next: Some(now),
                    sending: None,
                });
            }
            Some(Entry::Recovering) => {}
            None => self.load_and_start(id, ctx),
        }
    }

    fn load_and_start(&mut self, id: EndpointId, ctx: &mut Context<Self>) {
        let shared = Arc::clone(&self.shared);
        let read = async move {
            shared
                .store
                .read("endpoint", move |conn, codec| {
                    query::endpoint(conn, codec, &id)
                })
                .await
        };
        ctx.spawn(
            read.into_actor(self)
                .map(
                    |endpoint: Result<_, StoreError>, registry, ctx| match endpoint {
                        Ok(Some(endpoint)) => {
                            registry.supervisor(&Arc::new(endpoint), ctx);
                        }
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(%error, "cannot read an endpoint with due deliveries")
                        }
                    },
                ),
        );
    }

    /// After a panic: the attempts end, the claims are taken back, and the poll starts anew.
    fn recover(&mut self, id: EndpointId, roster: Roster, ctx: &mut Context<Self>) {
        tracing::error!(endpoint = %id, "the supervisor of {id} panicked: this is a defect, please report it; it is being replaced");
        self.shared.metrics.supervisor_panics.inc();
        self.entries
            .entry(Shard::of(&id))
            .or_default()
            .insert(id.clone(), Entry::Recovering);
        let shared = Arc::clone(&self.shared);
        let recovery = async move {
            roster.abort.cancel();
            roster.tracker.close();
            roster.tracker.wait().await;
            // Where the lease is lost, its next owner takes them back.
            while let Some(lease) = shared.leases.of(Shard::of(&id)) {
                let (scope, at) = (Scope::Endpoint(id.clone(), lease), shared.clock.now());
                let taken_back = shared
                    .committer
                    .run(move |tx| tx.interrupt(&scope, at, true, "its supervisor broke off"))
                    .await;
                match taken_back {
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(endpoint = %id, %error, "cannot take back the claims of {id} yet")
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            id
        };
        ctx.spawn(recovery.into_actor(self).map(|id, registry, ctx| {
            registry.remove(&id);
            registry.load_and_start(id, ctx);
        }));
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
