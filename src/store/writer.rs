//! The one writing connection, and how a group becomes one commit.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::endpoint_cache::EndpointCache;
use super::file_watch::WatchedCompanions;
use super::group::OrderingKey;
use super::pool::connection_is_alive;
use super::query::{self, Behind};
#[cfg(feature = "postgres")]
use super::transactions::Transactions;
use super::transactions::{Publishing, Targets};
use super::{
    AnyConnection, Claim, ClaimResult, EndpointCodec, Held, Member, Publish, Refusal, StoreError,
    Wake, group,
};
use crate::domain::delivery::Delivery;
use crate::domain::endpoint::Endpoint;
use crate::domain::event::SealedEvent;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::Life;
use crate::domain::settings::Ordering;

/// The writers' side of the database.
pub(crate) struct Writer {
    /// Before the connection, so that it is dropped before that is closed.
    watch: Option<WatchedCompanions>,
    conn: Held,
    cache: EndpointCache,
    codec: Arc<EndpointCodec>,
    /// Whether the last commit got as far as to begin its transaction.
    begun: bool,
}

/// An open transaction of the writer, for an operation to work in.
pub(crate) struct Tx<'a> {
    pub(super) conn: &'a mut AnyConnection,
    pub(super) codec: &'a EndpointCodec,
    pub(super) cache: &'a mut EndpointCache,
    /// The deliveries that it has made.
    pub(super) wakes: &'a mut Vec<Wake>,
}

/// Which `sending` rows are to be taken back. Never those of a later owner.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// Those of whole shards: their owner was another one, or leaves.
    Shards(Vec<Lease>),
    /// Those of one endpoint, whose supervisor died.
    Endpoint(EndpointId, Lease),
}

impl Writer {
    pub(super) fn new(
        conn: Held,
        codec: Arc<EndpointCodec>,
        watch: Option<WatchedCompanions>,
    ) -> Self {
        Self {
            watch,
            conn,
            cache: EndpointCache::default(),
            codec,
            begun: true,
        }
    }

    /// Returns the writer, unless its connection has died while nobody used it.
    pub(crate) fn if_alive(mut self) -> Option<Self> {
        self.conn.with(connection_is_alive).then_some(self)
    }

    /// Returns false where the last commit could not even begin: then nothing of it was sent.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Writes all members in one transaction and commits it. On an error nothing of it is kept,
    /// but for an error of the commit itself, of which that cannot be known.
    ///
    /// Returns the deliveries that are new.
    pub(crate) fn commit(&mut self, members: &mut [Member]) -> Result<Vec<Wake>, StoreError> {
        // Before, so that nothing is written to a file that nobody will find; and after, so that
        // nothing is answered.
        self.watch
            .as_ref()
            .map_or(Ok(()), WatchedCompanions::check)?;
        let Self {
            conn,
            cache,
            codec,
            begun,
            ..
        } = self;
        let write = |conn: &mut AnyConnection| {
            let mut wakes = Vec::new();
            let tx = &mut Tx {
                conn,
                codec,
                cache,
                wakes: &mut wakes,
            };
            // Outcomes first: what is known of an attempt is written before anyone takes its claim
            // back. Then the operations, whose changes of endpoints hold for all that follows.
            tx.cache.refresh(tx.conn)?;
            tx.record_all(members)?;
            for member in members.iter_mut() {
                if let Member::Operate(operation) = member {
                    operation.0.run(tx)?;
                }
            }
            tx.cache.refresh(tx.conn)?;
            tx.claim_all(members)?;
            tx.publish_all(members)?;
            Ok(wakes)
        };
        let mut result = conn.with(|conn| {
            let started = conn.own().begin();
            *begun = started.is_ok();
            started?;
            end(conn, write)
        });
        if let Some(moved) = self.watch.as_ref().and_then(|watch| watch.check().err()) {
            result = Err(moved.into());
        }
        if result.is_err() {
            self.cache.clear();
            members.iter_mut().for_each(Member::reset);
        }
        result
    }

