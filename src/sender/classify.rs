//! Classification of failed requests by the types in the error's source chain, never by its text.

use std::error::Error;
use std::io;

use hyper_util::client::legacy;

use super::connector::ConnectError;
use super::transport::TransportError;

/// `EMFILE` and `ENFILE`: no file descriptor left. Not `EADDRNOTAVAIL`, which is also the error of
/// connecting to IPv6 on a host without it.
const EXHAUSTED: &[i32] = &[24, 23];

/// Classifies a client error.
pub(super) fn classify(error: &legacy::Error) -> TransportError {
    let last = last_cause(error);
    match error
        .source()
        .and_then(|cause| cause.downcast_ref::<ConnectError>())
    {
        Some(ConnectError::Blocked(blocked)) => TransportError::Blocked(blocked.clone()),
        Some(ConnectError::Name(detail)) => TransportError::Dns(detail.clone()),
        Some(ConnectError::Tcp(io) | ConnectError::Tls(io)) if is_exhausted(io) => {
            TransportError::Exhausted(io.to_string())
        }
        Some(ConnectError::Tcp(_)) => TransportError::Connect(last),
        Some(ConnectError::Tls(_)) => TransportError::Tls(last),
        Some(error @ ConnectError::Deadline) => TransportError::Timeout(error.to_string()),
        Some(ConnectError::NoAttempt) | None => TransportError::Protocol(last),
    }
}

/// Returns whether the client handed a request back without starting to send it.
pub(super) fn was_not_sent(error: &legacy::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_canceled)
}

/// Returns whether a response could not be parsed.
pub(super) fn is_of_parsing(error: &legacy::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_parse)
}

fn is_exhausted(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| EXHAUSTED.contains(&code))
}

/// Returns the message of the innermost cause.
fn last_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    loop {
        let next = match cause.downcast_ref::<io::Error>() {
            // `io::Error::source` skips the inner error itself, and TLS errors are wrapped in one.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
        match next {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}
