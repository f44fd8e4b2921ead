//! Authorization of the HTTP API: tokens, their scopes and the tenants they are restricted to.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::clock::Timestamp;
use super::ids::{Tenant, TokenId};
use super::random::{Random, bytes};
use super::words;

/// Minimum length of a token in characters; shorter ones can be guessed.
pub const MIN_TOKEN_CHARS: usize = 16;

const MAX_NAME_CHARS: usize = 100;

words! {
    /// The operations that a token allows.
    Scope {
        /// All operations.
        Admin = "admin",
        /// Publishing events, nothing else.
        Publish = "publish",
        /// Reading, except secrets.
        Read = "read",
        /// Managing one tenant's endpoints and deliveries: the scope of a portal link.
        Portal = "portal",
    }
}

impl Scope {
    /// Returns whether a token of this scope allows an operation that requires `needed`.
    #[must_use]
    pub fn allows(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Portal => matches!(needed, Self::Portal | Self::Read),
            Self::Publish | Self::Read => self == needed,
        }
    }
}

/// The permissions of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The allowed operations.
    pub scope: Scope,
    /// The tenant it is restricted to; `None`: all tenants.
    pub tenant: Option<Tenant>,
}

impl Grant {
    /// Full access.
    pub const ALL: Self = Self {
        scope: Scope::Admin,
        tenant: None,
    };

    /// Returns true for a tenant that the grant allows.
    #[must_use]
    pub fn allows_tenant(&self, tenant: &Tenant) -> bool {
        self.tenant.as_ref().is_none_or(|bound| bound == tenant)
    }

    /// Checks that the grant's scope includes `needed`.
    ///
    /// # Errors
    /// [`Forbidden::Scope`].
    pub fn require(&self, needed: Scope) -> Result<(), Forbidden> {
        let held = self.scope;
        if held.allows(needed) {
            Ok(())
        } else {
            Err(Forbidden::Scope { held, needed })
        }
    }

    /// Returns the tenant that a call is about: the one it names, the grant's own, or the default.
    ///
    /// # Errors
    /// [`Forbidden::Tenant`].
    pub fn tenant(&self, named: Option<Tenant>) -> Result<Tenant, Forbidden> {
        let tenant = named.or_else(|| self.tenant.clone()).unwrap_or_default();
        if self.allows_tenant(&tenant) {
            Ok(tenant)
        } else {
            Err(Forbidden::Tenant(tenant))
        }
    }

    /// Returns the tenant that a list is restricted to: the one it names or the grant's own.
    ///
    /// # Errors
    /// [`Forbidden::Tenant`].
    pub fn tenant_filter(&self, named: Option<Tenant>) -> Result<Option<Tenant>, Forbidden> {
        match named {
            Some(tenant) => self.tenant(Some(tenant)).map(Some),
            None => Ok(self.tenant.clone()),
        }
    }

    /// Checks that the grant is restricted to no tenant.
    ///
    /// # Errors
    /// [`Forbidden::AllTenants`].
    pub fn all_tenants(&self) -> Result<(), Forbidden> {
        match &self.tenant {
            None => Ok(()),
            Some(own) => Err(Forbidden::AllTenants(own.clone())),
        }
    }
}

/// Reason a known caller may not make a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Forbidden {
    /// The scope does not include the call.
    #[error("this token has the scope `{held}`; the call needs `{needed}`")]
    Scope {
        /// Scope of the caller.
        held: Scope,
        /// Scope of the call.
        needed: Scope,
    },
    /// The grant is restricted to another tenant.
    #[error("this token does not allow the tenant `{0}`")]
    Tenant(Tenant),
    /// The grant is restricted to this tenant, and the call covers all of them.
    #[error("this token is restricted to the tenant `{0}`; the call covers all tenants")]
    AllTenants(Tenant),
}

/// An issued token without its value: only the hash is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// `tok_…`
    pub id: TokenId,
    /// A name shown in lists.
    pub name: String,
    /// Its permissions.
    pub grant: Grant,
    /// Time of creation.
    pub created_at: Timestamp,
}

/// SHA-256 of a token, which identifies it. Tokens are long and random, so no salt is needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token as its bearer sends it.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Returns the hash as it is stored.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Restores a stored hash.
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

/// Generates a token: `pr_` and 32 random bytes in base64url.
#[must_use]
pub fn generate_token(random: &dyn Random) -> String {
    format!("pr_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes::<32>(random)))
}

/// Checks a token chosen by an operator.
///
/// # Errors
/// Returns an error if it is shorter than [`MIN_TOKEN_CHARS`] or cannot be sent in a header.
pub fn check_token(token: &str) -> Result<(), String> {
    let sendable = token.bytes().all(|b| (0x21..0x7f).contains(&b));
    if token.len() >= MIN_TOKEN_CHARS && sendable {
        return Ok(());
    }
    Err(format!(
        "must be at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces"
    ))
}

/// Checks the name of a token.
///
/// # Errors
/// Returns an error if it is empty, too long or contains control characters.
pub fn check_token_name(name: &str) -> Result<(), String> {
    let chars = name.chars().count();
    if (1..=MAX_NAME_CHARS).contains(&chars) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "must be 1 to {MAX_NAME_CHARS} characters, without control characters"
    ))
}
