//! Tokens of the API, by their hashes.

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::counters::{TOKENS, counter, raise_counter};
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::rows::TokenRow;
use super::schema::webhook_tokens as tokens;
use super::store::Store;
use super::tx::Tx;
use crate::domain::access::{Token, TokenHash};
use crate::domain::ids::{Tenant, TokenId};
use crate::domain::query::{Listed, Page, TokenQuery};

/// All tokens, as of one value of their counter.
pub(crate) struct TokenSnapshot {
    pub(crate) version: i64,
    pub(crate) tokens: Vec<(TokenHash, Token)>,
}

impl Store {
    /// Reads all tokens, unless they are unchanged since `known`.
    pub(crate) async fn changed_tokens(
        &self,
        known: Option<i64>,
    ) -> Result<Option<TokenSnapshot>, StoreError> {
        self.read("tokens", move |conn, _| changed_tokens(conn, known))
            .await
    }

    /// Reads all tokens, on this thread.
    pub(crate) fn tokens_here(&self) -> Result<Option<TokenSnapshot>, StoreError> {
        self.read_here(|conn, _| changed_tokens(conn, None))
    }

    /// Reads a page of tokens, newest first.
    pub(crate) async fn tokens(
        &self,
        query: TokenQuery,
        page: Page<TokenId>,
    ) -> Result<Listed<Token, TokenId>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let rows = tokens_page(conn, query.tenant.as_ref(), &page)?;
            Ok(page.of(rows, |token| token.id.clone(), None))
        };
        self.read("tokens", read).await
    }
}

impl Tx<'_> {
    /// Stores a token under its hash.
    pub(crate) fn insert_token(
        &mut self,
        token: &Token,
        hash: &TokenHash,
    ) -> Result<(), StoreError> {
        let row = codec::token_row(token, hash);
        diesel::insert_into(tokens::table)
            .values(row)
            .execute(self.conn)?;
        raise_counter(self.conn, TOKENS)
    }

    /// Deletes a token, of `tenant` if given. Returns false if there was none.
    pub(crate) fn delete_token(
        &mut self,
        id: &TokenId,
        tenant: Option<&Tenant>,
    ) -> Result<bool, StoreError> {
        let found = tokens::table.find(id.as_str()).select(tokens::tenant);
        let Some(of) = found.first::<Option<String>>(self.conn).optional()? else {
            return Ok(false);
        };
        if tenant.is_some_and(|tenant| of.as_deref() != Some(tenant.as_str())) {
            return Ok(false);
        }
        diesel::delete(tokens::table.find(id.as_str())).execute(self.conn)?;
        raise_counter(self.conn, TOKENS)?;
        Ok(true)
    }
}

/// Reads all tokens, unless they are unchanged since `known`.
pub(super) fn changed_tokens(
    conn: &mut AnyConnection,
    known: Option<i64>,
) -> Result<Option<TokenSnapshot>, StoreError> {
    let version = counter(conn, TOKENS)?;
    if known == Some(version) {
        return Ok(None);
    }
    token_snapshot(conn).map(Some)
}

/// Reads all tokens, with their version.
pub(super) fn token_snapshot(conn: &mut AnyConnection) -> Result<TokenSnapshot, StoreError> {
    // The version first: a change between the two is read again.
    let version = counter(conn, TOKENS)?;
    Ok(TokenSnapshot {
        version,
        tokens: all_tokens(conn)?,
    })
}

/// Reads all tokens: people create them by hand, so there are few.
fn all_tokens(conn: &mut AnyConnection) -> Result<Vec<(TokenHash, Token)>, StoreError> {
    let rows: Vec<TokenRow> = tokens::table.select(TokenRow::as_select()).load(conn)?;
    rows.into_iter().map(codec::token).collect()
}

fn tokens_page(
    conn: &mut AnyConnection,
    tenant: Option<&Tenant>,
    page: &Page<TokenId>,
) -> Result<Vec<Token>, StoreError> {
    let mut query = tokens::table
        .select(TokenRow::as_select())
        .order(tokens::id.desc())
        .limit(page.rows())
        .into_boxed();
    if let Some(tenant) = tenant {
        query = query.filter(tokens::tenant.eq(tenant.to_string()));
    }
    if let Some(after) = &page.after {
        query = query.filter(tokens::id.lt(after.to_string()));
    }
    let rows: Vec<TokenRow> = query.load(conn)?;
    rows.into_iter()
        .map(|row| codec::token(row).map(|(_, token)| token))
        .collect()
}
