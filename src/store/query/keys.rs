//! Under which keys secrets and headers are stored.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::Conn;
use crate::domain::clock::Timestamp;
use crate::store::codec::corrupt;
use crate::store::key_ring::{MARK_AND_ID, Place};
use crate::store::rows::SecretRow;
use crate::store::schema::{
    webhook_endpoint_secrets as secrets, webhook_endpoints as endpoints, webhook_keys as keys,
};
use crate::store::{EndpointCodec, StoreError};

/// A key of the database's own, by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DatabaseKey {
    /// Signs sessions.
    Sessions,
    /// Makes event ids of idempotency keys.
    Idempotency,
}

impl DatabaseKey {
    const ALL: [Self; 2] = [Self::Sessions, Self::Idempotency];

    const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Idempotency => "idempotency",
        }
    }

    const fn place(self) -> Place<'static> {
        Place {
            table: "webhook_keys",
            column: "key",
            row: self.name(),
        }
    }
}

/// A key of the database's own, made by whoever asks first.
pub(crate) fn database_key<const BYTES: usize>(
    conn: &mut Conn,
    codec: &EndpointCodec,
    key: DatabaseKey,
    now: Timestamp,
) -> Result<[u8; BYTES], StoreError> {
    let fresh = BASE64_STANDARD_NO_PAD.encode(rand::random::<[u8; BYTES]>());
    let sealed = codec.ring().seal(&key.place(), &fresh)?;
    conn.own().insert_key(key.name(), &sealed, now)?;
    let stored: String = keys::table
        .find(key.name())
        .select(keys::key)
        .get_result(conn)?;
    let text = codec.ring().open(&key.place(), &stored)?;
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

fn reseal_database_key(
    conn: &mut Conn,
    codec: &EndpointCodec,
    key: DatabaseKey,
) -> Result<u64, StoreError> {
    let stored: Option<String> = keys::table
        .find(key.name())
        .select(keys::key)
        .get_result(conn)
        .optional()?;
    let resealed = stored
        .map(|stored| codec.ring().reseal(&key.place(), &stored))
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

/// The beginnings of all stored secrets and headers, each once: they tell what sealed them.
fn beginnings(conn: &mut Conn) -> Result<Vec<String>, StoreError> {
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

/// Whether everything is stored as it would be written now.
///
/// # Errors
/// [`StoreError::MissingKey`] where something could not even be read.
pub(crate) fn keys_are_present(conn: &mut Conn, codec: &EndpointCodec) -> Result<bool, StoreError> {
    let found = beginnings(conn)?;
    match found.iter().find_map(|stored| codec.ring().missing(stored)) {
        Some(id) => Err(StoreError::MissingKey(id.to_owned())),
        None => Ok(found.iter().all(|stored| codec.ring().is_present(stored))),
    }
}

/// What one batch of a rotation came to.
pub(crate) struct Resealed {
    /// The last endpoint that was looked at; `None` once all have been.
    pub(crate) last: Option<String>,
    /// Values that were rewritten.
    pub(crate) values: u64,
}

/// Rewrites the secrets and headers of the endpoints after `after` under the present key. They mean
/// what they did, so nobody is told of a change.
pub(crate) fn reseal(
    conn: &mut Conn,
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
            resealed.values += reseal_database_key(conn, codec, key)?;
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
