//! `/session`: what a browser exchanges a token for, and links to a tenant's own page.

use std::time::Duration;

use actix_web::cookie::{Cookie, SameSite};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::auth::{Access, Admin, Caller, Callers, id_of};
use super::problem::{Kind, Problem};
use super::request::{JsonBody, NoParams};
use crate::domain::access::{Grant, Scope};
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

/// Without authentication: it is what authenticates.
pub(super) fn resource(path: &str) -> actix_web::Resource {
    let only = super::only("POST, GET, DELETE");
    web::resource(path).post(open).get(show).delete(close).default_service(only)
}

pub(super) fn link_routes(config: &mut web::ServiceConfig) {
    let link = web::resource("/tenants/{tenant}/portal-link").post(portal_link);
    config.service(link.default_service(super::only("POST")));
}

/// What a session was opened by.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum SessionKind {
    Token,
    Portal,
    /// There is no session: the host has asked who calls.
    Host,
}

#[derive(Serialize)]
struct SessionBody {
    scope: Scope,
    tenant: Option<Tenant>,
    kind: SessionKind,
    csrf: Option<String>,
    expires_at: Option<Timestamp>,
}

impl SessionBody {
    const HOST: Self =
        Self { scope: Scope::Admin, tenant: None, kind: SessionKind::Host, csrf: None, expires_at: None };

    fn new(open: &OpenSession, grant: Grant) -> Self {
        let kind = match open.session.holder {
            Holder::Token(_) => SessionKind::Token,
            Holder::Portal(_) => SessionKind::Portal,
        };
        let (csrf, expires_at) = (Some(open.csrf.clone()), Some(open.session.expires_at));
        Self { scope: grant.scope, tenant: grant.tenant, kind, csrf, expires_at }
    }
}

/// What is exchanged, where it is not a bearer token in the header.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SessionRequest {
    token: Option<String>,
    portal: Option<String>,
}

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
        (Some(_), Some(_)) => return Err(Problem::field("portal", "give either `token` or `portal`")),
        (None, Some(link)) => match postrider.redeem_portal_link(&link) {
            Some(session) => session,
            None => return Err(caller.wrong("the link is not valid, or has ended: ask for a new one")),
        },
        (token, None) => {
            let token = token.or_else(|| caller.bearer());
            let token = token.ok_or_else(|| {
                Problem::new(Kind::Unauthorized, "send the token as `Authorization: Bearer TOKEN`")
            })?;
            postrider.open_session(caller.token(&token)?)
        }
    };
    let grant =
        caller.grant_of(&opened.session.holder).ok_or_else(|| caller.wrong("the token is not valid"))?;
    let lasts = opened.session.expires_at.since(postrider.now());
    let cookie = cookie(&request, opened.credential.clone(), lasts);
    Ok(HttpResponse::Created().cookie(cookie).json(SessionBody::new(&opened, grant)))
}

/// For no one but this mount, and no script: whoever shows it is let in.
fn cookie(request: &HttpRequest, credential: String, lasts: Duration) -> Cookie<'static> {
    let root = request.path().split(API).next().unwrap_or_default();
    Cookie::build(COOKIE, credential)
        .path(format!("{root}/"))
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(request.connection_info().scheme() == "https")
        .max_age(actix_web::cookie::time::Duration::seconds(lasts.as_secs().try_into().unwrap_or(0)))
        .finish()
}

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
    let found = caller.session().and_then(|open| Some((caller.grant_of(&open.session.holder)?, open)));
    let (grant, open) = found.ok_or_else(|| Problem::new(Kind::Unauthorized, "nobody is signed in"))?;
    Ok(HttpResponse::Ok().json(SessionBody::new(&open, grant)))
}

/// Takes the cookie away. (To sign somebody out everywhere, revoke the token.)
async fn close(request: HttpRequest, _: NoParams) -> HttpResponse {
    HttpResponse::NoContent().cookie(cookie(&request, String::new(), Duration::ZERO)).finish()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkRequest {
    expires_s: Option<u64>,
}

#[derive(Serialize)]
struct LinkBody {
    url: String,
    expires_at: Timestamp,
}

async fn portal_link(
    access: Access<Admin>,
    request: HttpRequest,
    _: NoParams,
    tenant: web::Path<String>,
    body: JsonBody<1024>,
) -> Result<HttpResponse, Problem> {
    let LinkRequest { expires_s } = body.read()?;
    let tenant =
        Tenant::parse(&id_of(tenant, "tenant")?).map_err(|detail| Problem::field("tenant", detail))?;
    let tenant = access.tenant(Some(tenant))?;
    let lasts = Duration::from_secs(expires_s.unwrap_or(DEFAULT_LINK_S));
    let link = access.postrider().portal_link(tenant, lasts)?;
    let root = request.path().split(API).next().unwrap_or_default().to_owned();
    let at = request.connection_info();
    // In the fragment: browsers send it to no one.
    let url = format!("{}://{}{root}/#portal={}", at.scheme(), at.host(), link.credential);
    Ok(HttpResponse::Created().json(LinkBody { url, expires_at: link.expires_at }))
}
