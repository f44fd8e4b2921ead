//! Extractors: the caller's access and the ids of a path, with problems as errors.

use std::future::{Ready, ready};

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};

use super::problem::Problem;
use crate::domain::Resource;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, RecoveryId, TokenId, is_valid_id};
use crate::engine::Error;
use crate::engine::scoped::Needs;
use crate::http::caller::access::Access;
use crate::http::caller::admission::Admission;

/// Admits a request, or responds with the problem.
pub(crate) async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let admission = Admission::of(request.request())
        .await
        .map_err(Problem::from)?;
    request.extensions_mut().insert(admission);
    next.call(request).await
}

impl<N: Needs> FromRequest for Access<N> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request).map_err(Problem::from))
    }
}

/// The id in a path. An invalid id is not found, without a query.
pub(crate) struct Id<T>(pub(crate) T);

/// A kind of id in paths.
pub(crate) trait PathId: Sized {
    const WHAT: Resource;
    fn from_path(text: &str) -> Self;
}

macro_rules! path_ids {
    ($($id:ident: $what:ident,)+) => {$(
        impl PathId for $id {
            const WHAT: Resource = Resource::$what;

            fn from_path(text: &str) -> Self {
                Self::from_text(text)
            }
        }
    )+};
}
path_ids! {
    DeliveryId: Delivery,
    EndpointId: Endpoint,
    EventId: Event,
    RecoveryId: Recovery,
    TokenId: Token,
}

impl<T: PathId> FromRequest for Id<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse_id(request, "id", T::WHAT).map(|id| Self(T::from_path(id))))
    }
}

/// Reads an id from the path.
pub(super) fn parse_id<'r>(
    request: &'r HttpRequest,
    place: &str,
    what: Resource,
) -> Result<&'r str, Problem> {
    let id = request.match_info().get(place);
    id.filter(|id| is_valid_id(id))
        .ok_or_else(|| Error::NotFound(what).into())
}
