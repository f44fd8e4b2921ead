//! `/tokens`: API tokens.

use actix_web::{HttpRequest, HttpResponse};

use super::bodies::list::ListBody;
use super::bodies::token::{CreatedBody, TokenBody, TokenRequest};
use super::body::JsonBody;
use super::extract::Id;
use super::params::{NoQuery, Params};
use super::problem::Problem;
use crate::domain::access::Scope;
use crate::domain::ids::{Tenant, TokenId};
use crate::domain::query::TokenQuery;
use crate::engine::scoped::Admin;
use crate::http::caller::access::Access;
use crate::http::route::routes;

const MAX_REQUEST: usize = 16 * 1024;

routes!(create, list, revoke);

/// Create a token
#[utoipa::path(
    post,
    path = "/tokens",
    operation_id = "createToken",
    tag = "Access",
    request_body(content = TokenRequest),
    responses(
        (status = 201, description = "The token; its text is shown only here.", body = CreatedBody),
    )
)]
async fn create(
    access: Access<Admin>,
    _: NoQuery,
    body: JsonBody<MAX_REQUEST>,
) -> Result<HttpResponse, Problem> {
    let request: TokenRequest = body.read()?;
    let scope: Scope = request
        .scope
        .parse()
        .map_err(|error: crate::domain::UnknownWord| Problem::field("scope", error.to_string()))?;
    let tenant = request.tenant.as_deref().map(Tenant::parse).transpose();
    let tenant = tenant.map_err(|detail| Problem::field("tenant", detail))?;
    let (token, text) = access.create_token(&request.name, scope, tenant).await?;
    Ok(HttpResponse::Created().json(CreatedBody {
        token: token.into(),
        text,
    }))
}

/// List tokens
#[utoipa::path(
    get,
    path = "/tokens",
    operation_id = "listTokens",
    tag = "Access",
    params(
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant."),
        ("limit" = Option<i64>, Query, description = "Page size; default 50.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the previous page.", pattern = "^[A-Za-z0-9_-]{1,256}$"),
    ),
    responses(
        (status = 200, description = "A page of tokens.", body = ListBody<TokenBody>),
    )
)]
async fn list(access: Access<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant", "limit", "cursor"]);
    let page = params.page();
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let listed = access.tokens(TokenQuery { tenant }, page).await?;
    Ok(HttpResponse::Ok().json(ListBody::new(listed.map(TokenBody::from))))
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
        (status = 204, description = "Revoked."),
    )
)]
async fn revoke(
    access: Access<Admin>,
    _: NoQuery,
    Id(id): Id<TokenId>,
) -> Result<HttpResponse, Problem> {
    access.revoke_token(&id).await?;
    Ok(HttpResponse::NoContent().finish())
}
