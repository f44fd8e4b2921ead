//! Opening a database: migrates and checks its schema, and checks its encryption keys.

use std::sync::Arc;

use super::connection::AnyConnection;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::file_watch::FileWatch;
use super::key_ring::KeyRing;
use super::keys::{DatabaseKey, keys_are_current, stored_key};
use super::migrate;
use super::source::Source;
use super::store::{Store, read_permits, readers};
use super::transaction::in_transaction;
use crate::config::EngineConfig;
use crate::domain::public_ids::PublicIds;
use crate::domain::random::Random;
use crate::ports::{Blocking, IdSource};

impl Store {
    /// Opens the database, migrates its schema unless migrations are off, and checks it.
    pub(crate) fn open(
        source: &Source,
        config: &EngineConfig,
        random: &Arc<dyn Random>,
        blocking: Blocking,
    ) -> Result<Self, StoreError> {
        let ring = KeyRing::new(&config.encryption_keys, Arc::clone(random));
        source.check_sessions()?;
        let mut held = source.writer()?;
        let (all_current, ids) = held.with(|conn| {
            check_schema(conn, &ring, config.migrate_on_start)?;
            let ids = PublicIds::new(stored_key(conn, &ring, DatabaseKey::PublicIds)?);
            Ok::<_, StoreError>((keys_are_current(conn, &ring)?, ids))
        })?;
        let codec = Arc::new(EndpointCodec::new(config, ring, ids));
        let watch = source.file()?.as_deref().and_then(FileWatch::new);
        let pool = readers(source, config, watch.as_ref())?;
        if codec.ring().is_empty() {
            tracing::warn!(
                "secrets and endpoint headers are stored unencrypted: set encryption_keys (`postrider keys generate` creates one)"
            );
        } else if !all_current {
            tracing::warn!(
                "some secrets or endpoint headers are not encrypted with the first of encryption_keys: run `postrider keys rotate`"
            );
        }
        let ids = Arc::new(IdSource::new(Arc::clone(random)));
        Ok(Self {
            pool,
            read_permits: read_permits(config),
            codec,
            source: source.clone(),
            watch,
            blocking,
            ids,
        })
    }

    /// Makes the ids that callers see.
    pub(crate) fn public_ids(&self) -> &Arc<PublicIds> {
        self.codec.ids()
    }

    /// Returns the source of this engine's ids.
    pub(crate) fn ids(&self) -> &Arc<IdSource> {
        &self.ids
    }
}

fn check_schema(
    conn: &mut AnyConnection,
    ring: &KeyRing,
    migrate_first: bool,
) -> Result<(), StoreError> {
    conn.dialect()
        .check_before_schema(migrate::TABLES, migrate::RECORD)?;
    if migrate_first {
        migrate::up(conn, ring)?;
    } else {
        migrate::check(conn)?;
    }
    in_transaction(conn, |conn| conn.dialect().check_after_schema())
}
