//! Rotation of the keys that secrets are encrypted with.

use std::sync::Arc;
use std::time::Duration;

use super::connection::open_writer;
use super::endpoint_codec::EndpointCodec;
use super::error::{StoreError, Unavailable};
use super::key_ring::KeyRing;
use super::keys::{DatabaseKey, Resealed, keys_are_current, reseal, stored_key};
use super::migrate;
use super::source::HeldConnection;
use super::writer::Writer;
use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::public_ids::PublicIds;
use crate::domain::random::Random;
use crate::ports::{IdSource, OsRandom};

/// Endpoints of one transaction.
const BATCH: i64 = 200;

/// Time left to other writers between two batches.
const BATCH_PAUSE: Duration = Duration::from_millis(20);

/// Consecutive busy errors (two seconds each) after which a rotation fails.
const MAX_BUSY: u32 = 15;

/// Re-encrypts the values that are not encrypted with the first of `config.encryption_keys`, in
/// batches, while engines run. Every engine must already have that key, because it reads the
/// rewritten values. `on_progress` gets the number of values rewritten so far.
///
/// Returns the number of rewritten values.
///
/// # Errors
/// [`StoreError::MissingKey`] if a value is encrypted with a key that is not configured.
pub fn rotate_keys(
    url: &DatabaseUrl,
    config: &EngineConfig,
    mut on_progress: impl FnMut(u64),
) -> Result<u64, StoreError> {
    let mut conn = open_writer(url)?;
    migrate::check(&mut conn)?;
    let random: Arc<dyn Random> = Arc::new(OsRandom);
    let ring = KeyRing::new(&config.encryption_keys, Arc::clone(&random));
    keys_are_current(&mut conn, &ring)?;
    let public_ids = PublicIds::new(stored_key(&mut conn, &ring, DatabaseKey::PublicIds)?);
    let codec = Arc::new(EndpointCodec::new(config, ring, public_ids));
    let ids = Arc::new(IdSource::new(random));
    let mut writer = Writer::new(HeldConnection::owned(conn), codec, ids, None);
    let mut after = String::new();
    let mut rewritten = 0;
    let mut busy = 0;
    loop {
        match writer.run(|tx| reseal(tx.conn, tx.codec, &after, BATCH)) {
            Ok(Resealed {
                last: Some(last),
                values,
            }) => {
                after = last;
                rewritten += values;
                busy = 0;
                on_progress(rewritten);
            }
            Ok(Resealed { last: None, .. }) => return Ok(rewritten),
            Err(StoreError::Unavailable(Unavailable::Busy)) if busy < MAX_BUSY => busy += 1,
            Err(error) => return Err(error),
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "other processes write meanwhile, in real time"
)]
fn pause() {
    std::thread::sleep(BATCH_PAUSE);
}
