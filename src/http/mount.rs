//! Mounting the API in an actix-web application, with or without authentication.

use actix_cors::Cors;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use actix_web::middleware::{Condition, from_fn};
use actix_web::web;

use super::caller::ApiToken;
use super::caller::gate::{Callers, Gate};
use super::native::events::IDEMPOTENCY_KEY;
use super::native::extract::authenticate;
use super::route::{not_found, private};
use super::{head, native, probes};
use crate::engine::Postrider;

impl Postrider {
    /// Mounts the HTTP API without authentication: anyone who reaches it may do everything, so put
    /// it behind the host's login. Under any prefix; the API is at `PREFIX/api/v1`.
    ///
    /// ```no_run
    /// # fn app(postrider: postrider::Postrider) {
    /// use actix_web::{App, web};
    ///
    /// // `.wrap(…)` the scope in the middleware that knows your administrators.
    /// let app = App::new().service(web::scope("/webhooks").configure(postrider.api()));
    /// # }
    /// ```
    pub fn api(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        mount(self.clone(), Callers::Trusted, &[])
    }

    /// Mounts the HTTP API as the server does: `/api/v1/…` and `/metrics` require `token` or a
    /// token created with it; `/healthz` and `/readyz` are public. Under any prefix, as
    /// [`api`](Self::api).
    ///
    /// ```no_run
    /// # async fn serve(postrider: postrider::Postrider) -> std::io::Result<()> {
    /// use actix_web::{App, HttpServer};
    /// use postrider::http::ApiToken;
    ///
    /// let token = ApiToken::new("a token of your own").expect("long enough");
    /// HttpServer::new(move || App::new().configure(postrider.api_with_tokens(token.clone())))
    ///     .bind("127.0.0.1:8400")?
    ///     .run()
    ///     .await
    /// # }
    /// ```
    pub fn api_with_tokens(&self, token: ApiToken) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        self.api_with_cors(token, &[])
    }

    /// Like [`api_with_tokens`](Self::api_with_tokens), and pages of these origins, such as
    /// `https://console.example.com`, may call it with a bearer token, never with a cookie (the
    /// CORS protocol of the Fetch Standard).
    pub fn api_with_cors(
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
            HeaderName::from_static(IDEMPOTENCY_KEY),
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
            .app_data(web::Data::new(Gate { postrider, callers }))
            .configure(probes::routes)
            .service(native::session("/api/v1/session"))
            .service(
                web::scope("/api/v1")
                    .wrap(from_fn(authenticate))
                    .wrap(private())
                    .wrap(from_fn(head::as_get))
                    .wrap(cors)
                    .configure(native::routes)
                    .default_service(web::route().to(not_found)),
            );
        #[cfg(feature = "dashboard")]
        config.configure(super::dashboard::routes);
        config.default_service(web::route().to(not_found));
    }
}
