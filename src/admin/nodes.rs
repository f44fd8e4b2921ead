//! `/nodes`: the processes that send.

use actix_web::{HttpResponse, web};
use utoipa::OpenApi;

use super::ListBody;
use super::auth::{Access, Read};
use super::openapi::NodeShape;
use super::problem::Problem;
use super::request::NoParams;

const LIST: &str = "nodes";

#[derive(OpenApi)]
#[openapi(paths(list))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::resource("/nodes")
            .get(list)
            .default_service(super::only("GET")),
    );
}

/// The processes that send
#[utoipa::path(
    get,
    path = "/nodes",
    operation_id = "listNodes",
    tag = "Operating",
    responses(
        (status = 200, description = "All of them; one row on SQLite.", body = ListBody<NodeShape>),
    )
)]
async fn list(access: Access<Read>, _: NoParams) -> Result<HttpResponse, Problem> {
    access.for_all_tenants()?;
    let nodes = access.postrider().nodes().await?;
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, nodes, None)))
}
