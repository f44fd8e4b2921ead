//! The meaning of a response for its endpoint, beyond success or failure.

use std::time::Duration;

use crate::domain::breaker::{RetryAfter, Verdict};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Headers;

/// Minimum rest: `Retry-After` can only add a delay, so 0 and past dates are ignored.
const LEAST_REST: Duration = Duration::from_secs(1);

/// Returns the meaning of a response received at `at`.
pub fn verdict_of_response(status: u16, headers: &Headers, at: Timestamp) -> Verdict {
    let asked = retry_after(headers).filter(|asked| asked.delay(at) >= LEAST_REST);
    match (status, asked) {
        (200..=299, _) => Verdict::Accepted,
        (410, _) => Verdict::Gone,
        (429 | 503, Some(asked)) => Verdict::RetryAfter(asked),
        (429, None) => Verdict::Throttled,
        _ => Verdict::Failed,
    }
}

/// Parses `Retry-After` (RFC 9110, section 10.2.3): a number of seconds, or a date. Other values
/// are ignored.
fn retry_after(headers: &Headers) -> Option<RetryAfter> {
    let (_, value) = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 has are still a delay; the domain limits it.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(RetryAfter::Delay(Duration::from_secs(seconds)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let since_epoch = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(RetryAfter::Date(Timestamp::from_micros(0) + since_epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute before the date below.
    const AT: Timestamp = Timestamp::from_micros(784_111_777_000_000 - 60_000_000);

    fn asked(value: &str) -> Verdict {
        verdict_of_response(503, &vec![("Retry-After".into(), value.into())], AT)
    }

    #[test]
    fn seconds_and_dates_are_understood_and_nonsense_is_a_failure() {
        let delay = |seconds| Verdict::RetryAfter(RetryAfter::Delay(Duration::from_secs(seconds)));
        assert_eq!(asked("120"), delay(120));
        assert_eq!(asked(" 1 "), delay(1));
        assert_eq!(asked("99999999999999999999999"), delay(u64::MAX));
        let date = Timestamp::from_micros(784_111_777_000_000);
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:37 GMT"),
            Verdict::RetryAfter(RetryAfter::Date(date))
        );
        for nonsense in [
            "",
            "-5",
            "1.5",
            "soon",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "0",
            "Sun, 06 Nov 1994 08:48:37 GMT",
        ] {
            assert_eq!(asked(nonsense), Verdict::Failed, "{nonsense}");
        }
    }

    #[test]
    fn only_429_and_503_may_ask_for_rest() {
        let headers = vec![("retry-after".to_owned(), "5".to_owned())];
        let none = Vec::new();
        assert_eq!(verdict_of_response(500, &headers, AT), Verdict::Failed);
        assert_eq!(verdict_of_response(301, &headers, AT), Verdict::Failed);
        assert_eq!(verdict_of_response(204, &headers, AT), Verdict::Accepted);
        assert_eq!(verdict_of_response(410, &headers, AT), Verdict::Gone);
        assert_eq!(verdict_of_response(429, &none, AT), Verdict::Throttled);
        assert_eq!(verdict_of_response(503, &none, AT), Verdict::Failed);
        let at_once = vec![("retry-after".to_owned(), "0".to_owned())];
        assert_eq!(
            verdict_of_response(429, &at_once, AT),
            Verdict::Throttled,
            "as a 429 without the header"
        );
    }
}
