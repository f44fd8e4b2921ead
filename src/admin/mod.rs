//! The HTTP API on actix-web: the contract, and nothing that the engine's handle could not do.
//!
//! [`Postrider::admin`] mounts it. Handlers read a request, make one call of the handle and show
//! its answer; what is wrong becomes a `problem`.

mod auth;
mod dashboard;
mod deliveries;
mod endpoints;
mod events;
mod head;
mod insight;
mod nodes;
mod openapi;
mod problem;
mod recoveries;
mod request;
mod secrets;
mod session;
mod stream;
mod tokens;

use actix_cors::Cors;
use actix_web::dev::HttpServiceFactory;
use actix_web::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::{Condition, DefaultHeaders, from_fn};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use self::auth::Access;
pub use self::auth::ApiToken;
use self::auth::Callers;
#[cfg(feature = "testing")]
pub(crate) use self::events::read_event;
pub use self::openapi::openapi;
use self::problem::{Kind, Problem};
use crate::engine::{MetricsFormat, Postrider};

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = List)]
struct ListBody<T> {
    data: Vec<T>,
    /// `cursor` of the next page; null: this is the last.
    next_cursor: Option<String>,
}

impl<T> ListBody<T> {
    fn new(list: &str, data: Vec<T>, next: Option<String>) -> Self {
        Self {
            data,
            next_cursor: next.map(|key| request::cursor(list, &key)),
        }
    }
}

#[derive(OpenApi)]
#[openapi(paths(healthz, readyz, metrics))]
struct Api;

impl Postrider {
    /// Mounts the HTTP API, without any authentication of its own: whoever reaches it may do
    /// everything, so it belongs behind the host's. Under any prefix; the API is at
    /// `PREFIX/api/v1`.
    ///
    /// ```no_run
    /// # fn app(postrider: postrider::Postrider) {
    /// use actix_web::{App, web};
    ///
    /// // `.wrap(…)` the scope in the middleware that knows your administrators.
    /// let app = App::new().service(web::scope("/webhooks").configure(postrider.admin()));
    /// # }
    /// ```
    pub fn admin(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        mount(self.clone(), Callers::Trusted, &[])
    }

    /// Mounts the HTTP API as the server does: `/api/v1/…` and `/metrics` behind `token` and the
    /// tokens made with it, `/healthz` and `/readyz` in the open. Under any prefix, as
    /// [`admin`](Self::admin).
    ///
    /// ```no_run
    /// # async fn serve(postrider: postrider::Postrider) -> std::io::Result<()> {
    /// use actix_web::{App, HttpServer};
    /// use postrider::admin::ApiToken;
    ///
    /// let token = ApiToken::new("a token of your own").expect("long enough");
    /// HttpServer::new(move || App::new().configure(postrider.admin_with_tokens(token.clone())))
    ///     .bind("127.0.0.1:8400")?
    ///     .run()
    ///     .await
    /// # }
    /// ```
    pub fn admin_with_tokens(
        &self,
        token: ApiToken,
    ) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        self.admin_with_cors(token, &[])
    }

    /// As [`admin_with_tokens`](Self::admin_with_tokens), and callable with a bearer token by pages
    /// of these origins, such as `https://console.example.com`: never with a cookie (the CORS
    /// protocol of the Fetch Standard).
    pub fn admin_with_cors(
        &self,
        token: ApiToken,
        origins: &[String],
    ) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        mount(self.clone(), Callers::Bearers(token), origins)
    }
}

/// The CORS rules: pages of listed origins may call with a token and read the response, never with
/// a cookie.
fn cors(origins: &[String]) -> Condition<Cors> {
    let listed = origins
        .iter()
        .fold(Cors::default(), |cors, origin| cors.allowed_origin(origin));
    let cors = listed
        .allowed_methods(["GET", "HEAD", "POST", "PATCH", "DELETE"])
        .allowed_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static(events::IDEMPOTENCY_KEY),
        ])
        .expose_headers([RETRY_AFTER])
        .max_age(3600);
    Condition::new(!origins.is_empty(), cors)
}

