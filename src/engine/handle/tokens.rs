//! API tokens: check, create, list and revoke.

use super::Postrider;
use crate::domain::access::{Grant, Token, TokenHash, check_token_name, generate_token};
use crate::domain::ids::{Tenant, TokenId};
use crate::domain::query::{Listed, Page, TokenQuery};
use crate::domain::{Field, Resource};
use crate::engine::error::Error;
use crate::store::Hint;

impl Postrider {
    /// Returns the grant of a token; `None` if there is no such token.
    #[must_use]
    pub fn grant_of(&self, token: &str) -> Option<Grant> {
        self.inner.tokens.grant(&TokenHash::of(token))
    }

    /// Returns the grant of a token unknown to this node, after reading the database.
    pub(crate) async fn grant_of_new(&self, hash: &TokenHash) -> Option<Grant> {
        self.inner
            .tokens
            .grant_after_refresh(hash, self.store())
            .await
    }

    /// Creates a token. Its text is returned only here.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty name or one that is too long.
    pub async fn create_token(&self, name: &str, grant: Grant) -> Result<(Token, String), Error> {
        check_token_name(name).map_err(|detail| Error::field(Field::TokenName, detail))?;
        let context = self.context();
        let text = generate_token(context.random());
        let created_at = self.now();
        let id = context.store.ids().token(created_at);
        let token = Token {
            id,
            name: name.to_owned(),
            grant,
            created_at,
        };
        let row = token.clone();
        let hash = TokenHash::of(&text);
        context
            .committer
            .run(move |tx| tx.insert_token(&row, &hash))
            .await?;
        self.tokens_changed().await?;
        tracing::info!(token = %token.id, scope = %token.grant.scope, "token {} was created", token.id);
        Ok((token, text))
    }

    /// Returns a page of tokens, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another list, and [`Error::Store`].
    pub async fn tokens(&self, query: TokenQuery, page: Page) -> Result<Listed<Token>, Error> {
        let read = |query, page| self.store().tokens(query, page);
        self.list(query, page, read).await
    }

    /// Revokes a token, if it belongs to `tenant` (`None`: any).
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_token(&self, id: &TokenId, tenant: Option<&Tenant>) -> Result<(), Error> {
        let of = id.clone();
        let tenant = tenant.cloned();
        let delete = self
            .context()
            .committer
            .run(move |tx| tx.delete_token(&of, tenant.as_ref()));
        if !delete.await? {
            return Err(Error::NotFound(Resource::Token));
        }
        self.tokens_changed().await?;
        tracing::info!(token = %id, "token {id} was revoked");
        Ok(())
    }

    async fn tokens_changed(&self) -> Result<(), Error> {
        self.inner.tokens.refresh(self.store()).await?;
        self.inner.hints.send(Hint::Changed);
        Ok(())
    }
}
