//! Encryption of stored secrets and headers, and keys that the database holds.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connection::AnyConnection;
use super::endpoint_codec::EndpointCodec;
use super::error::{StoreError, corrupt};
use super::key_ring::{KeyRing, MARK_AND_ID, SealedColumn};
use super::rows::SecretRow;
use super::schema::{
    webhook_endpoint_secrets as secrets, webhook_endpoints as endpoints, webhook_keys as keys,
};
use super::tx::Tx;
use crate::domain::clock::Timestamp;
use crate::domain::random::bytes;

impl Tx<'_> {
    /// Reads a database key, creating it on first use.
    pub(crate) fn database_key<const BYTES: usize>(
        &mut self,
        key: DatabaseKey,
        now: Timestamp,
    ) -> Result<[u8; BYTES], StoreError> {
        database_key(self.conn, self.codec.ring(), key, now)
    }
}

/// A key that the database holds, by name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DatabaseKey {
    /// Signs sessions.
    Sessions,
    /// Derives event ids from idempotency keys.
    Idempotency,
    /// Makes the ids that callers see.
    PublicIds,
}

impl DatabaseKey {
    const ALL: [Self; 3] = [Self::Sessions, Self::Idempotency, Self::PublicIds];

    const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Idempotency => "idempotency",
            Self::PublicIds => "public_ids",
        }
    }

    const fn column(self) -> SealedColumn<'static> {
        SealedColumn {
            table: "webhook_keys",
            column: "key",
            row: self.name(),
        }
    }
}

/// Reads a database key, creating it on first use.
pub(super) fn database_key<const BYTES: usize>(
    conn: &mut AnyConnection,
    ring: &KeyRing,
    key: DatabaseKey,
    now: Timestamp,
) -> Result<[u8; BYTES], StoreError> {
    let new: [u8; BYTES] = bytes(ring.random());
    let sealed = ring.seal(&key.column(), &BASE64_STANDARD_NO_PAD.encode(new))?;
    conn.dialect().insert_key(key.name(), &sealed, now)?;
    stored_key(conn, ring, key)
}

/// Reads a database key that exists.
pub(super) fn stored_key<const BYTES: usize>(
    conn: &mut AnyConnection,
    ring: &KeyRing,
    key: DatabaseKey,
) -> Result<[u8; BYTES], StoreError> {
    let stored: String = keys::table
        .find(key.name())
        .select(keys::key)
        .get_result(conn)?;
    let text = ring.open(&key.column(), &stored)?;
    let bytes = BASE64_STANDARD_NO_PAD
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| {
        corrupt(
            "webhook_keys",
            "key",
            format!("must be {BYTES} bytes in base64"),
        )
    })
}

/// Encrypts a database key with the current key. Returns the number of rewritten values.
fn reseal_database_key(
    conn: &mut AnyConnection,
    ring: &KeyRing,
    key: DatabaseKey,
) -> Result<u64, StoreError> {
    let stored: Option<String> = keys::table
        .find(key.name())
        .select(keys::key)
        .get_result(conn)
        .optional()?;
    let resealed = stored
        .map(|stored| ring.reseal(&key.column(), &stored))
        .transpose()?
        .flatten();
    let Some(resealed) = resealed else {
        return Ok(0);
    };
    diesel::update(keys::table.find(key.name()))
        .set(keys::key.eq(resealed))
        .execute(conn)?;
    Ok(1)
}

/// Reads the distinct prefixes of all stored secrets and headers, which name their keys.
fn beginnings(conn: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    let start = |column: &str| sql::<Text>(&format!("substr({column}, 1, {MARK_AND_ID})"));
    let mut found: Vec<String> = secrets::table
        .select(start("secret"))
        .distinct()
        .load(conn)?;
    let headers = endpoints::table
        .filter(endpoints::deleted_at.is_null())
        .filter(endpoints::headers.ne("{}"));
    found.extend(
        headers
            .select(start("headers"))
            .distinct()
            .load::<String>(conn)?,
    );
    found.extend(
        keys::table
            .select(start("key"))
            .distinct()
            .load::<String>(conn)?,
    );
    Ok(found)
}

/// Returns true if all values are encrypted with the current key.
///
/// # Errors
/// [`StoreError::MissingKey`] if a value cannot be decrypted.
pub(super) fn keys_are_current(
    conn: &mut AnyConnection,
    ring: &KeyRing,
) -> Result<bool, StoreError> {
    let found = beginnings(conn)?;
    match found.iter().find_map(|stored| ring.missing(stored)) {
        Some(id) => Err(StoreError::MissingKey(id.to_owned())),
        None => Ok(found.iter().all(|stored| ring.is_current(stored))),
    }
}

/// Result of one batch of a rotation.
pub(super) struct Resealed {
    /// The last endpoint of the batch; `None` at the end.
    pub(super) last: Option<String>,
    /// Number of rewritten values.
    pub(super) values: u64,
}

/// Re-encrypts the secrets and headers of the endpoints after `after` with the current key. Their
/// content stays, so no version is raised.
pub(super) fn reseal(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    after: &str,
    limit: i64,
) -> Result<Resealed, StoreError> {
    let rows: Vec<(String, String)> = endpoints::table
        .filter(endpoints::id.gt(after))
        .filter(endpoints::deleted_at.is_null())
        .order(endpoints::id)
        .limit(limit)
        .select((endpoints::id, endpoints::headers))
        .load(conn)?;
    let mut resealed = Resealed {
        last: rows.last().map(|(id, _)| id.clone()),
        values: 0,
    };
    if after.is_empty() {
        for key in DatabaseKey::ALL {
            resealed.values += reseal_database_key(conn, codec.ring(), key)?;
        }
    }
    for (id, headers) in rows {
        if let Some(headers) = codec.resealed_headers(&id, &headers)? {
            diesel::update(endpoints::table.find(&id))
                .set(endpoints::headers.eq(headers))
                .execute(conn)?;
            resealed.values += 1;
        }
        let keys: Vec<SecretRow> = secrets::table
            .filter(secrets::endpoint_id.eq(&id))
            .select(SecretRow::as_select())
            .load(conn)?;
        for row in keys {
            if let Some(row) = codec.resealed_secret(&row)? {
                diesel::update(secrets::table.find((&row.endpoint_id, row.created_at)))
                    .set((
                        secrets::secret.eq(&row.secret),
                        secrets::private_key.eq(&row.private_key),
                    ))
                    .execute(conn)?;
                resealed.values += 1;
            }
        }
    }
    Ok(resealed)
}
