//! Tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::shapes::TokenShape;
use crate::domain::access::{Scope, Token};
use crate::domain::ids::Tenant;

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
    #[schema(value_type = TokenShape)]
    pub(crate) token: Token,
    /// The token itself, shown only here.
    #[serde(rename = "token")]
    #[schema(example = "pr_7Zk2…")]
    pub(crate) text: String,
}
