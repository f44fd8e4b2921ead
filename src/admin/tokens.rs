//! `/tokens`: who else may call.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::ListBody;
use super::auth::{Access, Admin, id_of};
use super::openapi::TokenShape;
use super::problem::Problem;
use super::request::{JsonBody, NoParams, Params};
use crate::domain::access::{Grant, Scope, Token};
use crate::domain::ids::{Tenant, TokenId};

const MAX_REQUEST: usize = 16 * 1024;

/// What its cursors are told by.
const LIST: &str = "tokens";

#[derive(OpenApi)]
#[openapi(paths(create, list, revoke))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/tokens")
                .post(create)
                .get(list)
                .default_service(super::only("POST, GET")),
        )
        .service(
            web::resource("/tokens/{id}")
                .delete(revoke)
                .default_service(super::only("DELETE")),
        );
}

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken, example = json!({"name": "the shop's publisher", "scope": "publish", "tenant": "default"}))]
struct TokenRequest {
    /// For people.
    #[schema(max_length = 100, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    name: String,
    #[schema(value_type = Scope)]
    scope: String,
    /// Whose things it is good for; null: everyone's. Needed with the scope `portal`.
    #[schema(value_type = Option<Tenant>)]
    tenant: Option<String>,
}

/// A token, and this once the token itself.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedToken)]
struct CreatedBody {
    #[serde(flatten)]
    #[schema(value_type = TokenShape)]
    token: Token,
    /// Shown here alone.
    #[serde(rename = "token")]
    #[schema(example = "pr_7Zk2…")]
    text: String,
}

/// Make a token
#[utoipa::path(
    post,
    path = "/tokens",
    operation_id = "createToken",
    tag = "Access",
    request_body(content = TokenRequest),
    responses(
        (status = 201, description = "The token itself is in this answer alone.", body = CreatedBody),
    )
)]
async fn create(
    access: Access<Admin>,
    _: NoParams,
    body: JsonBody<MAX_REQUEST>,
) -> Result<HttpResponse, Problem> {
    let request: TokenRequest = body.read()?;
    let scope: Scope = request
        .scope
        .parse()
        .map_err(|error: crate::domain::UnknownWord| Problem::field("scope", error.to_string()))?;
    let named = request.tenant.as_deref().map(Tenant::parse).transpose();
    let named = named.map_err(|detail| Problem::field("tenant", detail))?;
    // Nobody gives away more than it has.
    let tenant = access.tenant_filter(named)?;
    if scope == Scope::Portal && tenant.is_none() {
        return Err(Problem::field(
            "tenant",
            "is needed with the scope `portal`, which is one tenant's",
        ));
    }
    let (token, text) = access
        .postrider()
        .create_token(&request.name, Grant { scope, tenant })
        .await?;
    Ok(HttpResponse::Created().json(CreatedBody { token, text }))
}

/// Tokens
#[utoipa::path(
    get,
    path = "/tokens",
    operation_id = "listTokens",
    tag = "Access",
    params(
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant's."),
        ("limit" = Option<i64>, Query, description = "How many at most: 50 unless given.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before.", pattern = "^tokens:[A-Za-z0-9_-]{1,64}$"),
    ),
    responses(
        (status = 200, description = "A page.", body = ListBody<TokenShape>),
    )
)]
async fn list(access: Access<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant", "limit", "cursor"]);
    let (limit, after) = params.page(LIST);
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let tenant = access.tenant_filter(tenant)?;
    let (tokens, next) = access.postrider().tokens(tenant, after, limit).await?;
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, tokens, next)))
}

/// Revoke a token
#[utoipa::path(
    delete,
    path = "/tokens/{id}",
    operation_id = "revokeToken",
    tag = "Access",
    params(
        ("id" = TokenId, Path),
    ),
    responses(
        (status = 204, description = "It is good for nothing any more."),
    )
)]
async fn revoke(
    access: Access<Admin>,
    _: NoParams,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = TokenId::from_text(id_of(id, "token")?);
    access
        .postrider()
        .revoke_token(&id, access.grant().tenant.as_ref())
        .await?;
    Ok(HttpResponse::NoContent().finish())
}
