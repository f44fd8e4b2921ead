//! API tokens in memory.
//!
//! A change in this engine applies immediately. An unknown token may have been created on another
//! node a moment ago: then a counter is read, once for all concurrent callers, so that a flood of
//! wrong tokens causes one small read at a time. A revocation on another node arrives by a hint, or
//! by the poll.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::domain::access::{Grant, TokenHash};
use crate::store::{Store, StoreError, TokenSnapshot};

/// The grants of all tokens, and their version.
#[derive(Debug, Default)]
struct Known {
    version: Option<i64>,
    grants: HashMap<TokenHash, Grant>,
}

/// The tokens as of one value of their counter.
#[derive(Debug, Default)]
pub(crate) struct KnownTokens {
    known: RwLock<Known>,
    /// Held by the current refresh.
    refreshing: tokio::sync::Mutex<()>,
    /// Number of refreshes that have begun.
    begun: AtomicU64,
}

impl KnownTokens {
    /// Returns the version of the known tokens.
    pub(crate) fn version(&self) -> Option<i64> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .version
    }

    /// Stores a newer snapshot.
    pub(crate) fn update(&self, snapshot: TokenSnapshot) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Of two concurrent reads, the later one may be stored first.
        if known.version < Some(snapshot.version) {
            let grant = |(hash, token): (_, crate::domain::access::Token)| (hash, token.grant);
            let grants = snapshot.tokens.into_iter().map(grant).collect();
            *known = Known {
                version: Some(snapshot.version),
                grants,
            };
        }
    }

    /// Reads the tokens again if any has changed.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        if let Some(snapshot) = store.changed_tokens(self.version()).await? {
            self.update(snapshot);
        }
        Ok(())
    }

    /// Returns the grant of a known token.
    pub(crate) fn grant(&self, hash: &TokenHash) -> Option<Grant> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .grants
            .get(hash)
            .cloned()
    }

    /// Returns the grant of a token, after a refresh if it is unknown.
    pub(crate) async fn grant_after_refresh(
        &self,
        hash: &TokenHash,
        store: &Store,
    ) -> Option<Grant> {
        let before = self.begun.load(Ordering::Acquire);
        let _guard = self.refreshing.lock().await;
        // A refresh that began after this call has read the latest tokens.
        if self.begun.load(Ordering::Acquire) == before {
            self.begun.fetch_add(1, Ordering::AcqRel);
            if let Err(error) = self.refresh(store).await {
                tracing::debug!(%error, "cannot look for an unknown token");
            }
        }
        self.grant(hash)
    }
}
