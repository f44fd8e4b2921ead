//! `/nodes`: the processes that share the database.

use actix_web::HttpResponse;

use super::bodies::list::ListBody;
use super::bodies::node::NodeBody;
use super::params::NoQuery;
use super::problem::Problem;
use crate::engine::scoped::Read;
use crate::http::caller::access::Access;
use crate::http::route::routes;

routes!(list);

/// List nodes
#[utoipa::path(
    get,
    path = "/nodes",
    operation_id = "listNodes",
    tag = "Operating",
    responses(
        (status = 200, description = "All nodes; one row on SQLite.", body = ListBody<NodeBody>),
    )
)]
async fn list(access: Access<Read>, _: NoQuery) -> Result<HttpResponse, Problem> {
    let nodes = access.nodes().await?;
    Ok(HttpResponse::Ok().json(ListBody::whole(
        nodes.into_iter().map(NodeBody::from).collect(),
    )))
}
