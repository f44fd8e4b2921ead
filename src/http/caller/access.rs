//! The engine as one caller may use it.
//!
//! A handler reaches the engine only through [`Access`], which names the scope it needs; the engine
//! checks the tenant. So no route can skip the check.

use std::ops::Deref;

use actix_web::{HttpMessage as _, HttpRequest, web};

use super::admission::Admission;
use super::gate::Gate;
use super::rejection::Rejection;
use crate::engine::scoped::{Needs, Scoped};

/// The calls that the request's caller may make with the scope `N`.
pub(crate) struct Access<N> {
    engine: Scoped<N>,
    gate: web::Data<Gate>,
    admission: Admission,
}

impl<N: Needs> Access<N> {
    /// Returns the access of a request that was admitted.
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Rejection> {
        let admission = request.extensions().get::<Admission>().cloned();
        let admission = admission.ok_or(Rejection::NoCredential)?;
        let gate = Gate::of(request).ok_or(Rejection::NoCredential)?;
        Ok(Self {
            engine: gate.postrider.as_caller(admission.grant.clone())?,
            gate,
            admission,
        })
    }
}

impl<N> Access<N> {
    /// Returns a text that is the same for each call with the same credential.
    pub(crate) fn caller(&self) -> String {
        self.admission.caller()
    }

    /// Returns true while the caller would be admitted with the same rights. Streaming responses
    /// check it.
    pub(crate) fn still_holds(&self) -> bool {
        self.admission.still_holds(&self.gate)
    }
}

impl<N> Deref for Access<N> {
    type Target = Scoped<N>;

    fn deref(&self) -> &Scoped<N> {
        &self.engine
    }
}
