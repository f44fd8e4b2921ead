//! An open transaction of the writer. Each subject's file adds its writes.

use super::connection::AnyConnection;
use super::endpoint_cache::EndpointCache;
use super::endpoint_codec::EndpointCodec;
use super::writes::CommittedDelivery;
use crate::ports::IdSource;

/// An open transaction.
pub(crate) struct Tx<'a> {
    pub(super) conn: &'a mut AnyConnection,
    pub(super) codec: &'a EndpointCodec,
    pub(super) cache: &'a mut EndpointCache,
    pub(super) ids: &'a IdSource,
    /// The deliveries that it has created.
    pub(super) new_deliveries: &'a mut Vec<CommittedDelivery>,
}
