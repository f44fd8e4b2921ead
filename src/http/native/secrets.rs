//! `/endpoints/{id}/secret`: signing secrets and their rotation.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};

use super::bodies::secret::{OlderKeyBody, RotateRequest, SecretBody, SecretsBody};
use super::body::{EmptyBody, JsonBody};
use super::endpoints::MAX_REQUEST;
use super::extract::{Id, parse_id};
use super::params::NoQuery;
use super::problem::Problem;
use crate::domain::Resource;
use crate::domain::ids::EndpointId;
use crate::domain::secret::SigningSecret;
use crate::engine::OlderKey;
use crate::engine::scoped::Portal;
use crate::http::caller::access::Access;
use crate::http::route::routes;

/// Default grace period of a rotation: one day.
const DEFAULT_GRACE_S: u64 = 86_400;

routes!(secret, rotate, end_key);

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
        (status = 200, description = "The current secret, and the older keys that still sign.", body = SecretsBody),
    )
)]
async fn secret(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
) -> Result<HttpResponse, Problem> {
    let (secret, older) = access.endpoint_secrets(&id).await?;
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

/// Rotate the secret
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
        (status = 200, description = "The new secret. Both secrets sign during the grace period; with a grace of 0 only the new one.", body = SecretBody),
        (status = 409, description = "Ten older keys still sign, and the grace is not 0."),
    )
)]
async fn rotate(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
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
    let secret = access.rotate_secret(&id, secret, grace).await?;
    Ok(HttpResponse::Ok().json(SecretBody {
        secret: secret.reveal(),
    }))
}

/// Revoke an older key
#[utoipa::path(
    delete,
    path = "/endpoints/{id}/secret/{key}",
    operation_id = "endKey",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
        ("key" = String, Path, description = "Id of the key, as listed with the secret.", max_length = 128, pattern = "^[A-Za-z0-9_-]{1,128}$"),
    ),
    responses(
        (status = 204, description = "The key no longer signs."),
    )
)]
async fn end_key(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    request: HttpRequest,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let key = parse_id(&request, "key", Resource::Key)?;
    access.end_key(&id, key).await?;
    Ok(HttpResponse::NoContent().finish())
}
