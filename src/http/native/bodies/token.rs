//! Tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::access::{Scope, Token};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{Tenant, TokenId};

/// A token to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken, example = json!({"name": "the shop's publisher", "scope": "publish", "tenant": "default"}))]
pub(crate) struct TokenRequest {
    /// Shown in lists.
    #[schema(max_length = 100, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    pub(crate) name: String,
    #[schema(value_type = Scope)]
    pub(crate) scope: String,
    /// Owning tenant; null: all tenants. Required with the scope `portal`.
    #[schema(value_type = Option<Tenant>)]
    pub(crate) tenant: Option<String>,
}

/// A new token with its text.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedToken)]
pub(crate) struct CreatedBody {
    #[serde(flatten)]
    pub(crate) token: TokenBody,
    /// The token itself, shown only here.
    #[serde(rename = "token")]
    #[schema(example = "pr_7Zk2…")]
    pub(crate) text: String,
}

/// A token, without the token itself.
#[derive(ToSchema, Serialize)]
#[schema(as = Token, example = json!({
    "id": "tok_01a2116c9f5e7b1a9c3d4e5f60718293", "name": "the shop's publisher", "scope": "publish",
    "tenant": "default", "created_at": "2026-11-25T10:00:00.000000Z"
}))]
pub(crate) struct TokenBody {
    id: TokenId,
    name: String,
    scope: Scope,
    /// Owning tenant; null: all tenants.
    tenant: Option<Tenant>,
    created_at: Timestamp,
}

impl From<Token> for TokenBody {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            scope: token.grant.scope,
            tenant: token.grant.tenant,
            created_at: token.created_at,
        }
    }
}
