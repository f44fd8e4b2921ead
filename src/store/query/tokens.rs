//! Tokens of the API, by their hashes.

use diesel::prelude::*;

use super::{Conn, Page, TOKENS, raise_counter};
use crate::domain::access::{Token, TokenHash};
use crate::domain::ids::{Tenant, TokenId};
use crate::store::rows::TokenRow;
use crate::store::schema::webhook_tokens as tokens;
use crate::store::{StoreError, codec};

/// All of them: there are as many as somebody has made by hand.
pub(crate) fn all_tokens(conn: &mut Conn) -> Result<Vec<(TokenHash, Token)>, StoreError> {
    let rows: Vec<TokenRow> = tokens::table.select(TokenRow::as_select()).load(conn)?;
    rows.into_iter().map(codec::token).collect()
}

pub(crate) fn tokens_page(
    conn: &mut Conn,
    tenant: Option<&Tenant>,
    page: &Page,
) -> Result<Vec<Token>, StoreError> {
    let mut query = tokens::table
        .select(TokenRow::as_select())
        .order(tokens::id.desc())
        .limit(page.limit)
        .into_boxed();
    if let Some(tenant) = tenant {
        query = query.filter(tokens::tenant.eq(tenant.to_string()));
    }
    if let Some(after) = &page.after {
        query = query.filter(tokens::id.lt(after.clone()));
    }
    let rows: Vec<TokenRow> = query.load(conn)?;
    rows.into_iter()
        .map(|row| codec::token(row).map(|(_, token)| token))
        .collect()
}

pub(crate) fn insert_token(
    conn: &mut Conn,
    token: &Token,
    hash: &TokenHash,
) -> Result<(), StoreError> {
    diesel::insert_into(tokens::table)
        .values(codec::token_row(token, hash))
        .execute(conn)?;
    raise_counter(conn, TOKENS)
}

/// Forgets a token, of that tenant if one is named. False if there was none.
pub(crate) fn delete_token(
    conn: &mut Conn,
    id: &TokenId,
    tenant: Option<&Tenant>,
) -> Result<bool, StoreError> {
    let found = tokens::table
        .find(id.as_str())
        .select(tokens::tenant)
        .first::<Option<String>>(conn);
    let Some(of) = found.optional()? else {
        return Ok(false);
    };
    if tenant.is_some_and(|tenant| of.as_deref() != Some(tenant.as_str())) {
        return Ok(false);
    }
    diesel::delete(tokens::table.find(id.as_str())).execute(conn)?;
    raise_counter(conn, TOKENS)?;
    Ok(true)
}
