//! The dashboard's files: plain HTML, CSS and ES modules in `dashboard/assets`, embedded in the
//! binary without a build step. Everything they show comes from the API.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::http::head;
use crate::http::native::problem::{Kind, Problem};
use crate::http::route::only;

#[derive(RustEmbed)]
#[folder = "src/http/dashboard/assets"]
struct Assets;

/// Allows only our own scripts, styles and connections, nothing inline, no framing, and no markup
/// from text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Without authentication: the files contain no secrets.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    for path in ["", "/"] {
        let page = web::resource(path)
            .get(page)
            .default_service(only(&["GET"]));
        config.service(page.wrap(from_fn(head::as_get)));
    }
    let assets = web::resource("/assets/{path:.*}").get(asset);
    config.service(
        assets
            .default_service(only(&["GET"]))
            .wrap(from_fn(head::as_get)),
    );
}

async fn page(request: HttpRequest) -> HttpResponse {
    let path = request.path();
    if path.ends_with('/') {
        return shown(&request, "index.html");
    }
    // The files are found next to the page, wherever it is mounted.
    let below = path.rsplit('/').next().unwrap_or_default();
    HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, format!("{below}/")))
        .finish()
}

async fn asset(request: HttpRequest, path: web::Path<String>) -> HttpResponse {
    shown(&request, &path)
}

fn shown(request: &HttpRequest, name: &str) -> HttpResponse {
    let Some(EmbeddedFile { data, metadata }) = Assets::get(name) else {
        let problem = Problem::new(Kind::NotFound, format!("no resource at {}", request.path()));
        return actix_web::ResponseError::error_response(&problem);
    };
    let etag = format!(
        "\"{}\"",
        BASE64_URL_SAFE_NO_PAD.encode(metadata.sha256_hash())
    );
    let known = request
        .headers()
        .get(IF_NONE_MATCH)
        .is_some_and(|given| given.as_bytes() == etag.as_bytes());
    let mut response = if known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response
        .insert_header((ETAG, etag))
        // Revalidated each time, so that all files are of one release.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((REFERRER_POLICY, "no-referrer"));
    if known {
        return response.finish();
    }
    response
        .insert_header((CONTENT_TYPE, media_type(name)))
        .body(data.into_owned())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
