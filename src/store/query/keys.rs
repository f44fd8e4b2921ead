//! Under which keys secrets and headers are stored.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::Conn;
use crate::domain::clock::Timestamp;
use crate::domain::session::SessionKey;
use crate::store::codec::corrupt;
use crate::store::key_ring::{MARK_AND_ID, Place};
use crate::store::rows::SecretRow;
use crate::store::schema::{
    webhook_endpoint_secrets as secrets, webhook_endpoints as endpoints, webhook_keys as keys,
};
use crate::store::{EndpointCodec, StoreError};

/// What sessions are signed with.
const SESSIONS: &str = "sessions";
const SESSION_KEY: Place<'static> = Place { table: "webhook_keys", column: "key", row: SESSIONS };

/// The key that sessions are signed with, made by whoever asks first.
pub(crate) fn session_key(
    conn: &mut Conn,
    codec: &EndpointCodec,
    now: Timestamp,
) -> Result<SessionKey, StoreError> {
    let fresh = codec.ring().seal(&SESSION_KEY, &SessionKey::generate().reveal())?;
    conn.own().insert_key(SESSIONS, &fresh, now)?;
    let stored: String = keys::table.find(SESSIONS).select(keys::key).get_result(conn)?;
    let text = codec.ring().open(&SESSION_KEY, &stored)?;
    SessionKey::parse(&text).map_err(|detail| corrupt("webhook_keys", "key", detail))
}

fn reseal_session_key(conn: &mut Conn, codec: &EndpointCodec) -> Result<u64, StoreError> {
    let stored: Option<String> = keys::table.find(SESSIONS).select(keys::key).get_result(conn).optional()?;
    let Some(resealed) =
        stored.map(|stored| codec.ring().reseal(&SESSION_KEY, &stored)).transpose()?.flatten()
    else {
        return Ok(0);
    };
    diesel::update(keys::table.find(SESSIONS)).set(keys::key.eq(resealed)).execute(conn)?;
    Ok(1)
}

/// The beginnings of all stored secrets and headers, each once: they tell what sealed them.
fn beginnings(conn: &mut Conn) -> Result<Vec<String>, StoreError> {
    let start = |column: &str| sql::<Text>(&format!("substr({column}, 1, {MARK_AND_ID})"));
    let mut found: Vec<String> = secrets::table.select(start("secret")).distinct().load(conn)?;
    let headers =
        endpoints::table.filter(endpoints::deleted_at.is_null()).filter(endpoints::headers.ne("{}"));
    found.extend(headers.select(start("headers")).distinct().load::<String>(conn)?);
    found.extend(keys::table.select(start("key")).distinct().load::<String>(conn)?);
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
    let mut resealed = Resealed { last: rows.last().map(|(id, _)| id.clone()), values: 0 };
    if after.is_empty() {
        resealed.values += reseal_session_key(conn, codec)?;
    }
    for (id, headers) in rows {
        if let Some(headers) = codec.resealed_headers(&id, &headers)? {
            diesel::update(endpoints::table.find(&id)).set(endpoints::headers.eq(headers)).execute(conn)?;
            resealed.values += 1;
        }
        let keys: Vec<SecretRow> =
            secrets::table.filter(secrets::endpoint_id.eq(&id)).select(SecretRow::as_select()).load(conn)?;
        for row in keys {
            if let Some(row) = codec.resealed_secret(&row)? {
                diesel::update(secrets::table.find((&row.endpoint_id, row.created_at)))
                    .set((secrets::secret.eq(&row.secret), secrets::private_key.eq(&row.private_key)))
                    .execute(conn)?;
                resealed.values += 1;
            }
        }
    }
    Ok(resealed)
}
