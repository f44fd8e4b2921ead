//! Tokens of the HTTP API.
//!
//! All of them are held in memory. A change that this engine makes holds at once. One that is not
//! known may have been made on another node a moment ago: then one counter is read, by one caller
//! for all who ask at once, so that a flood of wrong ones costs the database one small read at a
//! time. A revocation on another node arrives by a hint, or by the poll.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::publishing::next_key;
use super::{Error, Postrider};
use crate::domain::access::{Grant, Token, TokenHash, check_token_name, generate_token};
use crate::domain::ids::{Tenant, TokenId};
use crate::store::query::{self, Page};
use crate::store::{AnyConnection, StoreError};

/// The tokens as they stood at some value of their counter.
#[derive(Debug, Default)]
pub(super) struct KnownTokens {
    known: RwLock<(Option<i64>, HashMap<TokenHash, Grant>)>,
    /// The refresh that is under way, and how many have begun.
    refreshing: tokio::sync::Mutex<()>,
    begun: AtomicU64,
}

impl KnownTokens {
    /// Reads them anew if any has changed.
    pub(super) fn refresh(&self, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let version = Some(query::counter(conn, query::TOKENS)?);
        if self.known.read().unwrap_or_else(PoisonError::into_inner).0 != version {
            let all = query::all_tokens(conn)?
                .into_iter()
                .map(|(hash, token)| (hash, token.grant));
            let all = all.collect();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            // Of two that read at once, the later one may write first.
            if known.0 < version {
                *known = (version, all);
            }
        }
        Ok(())
    }

    pub(super) fn grant(&self, hash: &TokenHash) -> Option<Grant> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .get(hash)
            .cloned()
    }
}

impl Postrider {
    /// What the bearer of a token may do; `None` where there is no such token.
    #[must_use]
    pub fn grant_of(&self, token: &str) -> Option<Grant> {
        self.shared.tokens.grant(&TokenHash::of(token))
    }

    /// As [`grant_of`](Self::grant_of) of a token that is not known here, after a look into the
    /// database.
    pub(crate) async fn grant_of_new(&self, hash: &TokenHash) -> Option<Grant> {
        let tokens = &self.shared.tokens;
        let before = tokens.begun.load(Ordering::Acquire);
        let _turn = tokens.refreshing.lock().await;
        // A refresh that began after this call has seen what this call is about.
        if tokens.begun.load(Ordering::Acquire) == before {
            tokens.begun.fetch_add(1, Ordering::AcqRel);
            let shared = Arc::clone(&self.shared);
            let refresh = self
                .read("tokens", move |conn, _| shared.tokens.refresh(conn))
                .await;
            if let Err(error) = refresh {
                tracing::debug!(%error, "cannot look for a token that is not known here");
            }
        }
        tokens.grant(hash)
    }

    /// Makes a token. Its text is in this answer alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that says nothing.
    pub async fn create_token(&self, name: &str, grant: Grant) -> Result<(Token, String), Error> {
        check_token_name(name).map_err(|detail| Error::field("name", detail))?;
        let (text, created_at) = (generate_token(), self.now());
        let token = Token {
            id: TokenId::generate(created_at),
            name: name.to_owned(),
            grant,
            created_at,
        };
        let (row, hash) = (token.clone(), TokenHash::of(&text));
        self.shared
            .committer
            .run(move |tx| query::insert_token(tx.conn(), &row, &hash))
            .await?;
        self.refresh_tokens().await?;
        tracing::info!(token = %token.id, scope = %token.grant.scope, "token {} was made", token.id);
        Ok((token, text))
    }

    /// A page of tokens, newest first, and where the next one begins.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tokens(
        &self,
        tenant: Option<Tenant>,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Token>, Option<String>), Error> {
        let page = Page {
            after,
            limit: limit + 1,
        };
        let mut found = self
            .read("tokens", move |conn, _| {
                query::tokens_page(conn, tenant.as_ref(), &page)
            })
            .await?;
        let next = next_key(&mut found, limit, |token| token.id.to_string());
        Ok((found, next))
    }

    /// Makes a token worthless, if it is one of `tenant`'s (`None`: anyone's).
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_token(&self, id: &TokenId, tenant: Option<&Tenant>) -> Result<(), Error> {
        let (of_id, tenant) = (id.clone(), tenant.cloned());
        let delete = move |tx: &mut crate::store::Tx<'_>| {
            query::delete_token(tx.conn(), &of_id, tenant.as_ref())
        };
        if !self.shared.committer.run(delete).await? {
            return Err(Error::NotFound("token"));
        }
        self.refresh_tokens().await?;
        tracing::info!(token = %id, "token {id} was revoked");
        Ok(())
    }

    async fn refresh_tokens(&self) -> Result<(), StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        self.read("tokens", move |conn, _| shared.tokens.refresh(conn))
            .await?;
        self.shared.hints.send(crate::store::Hint::Changed);
        Ok(())
    }
}
