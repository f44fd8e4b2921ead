//! Order within a key: of the deliveries of an endpoint that share an ordering key, the first one
//! in line alone is claimed. Those behind it are set aside when they are met, and each is brought
//! back when the one before it gives its place up, in the same transaction.
//!
//! Nothing of this is looked at when an event is published: a host's transaction may stay open for
//! long, and whoever waited for it would stand still. So what was just published is due, and the
//! claim decides.

use std::collections::BTreeMap;

use super::query::{self, Behind};
use super::{StoreError, Tx};
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::DeliveryId;
use crate::domain::lifecycle::{self, Cause, HoldReason, Life, State, Wait};
use crate::domain::settings::Ordering;

/// The most deliveries of a line that one claim sets aside.
const ASIDE_BATCH: i64 = 500;

impl Tx<'_> {
    /// Sets `behind` aside, and what is due behind them in their lines. Says which of `behind` do
    /// not wait for a time any more.
    pub(super) fn set_aside(
        &mut self,
        endpoint: &Endpoint,
        behind: &[Behind],
        at: Timestamp,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        if behind.is_empty() {
            return Ok(Vec::new());
        }
        let mut lines: BTreeMap<&str, i64> = BTreeMap::new();
        for Behind {
            ordering_key,
            event_seq,
            ..
        } in behind
        {
            let from = lines.entry(ordering_key).or_insert(*event_seq);
            *from = (*from).min(*event_seq);
        }
        let mut aside = Vec::new();
        for (key, from) in lines {
            let Some(first) = query::first_in_line(self.conn, &endpoint.id, key)? else {
                continue;
            };
            // It must not leave before those behind it can be seen: nobody would bring them back.
            if !self.conn.own().keep_in_line(&first.id)? {
                continue;
            }
            let waiting =
                query::to_set_aside(self.conn, &endpoint.id, key, &first, from, ASIDE_BATCH)?;
            let may =
                |(_, life): &&(DeliveryId, Life)| lifecycle::next(life, &Cause::SetAside).is_ok();
            aside.extend(waiting.iter().filter(may).map(|(id, _)| id.clone()));
        }
        query::set_aside(self.conn, &aside, at)?;
        aside.retain(|id| behind.iter().any(|one| one.id == *id));
        Ok(aside)
    }

    /// Writes what the lifecycle decided of a delivery that is not `sending`. Where it gives its
    /// place in line up, the next one gets its turn.
    pub(crate) fn change_life(
        &mut self,
        id: &DeliveryId,
        life: &Life,
        next: &Life,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        query::set_life(self.conn, id, next, at)?;
        if life.leaves_line(next) {
            self.move_up(id, at)
        } else {
            Ok(())
        }
    }

    /// `left` has given its place in line up: whoever is first now may be sent.
    pub(super) fn move_up(&mut self, left: &DeliveryId, at: Timestamp) -> Result<(), StoreError> {
        let Some((endpoint_id, key)) = query::line_of(self.conn, left)? else {
            return Ok(());
        };
        let endpoint = self.cache.get(self.conn, self.codec, &endpoint_id)?;
        if endpoint.is_none_or(|endpoint| endpoint.settings.ordering == Ordering::None) {
            return Ok(());
        }
        while let Some(first) = query::first_in_line(self.conn, &endpoint_id, &key)? {
            if first.life.state != State::Pending(Wait::Held(HoldReason::Order)) {
                break;
            }
            // Somebody else may be giving this one up just now; then it is the turn of the one
            // behind it.
            if let Some(life) = self.life_to_change(&first.id)?
                && let Ok(next) = lifecycle::next(&life, &Cause::TurnCame { at })
            {
                query::set_life(self.conn, &first.id, &next, at)?;
                break;
            }
        }
        Ok(())
    }
}
