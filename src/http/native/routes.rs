//! Every route of the API.

use super::{
    deliveries, endpoints, events, nodes, openapi, recoveries, secrets, sessions, stats, stream,
    tokens,
};

/// Every route below `/api/v1` that asks for a credential.
pub(crate) fn routes(config: &mut actix_web::web::ServiceConfig) {
    config
        .configure(sessions::link_routes)
        .configure(events::routes)
        .configure(endpoints::routes)
        .configure(secrets::routes)
        .configure(deliveries::routes)
        .configure(tokens::routes)
        .configure(nodes::routes)
        .configure(recoveries::routes)
        .configure(stats::routes)
        .configure(stream::routes)
        .configure(openapi::routes);
}
