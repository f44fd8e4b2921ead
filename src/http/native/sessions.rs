//! `/session`: browser sessions, and links to a tenant's portal.

use std::time::Duration;

use actix_web::cookie::Cookie;
use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use utoipa::OpenApi;

use super::bodies::session::{LinkBody, LinkRequest, SessionBody, SessionRequest};
use super::body::JsonBody;
use super::extract::parse_id;
use super::params::NoQuery;
use super::problem::Problem;
use crate::domain::Resource;
use crate::domain::ids::Tenant;
use crate::engine::scoped::Admin;
use crate::http::caller::access::Access;
use crate::http::caller::gate::Gate;
use crate::http::caller::rejection::Rejection;
use crate::http::caller::session::{self, Exchange, bearer};
use crate::http::head;
use crate::http::route::{only, private};

/// Default validity of a portal link: one hour.
const DEFAULT_LINK_S: u64 = 3600;

/// Prefix of the API's paths, below its mount point.
const API: &str = "/api/v1/";

#[derive(OpenApi)]
#[openapi(paths(open, show, close, portal_link))]
pub(super) struct SessionsApi;

/// Without authentication: this route is the sign-in.
pub(crate) fn resource(path: &str) -> impl HttpServiceFactory + use<> {
    let only = only(&["POST", "GET", "DELETE"]);
    web::resource(path)
        .wrap(private())
        .wrap(from_fn(head::as_get))
        .post(open)
        .get(show)
        .delete(close)
        .default_service(only)
}

pub(super) fn link_routes(config: &mut web::ServiceConfig) {
    let link = web::resource("/tenants/{tenant}/portal-link").post(portal_link);
    config.service(link.default_service(only(&["POST"])));
}

/// Sign in
///
/// With a token in the header or the body, or with the credential of a portal link.
#[utoipa::path(
    post,
    path = "/session",
    operation_id = "openSession",
    tag = "Access",
    request_body(content = SessionRequest),
    responses(
        (status = 201, description = "Signed in; the session is in an HttpOnly cookie.", body = SessionBody),
        (status = 401, description = "The token or link is not valid."),
        (status = 429, description = "Too many wrong tokens from this address."),
    ),
    security(())
)]
async fn open(
    request: HttpRequest,
    gate: web::Data<Gate>,
    _: NoQuery,
    body: JsonBody<{ 16 * 1024 }>,
) -> Result<HttpResponse, Problem> {
    let SessionRequest { token, portal } = body.read()?;
    if gate.is_trusting() {
        return Ok(HttpResponse::Created().json(SessionBody::HOST));
    }
    let exchange = match (token, portal) {
        (Some(_), Some(_)) => {
            return Err(Problem::field("portal", "give either `token` or `portal`"));
        }
        (None, Some(link)) => Exchange::PortalLink(link),
        (token, None) => {
            let token = token.or_else(|| bearer(&request));
            Exchange::Token(token.ok_or(Rejection::NoCredential)?)
        }
    };
    let (opened, grant) = gate.open_session(&request, exchange).await?;
    let lasts = opened.session.expires_at.since(gate.postrider.now());
    let cookie = cookie(&request, opened.credential.clone(), lasts);
    Ok(HttpResponse::Created()
        .cookie(cookie)
        .json(SessionBody::new(&opened, grant)))
}

/// Returns the mount point of the API.
fn root(request: &HttpRequest) -> &str {
    request.path().split(API).next().unwrap_or_default()
}

fn cookie(request: &HttpRequest, credential: String, lasts: Duration) -> Cookie<'static> {
    let secure = request.connection_info().scheme() == "https";
    session::cookie(format!("{}/", root(request)), secure, credential, lasts)
}

/// Show the session
#[utoipa::path(
    get,
    path = "/session",
    operation_id = "showSession",
    tag = "Access",
    responses(
        (status = 200, description = "The session.", body = SessionBody),
        (status = 401, description = "Not signed in."),
    ),
    security(())
)]
async fn show(
    request: HttpRequest,
    gate: web::Data<Gate>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    if gate.is_trusting() {
        return Ok(HttpResponse::Ok().json(SessionBody::HOST));
    }
    let (open, grant) = gate.current_session(&request).await?;
    Ok(HttpResponse::Ok().json(SessionBody::new(&open, grant)))
}

/// Sign out
///
/// To end all sessions of a token, revoke the token.
#[utoipa::path(
    delete,
    path = "/session",
    operation_id = "closeSession",
    tag = "Access",
    responses(
        (status = 204, description = "The cookie is removed."),
    ),
    security(())
)]
async fn close(request: HttpRequest, _: NoQuery) -> HttpResponse {
    HttpResponse::NoContent()
        .cookie(cookie(&request, String::new(), Duration::ZERO))
        .finish()
}

/// Create a portal link
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
        (status = 201, description = "The link; its credential is in the URL's fragment.", body = LinkBody),
    )
)]
async fn portal_link(
    access: Access<Admin>,
    request: HttpRequest,
    _: NoQuery,
    body: JsonBody<1024>,
) -> Result<HttpResponse, Problem> {
    let LinkRequest { expires_s } = body.read()?;
    let tenant = Tenant::parse(parse_id(&request, "tenant", Resource::Tenant)?)
        .map_err(|detail| Problem::field("tenant", detail))?;
    let lasts = Duration::from_secs(expires_s.unwrap_or(DEFAULT_LINK_S));
    let link = access.portal_link(tenant, lasts)?;
    let at = request.connection_info();
    // Browsers never send the fragment to a server.
    let url = format!(
        "{}://{}{}/#portal={}",
        at.scheme(),
        at.host(),
        root(&request),
        link.credential
    );
    Ok(HttpResponse::Created().json(LinkBody {
        url,
        expires_at: link.expires_at,
    }))
}
