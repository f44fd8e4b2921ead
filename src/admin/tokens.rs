//! `/tokens`: who else may call.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::ListBody;
use super::auth::{Access, Admin, id_of};
use super::problem::Problem;
use super::request::{JsonBody, NoParams, Params};
use crate::domain::access::{Grant, Scope, Token};
use crate::domain::ids::{Tenant, TokenId};

const MAX_REQUEST: usize = 16 * 1024;

/// What its cursors are told by.
const LIST: &str = "tokens";

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/tokens").post(create).get(list).default_service(super::only("POST, GET")))
        .service(web::resource("/tokens/{id}").delete(revoke).default_service(super::only("DELETE")));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    name: String,
    scope: String,
    tenant: Option<String>,
}

#[derive(Serialize)]
struct CreatedBody {
    #[serde(flatten)]
    token: Token,
    /// Shown here alone.
    #[serde(rename = "token")]
    text: String,
}

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
        return Err(Problem::field("tenant", "is needed with the scope `portal`, which is one tenant's"));
    }
    let (token, text) = access.postrider().create_token(&request.name, Grant { scope, tenant }).await?;
    Ok(HttpResponse::Created().json(CreatedBody { token, text }))
}

async fn list(access: Access<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant", "limit", "cursor"]);
    let (limit, after) = params.page(LIST);
    let tenant = params.take_with("tenant", Tenant::parse);
    params.done()?;
    let tenant = access.tenant_filter(tenant)?;
    let (tokens, next) = access.postrider().tokens(tenant, after, limit).await?;
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, tokens, next)))
}

async fn revoke(access: Access<Admin>, _: NoParams, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id = TokenId::from_text(id_of(id, "token")?);
    access.postrider().revoke_token(&id, access.grant().tenant.as_ref()).await?;
    Ok(HttpResponse::NoContent().finish())
}
