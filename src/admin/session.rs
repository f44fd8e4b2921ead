//! `/session`: what a browser exchanges a token for, and links to a tenant's own page.

use std::time::Duration;

use actix_web::cookie::{Cookie, SameSite};
use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::auth::{Access, Admin, Caller, Callers, id_of};
use super::problem::{Kind, Problem};
use super::request::{JsonBody, NoParams, whole};
use crate::domain::access::{Grant, Scope, TokenHash};
use crate::domain::clock::Timestamp;
use crate::domain::ids::Tenant;
use crate::domain::session::Holder;
use crate::engine::{OpenSession, Postrider};

/// The cookie that holds a session.
pub(super) const COOKIE: &str = "postrider_session";

/// The header that a changing call by cookie sends its CSRF value in.
pub(super) const CSRF_HEADER: &str = "x-csrf-token";

/// How long a portal link is good for unless the caller says otherwise: an hour.
const DEFAULT_LINK_S: u64 = 3600;

/// What the API's own paths begin with, below wherever it is mounted.
const API: &str = "/api/v1/";

#[derive(OpenApi)]
#[openapi(paths(open, show, close, portal_link))]
pub(super) struct Api;

/// Without authentication: it is what authenticates.
pub(super) fn resource(path: &str) -> impl HttpServiceFactory + use<> {
    let only = super::only("POST, GET, DELETE");
    web::resource(path)
        .wrap(super::private())
        .wrap(from_fn(super::head::as_get))
        .post(open)
        .get(show)
        .delete(close)
        .default_service(only)
}

pub(super) fn link_routes(config: &mut web::ServiceConfig) {
    let link = web::resource("/tenants/{tenant}/portal-link").post(portal_link);
    config.service(link.default_service(super::only("POST")));
}

/// What a session was opened by.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SessionKind {
    Token,
    Portal,
    /// There is no session: the host has asked who calls.
    Host,
}

/// A browser's session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionBody {
    scope: Scope,
    tenant: Option<Tenant>,
    kind: SessionKind,
    /// What calls that change something send in `x-csrf-token`.
    csrf: Option<String>,
    expires_at: Option<Timestamp>,
}

impl SessionBody {
    const HOST: Self = Self {
        scope: Scope::Admin,
        tenant: None,
        kind: SessionKind::Host,
        csrf: None,
        expires_at: None,
    };

    fn new(open: &OpenSession, grant: Grant) -> Self {
        let kind = match open.session.holder {
            Holder::Token(_) => SessionKind::Token,
            Holder::Portal(_) => SessionKind::Portal,
        };
        let (csrf, expires_at) = (Some(open.csrf.clone()), Some(open.session.expires_at));
        Self {
            scope: grant.scope,
            tenant: grant.tenant,
            kind,
            csrf,
            expires_at,
        }
    }
}

/// What is exchanged, where it is not a bearer token in the header.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSession, example = json!({"token": "the operator's token"}))]
struct SessionRequest {
    token: Option<String>,
    portal: Option<String>,
}

/// Sign a browser in
///
/// By a token in the header or the body, or by the credential of a portal link.
#[utoipa::path(
    post,
    path = "/session",
    operation_id = "openSession",
    tag = "Access",
    request_body(content = SessionRequest),
    responses(
        (status = 201, description = "The session is in an HttpOnly cookie.", body = SessionBody),
        (status = 401, description = "The token or link is not valid."),
        (status = 429, description = "Too many wrong tokens from this address."),
    ),
    security(())
)]
async fn open(
    request: HttpRequest,
    postrider: web::Data<Postrider>,
    callers: web::Data<Callers>,
    _: NoParams,
    body: JsonBody<{ 16 * 1024 }>,
) -> Result<HttpResponse, Problem> {
    let SessionRequest { token, portal } = body.read()?;
    if let Callers::Trusted = **callers {
        return Ok(HttpResponse::Created().json(SessionBody::HOST));
    }
    let caller = Caller::new(&request, &callers, &postrider);
    let opened = match (token, portal) {
        (Some(_), Some(_)) => {
            return Err(Problem::field("portal", "give either `token` or `portal`"));
        }
        (None, Some(link)) => match postrider.redeem_portal_link(&link) {
            Some(session) => session,
            None => {
                return Err(caller.wrong("the link is not valid, or has ended: ask for a new one"));
            }
        },
        (token, None) => {
            let token = token.or_else(|| caller.bearer());
            let token = token.ok_or_else(|| {
                Problem::new(
                    Kind::Unauthorized,
                    "send the token as `Authorization: Bearer TOKEN`",
                )
            })?;
            postrider.open_session(TokenHash::of(&token))
        }
    };
    let grant = caller.grant_of(&opened.session.holder).await;
    let grant = grant.ok_or_else(|| caller.wrong("the token is not valid"))?;
    let lasts = opened.session.expires_at.since(postrider.now());
    let cookie = cookie(&request, opened.credential.clone(), lasts);
    Ok(HttpResponse::Created()
        .cookie(cookie)
        .json(SessionBody::new(&opened, grant)))
}

