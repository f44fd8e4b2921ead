//! Routes, and the responses common to all paths: not found, method not allowed, and headers.

use std::collections::BTreeMap;

use actix_web::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use actix_web::middleware::DefaultHeaders;
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, web};
use utoipa::openapi::HttpMethod;

use super::native::problem::{Kind, Problem};

/// Headers of responses that may contain secrets: not cached, no content sniffing.
pub(super) fn private() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((CACHE_CONTROL, "no-store"))
        .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
}

pub(super) async fn not_found(request: HttpRequest) -> Problem {
    let detail = format!(
        "no resource at {}; the API is under /api/v1",
        request.path()
    );
    Problem::new(Kind::NotFound, detail)
}

/// Declares the routes of a file from the `#[utoipa::path]` of its handlers: `Api` describes them
/// and `routes` mounts them.
macro_rules! routes {
    ($($handler:ident),+) => { pastey::paste! {
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($handler),+))]
        pub(in crate::http::native) struct Api;

        pub(in crate::http::native) fn routes(config: &mut actix_web::web::ServiceConfig) {
            let mut resources = $crate::http::route::Resources::default();
            $(resources.add::<[<__path_ $handler>], _, _>($handler);)+
            resources.mount(config);
        }
    } };
}
pub(super) use routes;

/// Resources by path, each with the methods that it allows. A literal segment sorts before a
/// parameter, so that `/events/batch` is matched before `/events/{id}`.
#[derive(Default)]
pub(super) struct Resources(BTreeMap<String, (Vec<&'static str>, Resource)>);

impl Resources {
    /// Adds `handler` at the path and method that its description `P` names.
    pub(super) fn add<P, F, Args>(&mut self, handler: F)
    where
        P: utoipa::Path,
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let path = P::path();
        let (mut allowed, mut resource) = self
            .0
            .remove(&path)
            .unwrap_or_else(|| (Vec::new(), web::resource(&path)));
        for method in P::methods() {
            let (name, route) = match method {
                HttpMethod::Post => ("POST", web::post()),
                HttpMethod::Patch => ("PATCH", web::patch()),
                HttpMethod::Delete => ("DELETE", web::delete()),
                _ => ("GET", web::get()),
            };
            allowed.push(name);
            resource = resource.route(route.to(handler.clone()));
        }
        self.0.insert(path, (allowed, resource));
    }

    pub(super) fn mount(self, config: &mut web::ServiceConfig) {
        for (allowed, resource) in self.0.into_values() {
            config.service(resource.default_service(only(&allowed)));
        }
    }
}

/// Rejects every method except those in `allowed`.
pub(super) fn only(allowed: &[&'static str]) -> actix_web::Route {
    let mut allowed = allowed.join(", ");
    // `GET` includes `HEAD`.
    if allowed.contains("GET") {
        allowed.push_str(", HEAD");
    }
    web::route().to(move |request: HttpRequest| {
        let allowed = allowed.clone();
        async move {
            let (method, path) = (request.method(), request.path());
            let detail = format!("{method} is not allowed at {path}; allowed: {allowed}");
            Problem::method_not_allowed(detail, allowed)
        }
    })
}
