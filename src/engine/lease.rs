//! Leases: which shards this process sends for, for everyone in the engine to ask, and how it comes
//! to hold its first ones. From then on the `keeper` looks after them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::builder::StartError;
use crate::domain::FieldError;
use crate::domain::clock::Clock;
use crate::domain::ids::{EndpointId, InstanceId};
use crate::domain::lease::{self, Lease, Plan, Shard, Terms};
use crate::store::{LeaseView, NodeRow, ProcessLock, Store, look_at_leases, query};

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
            let held = Held {
                epoch: lease.epoch,
                until,
                leaving: false,
            };
            (lease.shard, held)
        });
        Self {
            clock,
            held: RwLock::new(held.collect()),
        }
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
        Some(Lease {
            shard,
            epoch: held.epoch,
        })
    }

    /// What an endpoint's claims were made under, if that is still held.
    pub(super) fn of(&self, shard: Shard) -> Option<Lease> {
        self.read(|held| {
            held.get(&shard).map(|held| Lease {
                shard,
                epoch: held.epoch,
            })
        })
    }

    /// Whether an attempt under that lease may be on the wire right now.
    pub(super) fn may_send(&self, lease: Lease) -> bool {
        let now = self.clock.monotonic();
        self.read(|held| {
            held.get(&lease.shard)
                .is_some_and(|held| held.epoch == lease.epoch && now < held.until)
        })
    }

    /// Those that new work may be started under.
    pub(super) fn open(&self) -> Vec<Lease> {
        self.read(|held| {
            held.iter()
                .filter(|(_, held)| !held.leaving)
                .map(lease)
                .collect()
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Lease> {
        self.read(|held| held.iter().map(lease).collect())
    }

    pub(super) fn leaving(&self) -> HashSet<Shard> {
        self.read(|held| {
            held.iter()
                .filter(|(_, held)| held.leaving)
                .map(|(shard, _)| *shard)
                .collect()
        })
    }

    pub(super) fn leave(&self, shards: &[Shard]) {
        self.write(|held| {
            for shard in shards {
                if let Some(held) = held.get_mut(shard) {
                    held.leaving = true;
                }
            }
        });
    }

    pub(super) fn add(&self, leases: &[Lease], until: Duration) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                held.insert(
                    *shard,
                    Held {
                        epoch: *epoch,
                        until,
                        leaving: false,
                    },
                );
            }
        });
    }

    pub(super) fn renew(&self, leases: &[Lease], until: Duration) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                if let Some(held) = held.get_mut(shard).filter(|held| held.epoch == *epoch) {
                    held.until = until;
                }
            }
        });
    }

    pub(super) fn remove(&self, leases: &[Lease]) {
        self.write(|held| {
            for Lease { shard, epoch } in leases {
                if held.get(shard).is_some_and(|held| held.epoch == *epoch) {
                    held.remove(shard);
                }
            }
        });
    }

    /// Those whose time is up.
    pub(super) fn run_out(&self) -> Vec<Lease> {
        let now = self.clock.monotonic();
        self.read(|held| {
            held.iter()
                .filter(|(_, held)| held.until <= now)
                .map(lease)
                .collect()
        })
    }

    /// When the first of them runs out.
    pub(super) fn first_end(&self) -> Option<Duration> {
        self.read(|held| held.values().map(|held| held.until).min())
    }
}

fn lease((shard, held): (&Shard, &Held)) -> Lease {
    Lease {
        shard: *shard,
        epoch: held.epoch,
    }
}

/// What of a process's part in the cluster does not change while it runs.
pub(super) struct Membership {
    pub(super) node: NodeRow,
    pub(super) instance: InstanceId,
    /// Whose shards may be taken at once: former processes that are known to have ended, and
    /// itself.
    pub(super) gone: Vec<InstanceId>,
    pub(super) terms: Terms,
    /// Whether leases run out at all: those of a file last as long as its lock.
    pub(super) runs_out: bool,
    /// Held until the process ends, or the engine has been drained.
    lock: std::sync::Mutex<Option<ProcessLock>>,
}

impl Membership {
    /// When a lease ends here that was asked for at `asked`.
    pub(super) fn end(&self, asked: Duration) -> Duration {
        if self.runs_out {
            asked + self.terms.usable()
        } else {
            Duration::MAX
        }
    }

    /// Lets the next process take over at once.
    pub(super) fn unlock(&self) {
        drop(
            self.lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

/// Makes this process known, and takes the shards that are free for it. Waits where a process of
/// its name may be alive, and refuses where it is.
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
    let gone = others.map(|node| InstanceId::from_text(node.instance.as_str()));
    let gone: Vec<InstanceId> = gone.chain([instance.clone()]).collect();
    let node = NodeRow {
        instance: instance.to_string(),
        name: name.to_owned(),
        lock: lock.id().map(str::to_owned),
        started_at: clock.now().as_micros(),
        expires_at: 0,
    };
    let runs_out = store.leases_run_out();
    let lock = std::sync::Mutex::new(Some(lock));
    let membership = Membership {
        node,
        instance,
        gone,
        terms,
        runs_out,
        lock,
    };
    let mut writer = store.writer()?;
    // Of those who had this name, and of those long gone, nobody needs to know any more.
    let old = view.nodes.iter().filter(|node| {
        node.name == name
            || membership
                .gone
                .iter()
                .any(|gone| gone.as_str() == node.instance)
            || node.expires_at < (view.now - SHOWN).as_micros()
    });
    let old: Vec<InstanceId> = old
        .map(|node| InstanceId::from_text(node.instance.as_str()))
        .collect();
    let asked = clock.monotonic();
    let taken = writer.run(|tx| {
        query::forget_nodes(tx.conn(), &old)?;
        tx.keep_leases(&membership.node, &[], terms.ttl, &**clock)?;
        let view = look_at_leases(tx.conn(), &**clock)?;
        // What nobody alive has is free as well as what nobody has.
        let plan = membership.plan(&view, &[], &HashSet::new());
        tx.take_over(
            &plan.take,
            &membership.instance,
            &membership.gone,
            terms.ttl,
            &**clock,
        )
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
        let Some(namesake) = namesake else {
            return Ok(view);
        };
        let seen = (namesake.instance.clone(), namesake.expires_at);
        let first = first_seen.get_or_insert_with(|| {
            tracing::info!(
                "a node of the name {name} was alive a moment ago: waiting whether it still is"
            );
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
    /// What to do next. What a process held that is known to have ended is free, and so is what
    /// this one has given up because it could not renew it in time.
    pub(super) fn plan(&self, view: &LeaseView, held: &[Lease], leaving: &HashSet<Shard>) -> Plan {
        let mut shards = view.shards.clone();
        for state in &mut shards {
            let forgotten = !held.contains(&state.lease);
            state.holder.take_if(|holder| {
                self.gone.contains(holder) && (*holder != self.instance || forgotten)
            });
        }
        lease::plan(&shards, &view.alive(), &self.instance, leaving)
    }
}
