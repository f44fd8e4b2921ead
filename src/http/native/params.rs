//! Strict reading of query parameters: unknown and repeated ones are rejected by name.

use std::collections::BTreeMap;
use std::str::FromStr;

use actix_web::{FromRequest, HttpRequest, dev};

use super::field::InvalidField;
use super::problem::Problem;
use crate::domain::clock::Timestamp;
use crate::domain::query::{Cursor, Page};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 250;

/// The parameters of a query string, all known, none repeated.
pub(super) struct Params {
    given: BTreeMap<String, String>,
    errors: Vec<InvalidField>,
}

impl Params {
    pub(super) fn read(request: &HttpRequest, known: &[&str]) -> Self {
        let (mut given, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            if !known.contains(&&*name) {
                let detail = if known.is_empty() {
                    "unknown parameter; this operation takes none".to_owned()
                } else {
                    format!("unknown parameter; expected one of {}", known.join(", "))
                };
                errors.push(InvalidField::new(name, detail));
            } else if given.insert(name.to_string(), value.to_string()).is_some() {
                errors.push(InvalidField::new(name, "is given twice"));
            }
        }
        Self { given, errors }
    }

    /// Reads one parameter, if it is given.
    pub(super) fn take_with<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match read(&self.given.remove(name)?) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.errors.push(InvalidField::new(name, detail));
                None
            }
        }
    }

    /// Reads one parameter with its `FromStr`.
    pub(super) fn take<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: ToString>,
    {
        self.take_with(name, |text| {
            text.parse().map_err(|error: T::Err| error.to_string())
        })
    }

    /// Reads a time. In a query `+` means a space, which no time contains: a space is the plus of
    /// an offset.
    pub(super) fn take_time(&mut self, name: &str) -> Option<Timestamp> {
        self.take_with(name, |text| text.replace(' ', "+").parse())
    }

    /// Reads `limit` and `cursor` of a list.
    pub(super) fn page(&mut self) -> Page {
        let limit = self.take_with("limit", |text| match text.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
            _ => Err(format!("must be 1 to {MAX_LIMIT}")),
        });
        let after = self.take_with("cursor", |text| Ok(Cursor::from_text(text)));
        Page {
            after,
            limit: limit.unwrap_or(DEFAULT_LIMIT),
        }
    }

    /// Rejects the request if any parameter was invalid.
    pub(super) fn done(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }
}

/// A request without query parameters; any is rejected by name.
pub(super) struct NoQuery;

impl FromRequest for NoQuery {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        std::future::ready(Params::read(request, &[]).done().map(|()| Self))
    }
}