    /// Runs one operation in a transaction of its own, before there is a committer.
    pub(crate) fn run<T>(
        &mut self,
        operation: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Self {
            conn, cache, codec, ..
        } = self;
        let done = conn.with(|conn| {
            in_transaction(conn, |conn| {
                operation(&mut Tx {
                    conn,
                    codec,
                    cache,
                    wakes: &mut Vec::new(),
                })
            })
        });
        self.cache.clear();
        done
    }
}

impl Tx<'_> {
    /// Claims for all supervisors of a group that still own what they claim.
    fn claim_all(&mut self, members: &mut [Member]) -> Result<(), StoreError> {
        let mut slots: Vec<_> = members.iter_mut().filter_map(Member::as_claim).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let leases: HashSet<Lease> = slots.iter().map(|slot| slot.input.lease).collect();
        let held = self.conn.own().hold(&leases)?;
        let (mut asked, mut claims) = (Vec::new(), Vec::new());
        for (index, slot) in slots.iter().enumerate() {
            let endpoint = self
                .cache
                .get(self.conn, self.codec, &slot.input.endpoint_id)?;
            let Some(endpoint) = endpoint.filter(|endpoint| endpoint.is_active()) else {
                continue;
            };
            if held.contains(&slot.input.lease) {
                let (claim, behind) = self.in_order(&endpoint, &slot.input)?;
                asked.push((index, endpoint, behind));
                claims.push(claim);
            }
        }
        let claimed = self
            .conn
            .own()
            .claim(&claims.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
        let mut results = Vec::with_capacity(claimed.len());
        for ((index, endpoint, behind), claimed) in asked.into_iter().zip(claimed) {
            let aside = self.set_aside(&endpoint, &behind, slots[index].input.at)?;
            results.push((index, ClaimResult { claimed, aside }));
        }
        drop(claims);
        slots
            .iter_mut()
            .for_each(|slot| slot.output = Some(ClaimResult::default()));
        for (index, result) in results {
            slots[index].output = Some(result);
        }
        Ok(())
    }

    /// What of a claim may be claimed, as far as the order of its keys goes, and what may not.
    fn in_order<'c>(
        &mut self,
        endpoint: &Endpoint,
        claim: &'c Claim,
    ) -> Result<(Cow<'c, Claim>, Vec<Behind>), StoreError> {
        if endpoint.settings.ordering == Ordering::None {
            return Ok((Cow::Borrowed(claim), Vec::new()));
        }
        let behind = query::behind(self.conn, &endpoint.id, claim.ids())?;
        let mut claim = claim.clone();
        claim
            .wanted
            .retain(|(id, _)| behind.iter().all(|one| one.id != *id));
        Ok((Cow::Owned(claim), behind))
    }

    /// Publishes for all publishers of a group.
    fn publish_all(&mut self, members: &mut [Member]) -> Result<(), StoreError> {
        let mut slots: Vec<_> = members.iter_mut().filter_map(Member::as_publish).collect();
        let outcomes = self.publish(slots.iter().map(|slot| &slot.input))?;
        for (slot, outcome) in slots.iter_mut().zip(outcomes) {
            slot.output = Some(outcome);
        }
        Ok(())
    }

    /// Whom an event goes to.
    fn targets(&mut self, publish: &Publish, event: &SealedEvent) -> Result<Targets, StoreError> {
        let Self { conn, cache, .. } = self;
        match &publish.only {
            None => cache.wanting(conn, &event.tenant, &event.event_type),
            Some(only) => {
                let all = cache.of_tenant(conn, &event.tenant)?;
                Ok(all
                    .iter()
                    .filter(|target| target.id == *only)
                    .cloned()
                    .collect())
            }
        }
    }

    /// Stores events for the endpoints of their tenants as they stand now.
    pub(super) fn publish<'p>(
        &mut self,
        asked: impl Iterator<Item = &'p Publish>,
    ) -> Result<Vec<group::Outcome>, StoreError> {
        let (mut outcomes, mut publishing, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let asked: Vec<&Publish> = asked.collect();
        let keys: BTreeSet<OrderingKey<'_>> =
            asked.iter().flat_map(|one| one.ordering_keys()).collect();
        let had = self.conn.own().try_keys(keys)?;
        for (place, publish) in asked.into_iter().enumerate() {
            if !publish.ordering_keys().is_subset(&had) {
                outcomes.push(Err(Refusal::KeyTaken));
                continue;
            }
            let targets = publish
                .events
                .iter()
                .map(|event| self.targets(publish, event));
            let targets: Vec<Targets> = targets.collect::<Result<_, _>>()?;
            let found = publish.only.is_none() || targets.iter().all(|targets| !targets.is_empty());
            outcomes.push(Err(Refusal::NoEndpoint));
            if found {
                places.push(place);
                publishing.push(Publishing { publish, targets });
            }
        }
        if !publishing.is_empty() {
            let mut made = Vec::new();
            let published = self.conn.own().publish(&publishing, &mut made)?;
            for (id, queued) in made {
                if let Some(endpoint) = self.cache.get(self.conn, self.codec, &id)? {
                    self.wakes.push(Wake { endpoint, queued });
                }
            }
            for (place, outcome) in places.into_iter().zip(published) {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }
}

/// Runs `work` in a transaction, which is kept if it went well.
pub(super) fn in_transaction<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    conn.own().begin()?;
    end(conn, work)
}

/// Runs `work` in a transaction on one database's own connection.
#[cfg(feature = "postgres")]
pub(super) fn in_transaction_of<C: Transactions>(
    conn: &mut C,
    work: impl FnOnce(&mut C) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    conn.begin()?;
    let done = work(conn);
    if done.is_ok() {
        conn.commit()
    } else {
        conn.rollback().and(done)
    }
}

/// Runs `work` in a transaction, or in a savepoint of the one that is open: its failure leaves that
/// usable.
pub(super) fn in_transaction_within<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    conn.own().begin_within()?;
    end(conn, work)
}

