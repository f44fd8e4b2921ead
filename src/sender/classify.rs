//! What a failed request failed of, told by the types in its chain of causes and never by text.

use std::error::Error;
use std::io;

use super::Failure;
use super::client::{BlockedAddress, NameError};

/// `EMFILE` and `ENFILE`: no file descriptor left to send with. (`EADDRNOTAVAIL` is none of them: it
/// is also what connecting to IPv6 answers on a host without it.)
const EXHAUSTED: &[i32] = &[24, 23];

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
        tls |= error.is::<rustls::Error>();
        last = error.to_string();
        cause = match error.downcast_ref::<io::Error>() {
            Some(io) if io.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code)) => {
                return Failure::Exhausted(io.to_string());
            }
            // An `io::Error` passes its inner error over in `source`, and TLS errors come in one.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
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
