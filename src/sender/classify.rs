//! What a failed request failed of, told by the types in its chain of causes and never by text.

use std::error::Error;
use std::io;

use hyper_util::client::legacy;

use super::Failure;
use super::connector::ConnectError;

/// `EMFILE` and `ENFILE`: no file descriptor left to send with. (`EADDRNOTAVAIL` is none of them:
/// it is also what connecting to IPv6 answers on a host without it.)
const EXHAUSTED: &[i32] = &[24, 23];

/// Classifies an error of the client.
pub(super) fn classify(error: &legacy::Error) -> Failure {
    let last = last_cause(error);
    match error
        .source()
        .and_then(|cause| cause.downcast_ref::<ConnectError>())
    {
        Some(ConnectError::Blocked(blocked)) => Failure::Blocked(blocked.clone()),
        Some(ConnectError::Name(detail)) => Failure::Dns(detail.clone()),
        Some(ConnectError::Tcp(io) | ConnectError::Tls(io)) if is_exhausted(io) => {
            Failure::Exhausted(io.to_string())
        }
        Some(ConnectError::Tcp(_)) => Failure::Connect(last),
        Some(ConnectError::Tls(_)) => Failure::Tls(last),
        Some(error @ ConnectError::Deadline) => Failure::Timeout(error.to_string()),
        Some(ConnectError::NoAttempt) | None => Failure::Protocol(last),
    }
}

/// Whether the client gave a request back without having begun to send it.
pub(super) fn was_not_sent(error: &legacy::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_canceled)
}

/// Whether a response could not be parsed.
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

/// The words of the innermost cause.
fn last_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    loop {
        let next = match cause.downcast_ref::<io::Error>() {
            // An `io::Error` passes its inner error over in `source`, and TLS errors come in one.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
        match next {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}