fn mount(
    postrider: Postrider,
    callers: Callers,
    origins: &[String],
) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let cors = cors(origins);
    move |config| {
        config
            .app_data(web::Data::new(postrider))
            .app_data(web::Data::new(callers))
            .service(probe("/healthz", web::get().to(healthz)))
            .service(probe("/readyz", web::get().to(readyz)))
            .service(
                web::resource("/metrics")
                    .wrap(from_fn(auth::authenticate))
                    .wrap(from_fn(head::as_get))
                    .get(metrics)
                    .default_service(only("GET")),
            )
            .service(session::resource("/api/v1/session"))
            .service(
                web::scope("/api/v1")
                    .wrap(from_fn(auth::authenticate))
                    .wrap(private())
                    .wrap(from_fn(head::as_get))
                    .wrap(cors)
                    .configure(session::link_routes)
                    .configure(events::routes)
                    .configure(endpoints::routes)
                    .configure(secrets::routes)
                    .configure(deliveries::routes)
                    .configure(tokens::routes)
                    .configure(nodes::routes)
                    .configure(recoveries::routes)
                    .configure(insight::routes)
                    .configure(stream::routes)
                    .configure(openapi::routes)
                    .default_service(web::route().to(not_found)),
            )
            .configure(dashboard::routes)
            .default_service(web::route().to(not_found));
    }
}

/// Answers that hold secrets among others: no cache keeps them, and they are what they say.
fn private() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((CACHE_CONTROL, "no-store"))
        .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
}

fn probe(path: &str, get: actix_web::Route) -> impl HttpServiceFactory + use<> {
    web::resource(path)
        .route(get)
        .default_service(only("GET"))
        .wrap(from_fn(head::as_get))
}

async fn not_found(request: HttpRequest) -> Problem {
    let detail = format!("nothing is at {}; the API is under /api/v1", request.path());
    Problem::new(Kind::NotFound, detail)
}

/// Refuses whatever is none of the methods that are `allowed`.
fn only(allowed: &'static str) -> actix_web::Route {
    web::route().to(move |request: HttpRequest| async move {
        // Where there is GET there is HEAD.
        let head = if allowed.split(", ").any(|one| one == "GET") {
            ", HEAD"
        } else {
            ""
        };
        let allowed = format!("{allowed}{head}");
        let detail = format!(
            "{} is not offered at {}, but {allowed}",
            request.method(),
            request.path()
        );
        Problem::method_not_allowed(detail, allowed)
    })
}

/// That all is well.
#[derive(Serialize, ToSchema)]
#[schema(as = Probe)]
struct StatusBody {
    status: &'static str,
}

/// Whether the process lives
#[utoipa::path(
    get,
    path = "healthz",
    operation_id = "healthz",
    tag = "Operating",
    responses(
        (status = 200, description = "It does.", body = StatusBody),
    ),
    security(())
)]
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(StatusBody { status: "ok" })
}

/// Whether events are taken and sent
#[utoipa::path(
    get,
    path = "readyz",
    operation_id = "readyz",
    tag = "Operating",
    responses(
        (status = 200, description = "The database takes writes, and the supervisors run.", body = StatusBody),
    ),
    security(())
)]
async fn readyz(postrider: web::Data<Postrider>) -> Result<HttpResponse, Problem> {
    postrider.ready().await?;
    Ok(HttpResponse::Ok().json(StatusBody { status: "ready" }))
}

/// Metrics
#[utoipa::path(
    get,
    path = "metrics",
    operation_id = "metrics",
    tag = "Operating",
    responses(
        (status = 200, description = "OpenMetrics or the text format of Prometheus, as `accept` says.", body = String, content_type = "text/plain", example = "# TYPE postrider_waiting gauge\npostrider_waiting 0\n"),
    )
)]
async fn metrics(
    access: Access<auth::Read>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    access.for_all_tenants()?;
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    let format = MetricsFormat::accepted(accept.unwrap_or_default());
    let text = access.postrider().metrics(format).await;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, format.content_type()))
        .insert_header((VARY, "accept"))
        .body(text))
}

// Handlers answer with a `Problem` directly where they can do nothing else.
impl actix_web::Responder for Problem {
    type Body = actix_web::body::BoxBody;
    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        actix_web::ResponseError::error_response(&self)
    }
}
