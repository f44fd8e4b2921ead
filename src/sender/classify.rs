//! What a failed request failed of, told by the types in its chain of causes and never by text.

use std::error::Error;
use std::io;

use super::Failure;
use super::client::{BlockedAddress, NameError};

/// `EMFILE`, `ENFILE` and `EADDRNOTAVAIL`: nothing left to send with.
const EXHAUSTED: &[i32] = &[24, 23, 99];

/// Classifies an error of reqwest.
pub(super) fn classify(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    let mut tls = false;
    while let Some(error) = cause {
        if let Some(blocked) = error.downcast_ref::<BlockedAddress>() {
            return Failure::Blocked(blocked.0.clone());
        }
        if let Some(name) = error.downcast_ref::<NameError>() {
            return Failure::Dns(name.0.clone());
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code)) {
                return Failure::Exhausted(io.to_string());
            }
            // tokio-rustls wraps its own errors in an `io::Error`, which hides them from `source`.
            tls |= io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        }
        tls |= error.is::<rustls::Error>();
        last = error.to_string();
        cause = error.source();
    }
    if tls {
        Failure::Tls(last)
    } else if error.is_timeout() {
        Failure::Timeout(last)
    } else if error.is_connect() {
        Failure::Connect(last)
    } else {
        Failure::Protocol(last)
    }
}