/// For no one but this mount, and no script: whoever shows it is let in.
fn cookie(request: &HttpRequest, credential: String, lasts: Duration) -> Cookie<'static> {
    let root = request.path().split(API).next().unwrap_or_default();
    Cookie::build(COOKIE, credential)
        .path(format!("{root}/"))
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(request.connection_info().scheme() == "https")
        .max_age(actix_web::cookie::time::Duration::seconds(
            lasts.as_secs().try_into().unwrap_or(0),
        ))
        .finish()
}

/// Who is signed in
#[utoipa::path(
    get,
    path = "/session",
    operation_id = "showSession",
    tag = "Access",
    responses(
        (status = 200, description = "The session.", body = SessionBody),
        (status = 401, description = "Nobody is."),
    ),
    security(())
)]
async fn show(
    request: HttpRequest,
    postrider: web::Data<Postrider>,
    callers: web::Data<Callers>,
    _: NoParams,
) -> Result<HttpResponse, Problem> {
    if let Callers::Trusted = **callers {
        return Ok(HttpResponse::Ok().json(SessionBody::HOST));
    }
    let caller = Caller::new(&request, &callers, &postrider);
    let nobody = || Problem::new(Kind::Unauthorized, "nobody is signed in");
    let open = caller.session().ok_or_else(nobody)?;
    let grant = caller
        .grant_of(&open.session.holder)
        .await
        .ok_or_else(nobody)?;
    Ok(HttpResponse::Ok().json(SessionBody::new(&open, grant)))
}

/// Sign out
///
/// To sign somebody out everywhere, revoke the token.
#[utoipa::path(
    delete,
    path = "/session",
    operation_id = "closeSession",
    tag = "Access",
    responses(
        (status = 204, description = "The cookie is taken away."),
    ),
    security(())
)]
async fn close(request: HttpRequest, _: NoParams) -> HttpResponse {
    HttpResponse::NoContent()
        .cookie(cookie(&request, String::new(), Duration::ZERO))
        .finish()
}

/// How long the link is to be good for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPortalLink, example = json!({"expires_s": 3600}))]
struct LinkRequest {
    /// In seconds: an hour unless given.
    #[schema(minimum = 60, maximum = 604800)]
    #[serde(default, deserialize_with = "whole")]
    expires_s: Option<u64>,
}

/// A link to a tenant's own page.
#[derive(Serialize, ToSchema)]
#[schema(as = PortalLink)]
struct LinkBody {
    #[schema(example = "https://webhooks.example.com/#portal=…")]
    url: String,
    expires_at: Timestamp,
}

/// A link to a tenant's own page
#[utoipa::path(
    post,
    path = "/tenants/{tenant}/portal-link",
    operation_id = "portalLink",
    tag = "Access",
    params(
        ("tenant" = Tenant, Path),
    ),
    request_body(content = LinkRequest),
    responses(
        (status = 201, description = "The credential is in the fragment of the URL.", body = LinkBody),
    )
)]
async fn portal_link(
    access: Access<Admin>,
    request: HttpRequest,
    _: NoParams,
    tenant: web::Path<String>,
    body: JsonBody<1024>,
) -> Result<HttpResponse, Problem> {
    let LinkRequest { expires_s } = body.read()?;
    let tenant = Tenant::parse(&id_of(tenant, "tenant")?)
        .map_err(|detail| Problem::field("tenant", detail))?;
    let tenant = access.tenant(Some(tenant))?;
    let lasts = Duration::from_secs(expires_s.unwrap_or(DEFAULT_LINK_S));
    let link = access.postrider().portal_link(tenant, lasts)?;
    let root = request
        .path()
        .split(API)
        .next()
        .unwrap_or_default()
        .to_owned();
    let at = request.connection_info();
    // In the fragment: browsers send it to no one.
    let url = format!(
        "{}://{}{root}/#portal={}",
        at.scheme(),
        at.host(),
        link.credential
    );
    Ok(HttpResponse::Created().json(LinkBody {
        url,
        expires_at: link.expires_at,
    }))
}