fn end<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let result = work(conn);
    if result.is_ok() {
        conn.own().commit()?;
    } else if let Err(error) = conn.own().rollback() {
        // Where the database has rolled back by itself; what it failed of is the better answer.
        tracing::debug!(%error, "nothing was left to roll back");
    }
    result
}

impl<'a> Tx<'a> {
    /// The connection, for single statements of `query`.
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        self.conn
    }

    /// The connection and what makes endpoints of rows.
    pub(crate) fn parts(&mut self) -> (&mut AnyConnection, &'a EndpointCodec) {
        (self.conn, self.codec)
    }

    /// A delivery that nobody else changes meanwhile.
    pub(crate) fn delivery_to_change(
        &mut self,
        id: &DeliveryId,
    ) -> Result<Option<Delivery>, StoreError> {
        self.conn.own().lock_delivery(id)?;
        super::query::delivery(self.conn, id)
    }

    /// Where a delivery stands that nobody else changes meanwhile.
    pub(crate) fn life_to_change(&mut self, id: &DeliveryId) -> Result<Option<Life>, StoreError> {
        self.conn.own().lock_delivery(id)?;
        super::query::life(self.conn, id)
    }

    /// An endpoint that nobody else changes meanwhile.
    pub(crate) fn endpoint_to_change(
        &mut self,
        id: &EndpointId,
    ) -> Result<Option<Endpoint>, StoreError> {
        self.conn.own().lock_endpoint(id)?;
        super::query::endpoint(self.conn, self.codec, id)
    }

    /// Removes one batch of events, with their deliveries and attempts, that ended before `cutoff`.
    pub(crate) fn retire(
        &mut self,
        batch: &super::query::Retire,
    ) -> Result<super::query::Retired, StoreError> {
        let aged = super::query::aged(self.conn, batch)?;
        self.conn.own().retire(batch, aged)
    }
}
