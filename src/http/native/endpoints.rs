//! `/endpoints`: managing endpoints.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value};

use super::bodies::endpoint::{EndpointBody, Standing, TestBody};
use super::bodies::endpoint_change::{EndpointChangeBody, NewEndpoint};
use super::bodies::list::ListBody;
use super::body::{EmptyBody, JsonBody, Strict, wrong_json};
use super::extract::Id;
use super::params::{NoQuery, Params};
use super::problem::Problem;
use crate::domain::FieldError;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::query::EndpointQuery;
use crate::domain::secret::SigningSecret;
use crate::domain::settings::EndpointChange;
use crate::engine::scoped::{Portal, Read};
use crate::http::caller::access::Access;
use crate::http::route::routes;

pub(super) const MAX_REQUEST: usize = 256 * 1024;

type Body = JsonBody<MAX_REQUEST>;

routes!(create, list, show, update, delete, pause, resume, test);

/// Create an endpoint
///
/// `tenant` and `secret` can only be set here; all other fields can be changed later.
#[utoipa::path(
    post,
    path = "/endpoints",
    operation_id = "createEndpoint",
    tag = "Endpoints",
    request_body(content = NewEndpoint),
    responses(
        (status = 201, description = "The endpoint with its secret, which is shown only here.", body = EndpointBody),
    )
)]
async fn create(access: Access<Portal>, _: NoQuery, body: Body) -> Result<HttpResponse, Problem> {
    let mut fields = body.read::<Strict>()?.into_fields();
    let tenant = take_text(&mut fields, "tenant", Tenant::parse)?;
    let secret = take_text(&mut fields, "secret", SigningSecret::parse)?;
    let asymmetric = matches!(secret, Some(SigningSecret::Private(_)));
    let view = access
        .create_endpoint(
            tenant,
            change_of(fields, EndpointChange::check_new)?,
            secret,
        )
        .await?;
    let secret = view
        .endpoint
        .current_keys()
        .map(|keys| keys.signing_secret(asymmetric).reveal());
    let shown = EndpointBody {
        secret,
        ..EndpointBody::new(view)
    };
    Ok(HttpResponse::Created().json(shown))
}

fn take_text<T>(
    fields: &mut Map<String, Value>,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => read(&text)
            .map(Some)
            .map_err(|detail| Problem::field(name, detail)),
        Some(_) => Err(Problem::field(name, "must be a string")),
    }
}

/// Reads a change of an endpoint as the API does; an error is the detail of its problem.
#[cfg(feature = "testing")]
pub(crate) fn read_change(json: &str) -> Result<EndpointChange, String> {
    let fields = serde_json::from_str(json).map_err(|error| error.to_string())?;
    change_of(fields, EndpointChange::check).map_err(|problem| problem.to_string())
}

fn change_of(
    fields: Map<String, Value>,
    check: fn(&EndpointChange) -> Vec<FieldError>,
) -> Result<EndpointChange, Problem> {
    let body: Result<EndpointChangeBody, _> =
        serde_path_to_error::deserialize(Value::Object(fields));
    let body = body.map_err(|error| {
        let path = error.path().to_string();
        wrong_json(error.into_inner(), &path)
    });
    body?.into_change(check)
}

/// Change an endpoint
///
/// Takes effect immediately. Arrays and headers are replaced as a whole.
#[utoipa::path(
    patch,
    path = "/endpoints/{id}",
    operation_id = "changeEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    request_body(content = EndpointChangeBody),
    responses(
        (status = 200, description = "The updated endpoint.", body = EndpointBody),
    )
)]
async fn update(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let fields = body.read::<Strict>()?.into_fields();
    for (name, instead) in [
        ("secret", "use POST …/secret/rotate"),
        ("tenant", "an endpoint stays with its tenant"),
    ] {
        if fields.contains_key(name) {
            return Err(Problem::field(
                name,
                format!("cannot be changed: {instead}"),
            ));
        }
    }
    let view = access
        .update_endpoint(&id, change_of(fields, EndpointChange::check)?)
        .await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// Show an endpoint
#[utoipa::path(
    get,
    path = "/endpoints/{id}",
    operation_id = "showEndpoint",
    tag = "Endpoints",
    params(("id" = EndpointId, Path)),
    responses((status = 200, description = "The endpoint.", body = EndpointBody))
)]
async fn show(
    access: Access<Read>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
) -> Result<HttpResponse, Problem> {
    let view = access.endpoint(&id).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// Checks a text to search for in URLs and descriptions.
fn search(text: &str) -> Result<String, String> {
    let chars = text.chars().count();
    let sought = (1..=200).contains(&chars) && !text.chars().any(char::is_control);
    sought
        .then(|| text.to_owned())
        .ok_or_else(|| "must be 1 to 200 characters".into())
}

/// List endpoints
#[utoipa::path(
    get,
    path = "/endpoints",
    operation_id = "listEndpoints",
    tag = "Endpoints",
    params(
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant."),
        ("status" = Option<Standing>, Query, description = "Only active or only paused endpoints."),
        ("search" = Option<String>, Query, description = "Only endpoints with this text in their URL or description.", max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"),
        ("limit" = Option<i64>, Query, description = "Page size; default 50.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the previous page.", pattern = "^[A-Za-z0-9_-]{1,256}$"),
    ),
    responses(
        (status = 200, description = "A page of endpoints.", body = ListBody<EndpointBody>),
    )
)]
async fn list(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::read(&request, &["tenant", "status", "search", "limit", "cursor"]);
    let page = params.page();
    let tenant = params.take_with("tenant", Tenant::parse);
    let paused = params.take_with("status", |text| match text {
        "active" => Ok(false),
        "paused" => Ok(true),
        _ => Err("must be active or paused".into()),
    });
    let search = params.take_with("search", search);
    params.done()?;
    let query = EndpointQuery {
        tenant,
        paused,
        search,
    };
    let listed = access.endpoints(query, page).await?;
    Ok(HttpResponse::Ok().json(ListBody::new(listed.map(EndpointBody::new))))
}

/// Delete an endpoint
#[utoipa::path(
    delete,
    path = "/endpoints/{id}",
    operation_id = "deleteEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 204, description = "Deleted. Its pending deliveries failed (`endpoint_deleted`); the delivery history is kept."),
    )
)]
async fn delete(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
) -> Result<HttpResponse, Problem> {
    access.delete_endpoint(&id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Pause an endpoint
///
/// Nothing new is sent, attempts in flight finish, pending deliveries are kept.
#[utoipa::path(
    post,
    path = "/endpoints/{id}/pause",
    operation_id = "pauseEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 200, description = "The updated endpoint.", body = EndpointBody),
    )
)]
async fn pause(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let view = access.pause_endpoint(&id).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// Resume an endpoint
///
/// Ends any pause, clears a hold and closes the breaker.
#[utoipa::path(
    post,
    path = "/endpoints/{id}/resume",
    operation_id = "resumeEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 200, description = "The updated endpoint.", body = EndpointBody),
    )
)]
async fn resume(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let view = access.resume_endpoint(&id).await?;
    Ok(HttpResponse::Ok().json(EndpointBody::new(view)))
}

/// Send a test event
#[utoipa::path(
    post,
    path = "/endpoints/{id}/test",
    operation_id = "testEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    responses(
        (status = 202, description = "A `postrider.test` event was published to this endpoint only.", body = TestBody),
    )
)]
async fn test(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let receipt = access.test_endpoint(&id).await?;
    Ok(HttpResponse::Accepted().json(TestBody::from(receipt)))
}
