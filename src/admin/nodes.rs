//! `/nodes`: the processes that send.

use actix_web::{HttpResponse, web};

use super::ListBody;
use super::auth::{Access, Read};
use super::problem::Problem;
use super::request::NoParams;

const LIST: &str = "nodes";

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/nodes").get(list).default_service(super::only("GET")));
}

async fn list(access: Access<Read>, _: NoParams) -> Result<HttpResponse, Problem> {
    access.for_all_tenants()?;
    let nodes = access.postrider().nodes().await?;
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, nodes, None)))
}
