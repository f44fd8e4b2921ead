//! `/endpoints/{id}/secret`: what an endpoint's signatures are made with.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::auth::{Access, Portal, id_of};
use super::endpoints::MAX_REQUEST;
use super::openapi::NewSecretText;
use super::problem::Problem;
use super::request::{JsonBody, NoFields, NoParams, whole};
use crate::domain::clock::Timestamp;
use crate::domain::ids::EndpointId;
use crate::domain::secret::SigningSecret;
use crate::engine::OlderKey;

/// How long both keys sign after a rotation, unless the caller says otherwise: a day.
const DEFAULT_GRACE_S: u64 = 86_400;

#[derive(OpenApi)]
#[openapi(paths(secret, rotate, end_key))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/endpoints/{id}/secret")
                .get(secret)
                .default_service(super::only("GET")),
        )
        .service(
            web::resource("/endpoints/{id}/secret/rotate")
                .post(rotate)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/endpoints/{id}/secret/{key}")
                .delete(end_key)
                .default_service(super::only("DELETE")),
        );
}

/// A signing secret.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointSecret)]
struct SecretBody {
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
}

/// The present signing secret, and the older keys that sign beside it.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointSecrets)]
struct SecretsBody {
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// Newest first.
    older: Vec<OlderKeyBody>,
}

/// A key that was rotated out and still signs.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderKey)]
struct OlderKeyBody {
    #[schema(example = "key_64fb1a2b3c4d5")]
    id: String,
    signs_until: Timestamp,
}

/// Show the secret
#[utoipa::path(
    get,
    path = "/endpoints/{id}/secret",
    operation_id = "showSecret",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 200, description = "The present secret, and the older keys.", body = SecretsBody),
    )
)]
async fn secret(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (secret, older) = access
        .postrider()
        .endpoint_secrets(&access.endpoint(id).await?)
        .await?;
    let older = older.into_iter().map(
        |OlderKey {
             id, signs_until, ..
         }| OlderKeyBody { id, signs_until },
    );
    Ok(HttpResponse::Ok().json(SecretsBody {
        secret: secret.reveal(),
        older: older.collect(),
    }))
}

/// The secret to come; one is made where it is absent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSecret, example = json!({"grace_s": 86400}))]
struct RotateRequest {
    #[schema(value_type = Option<NewSecretText>)]
    secret: Option<String>,
    /// How long both sign, in seconds: a day unless given.
    #[schema(minimum = 0, maximum = 604800)]
    #[serde(default, deserialize_with = "whole")]
    grace_s: Option<u64>,
}

/// Give it another secret
#[utoipa::path(
    post,
    path = "/endpoints/{id}/secret/rotate",
    operation_id = "rotateSecret",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    request_body(content = RotateRequest),
    responses(
        (status = 200, description = "The new secret. Both sign until the grace ends; with a grace of 0 it signs alone.", body = SecretBody),
        (status = 409, description = "Ten older keys sign already, and the grace is not 0."),
    )
)]
async fn rotate(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    body: JsonBody<MAX_REQUEST>,
) -> Result<HttpResponse, Problem> {
    let request: RotateRequest = body.read()?;
    let secret = request
        .secret
        .as_deref()
        .map(SigningSecret::parse)
        .transpose();
    let secret = secret.map_err(|detail| Problem::field("secret", detail))?;
    let grace = Duration::from_secs(request.grace_s.unwrap_or(DEFAULT_GRACE_S));
    let secret = access
        .postrider()
        .rotate_secret(&access.endpoint(id).await?, secret, grace)
        .await?;
    Ok(HttpResponse::Ok().json(SecretBody {
        secret: secret.reveal(),
    }))
}

/// End an older key
#[utoipa::path(
    delete,
    path = "/endpoints/{id}/secret/{key}",
    operation_id = "endKey",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
        ("key" = String, Path, description = "Its id, as the secret's answer lists it.", max_length = 128, pattern = "^[A-Za-z0-9_-]{1,128}$"),
    ),
    responses(
        (status = 204, description = "It signs nothing more."),
    )
)]
async fn end_key(
    access: Access<Portal>,
    _: NoParams,
    path: web::Path<(String, String)>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let (id, key) = path.into_inner();
    let endpoint = access.endpoint(web::Path::from(id)).await?;
    access
        .postrider()
        .end_key(&endpoint, &id_of(web::Path::from(key), "key")?)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}
