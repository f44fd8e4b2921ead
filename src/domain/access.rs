//! Who may ask what of the HTTP API: tokens, what they are good for, and whom they speak for.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::clock::Timestamp;
use super::ids::{Tenant, TokenId};
use super::words;

/// The fewest characters of a token: what can be guessed is no token.
pub const MIN_TOKEN_CHARS: usize = 16;

const MAX_NAME_CHARS: usize = 100;

words! {
    /// What a token is good for.
    Scope {
        /// Everything.
        Admin = "admin",
        /// Publishing, and nothing else.
        Publish = "publish",
        /// Reading, but no secret.
        Read = "read",
        /// Managing one tenant's endpoints and deliveries: what a portal link gives.
        Portal = "portal",
    }
}

impl Scope {
    /// Whether a token of this scope may do what needs `needed`.
    #[must_use]
    pub fn allows(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Portal => matches!(needed, Self::Portal | Self::Read),
            Self::Publish | Self::Read => self == needed,
        }
    }
}

/// What its bearer may do, and to whose endpoints and events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// What.
    pub scope: Scope,
    /// Whose; `None`: everyone's.
    pub tenant: Option<Tenant>,
}

impl Grant {
    /// Everything.
    pub const ALL: Self = Self {
        scope: Scope::Admin,
        tenant: None,
    };

    /// Whether it is good for this tenant's things.
    #[must_use]
    pub fn covers(&self, tenant: &Tenant) -> bool {
        self.tenant.as_ref().is_none_or(|bound| bound == tenant)
    }
}

/// A token that was given out, without the token itself: only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Token {
    /// `tok_…`
    pub id: TokenId,
    /// For people.
    pub name: String,
    /// What it is good for.
    #[serde(flatten)]
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a token is known by: its SHA-256. Tokens are long and random, so that needs no salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token as its bearer sends it.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// As it is stored.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

/// A fresh token of 32 random bytes.
#[must_use]
pub fn generate_token() -> String {
    format!(
        "pr_{}",
        BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    )
}

/// Checks a token that a person chose.
///
/// # Errors
/// When it is shorter than [`MIN_TOKEN_CHARS`], or could not be sent in a header.
pub fn check_token(token: &str) -> Result<(), String> {
    let sendable = token.bytes().all(|b| (0x21..0x7f).contains(&b));
    if token.len() >= MIN_TOKEN_CHARS && sendable {
        return Ok(());
    }
    Err(format!(
        "must be at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces"
    ))
}

/// Checks the name that a token is given.
///
/// # Errors
/// When it is empty, too long, or no text.
pub fn check_token_name(name: &str) -> Result<(), String> {
    let chars = name.chars().count();
    if (1..=MAX_NAME_CHARS).contains(&chars) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "must be 1 to {MAX_NAME_CHARS} characters that say whose token it is"
    ))
}
