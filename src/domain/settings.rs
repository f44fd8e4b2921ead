//! Settings of an endpoint, and the validation that reports every invalid field with its fix.
//!
//! [`EndpointChange`] serves both creating and changing. Settings that were not given stay unset;
//! `EndpointDefaults` fill them.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use url::Url;

use super::FieldError;
use super::event::EventFilter;
use super::headers::parse_headers;
use super::rate_limit::RateLimit;
use super::retry::RetrySchedule;
use super::words;

words! {
    /// Ordering of an endpoint's deliveries.
    Ordering {
        /// Each one is sent as soon as it is due.
        None = "none",
        /// Deliveries with the same `ordering_key` arrive in order, one at a time.
        Key = "key",
    }
}

words! {
    /// Effect of a failed delivery on later ones with the same ordering key.
    OnFailed {
        /// They wait until it is delivered by a retry, or released.
        Block = "block",
        /// They continue.
        Skip = "skip",
    }
}

words! {
    /// Signature scheme of an endpoint's requests.
    Signing {
        /// HMAC-SHA256, symmetric.
        V1 = "v1",
        /// ed25519, asymmetric.
        V1a = "v1a",
    }
}

/// One field of a change: kept, reset to the default, or set.
///
/// In JSON: absent, `null`, a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// Absent.
    #[default]
    Keep,
    /// `null`.
    Reset,
    /// A value.
    Set(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Reset, Self::Set))
    }
}

impl<T> Change<T> {
    /// Applies the change to a field whose default is given here.
    fn apply_to(self, field: &mut T, default: impl FnOnce() -> T) {
        match self {
            Self::Keep => {}
            Self::Reset => *field = default(),
            Self::Set(value) => *field = value,
        }
    }

    /// Applies the change to a field that may be unset, after checking a value with `check`.
    fn apply_checked<U>(
        self,
        name: &str,
        field: &mut Option<U>,
        errors: &mut Vec<FieldError>,
        check: impl FnOnce(T) -> Result<U, String>,
    ) {
        match self {
            Self::Keep => {}
            Self::Reset => *field = None,
            Self::Set(value) => match check(value) {
                Ok(value) => *field = Some(value),
                Err(detail) => errors.push(FieldError::new(name, detail)),
            },
        }
    }
}

/// The fields for creating or changing an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointChange {
    /// Target of the webhooks: http or https.
    pub url: Change<String>,
    /// A description shown in lists.
    pub description: Change<String>,
    /// Event types to receive: exact names, or prefixes with `.*`; empty means all.
    pub event_types: Change<Vec<String>>,
    /// Headers sent with every request.
    pub headers: Change<BTreeMap<String, String>>,
    /// Maximum rate of attempt starts, such as `10/min`.
    pub rate_limit: Change<String>,
    /// Maximum attempts in flight, 1 to 1,000.
    pub concurrency: Change<u32>,
    /// Timeout of a request, 1,000 to 30,000 ms.
    pub timeout_ms: Change<u64>,
    /// Up to 30 delays between attempts, each at most 7 days.
    pub retry_delays_s: Change<Vec<u32>>,
    /// Maximum age of a pending delivery, 60 seconds to ten years.
    pub max_age_s: Change<u64>,
    /// Consecutive failed attempts that open the breaker; 0 turns it off.
    pub breaker_after: Change<u32>,
    /// `none` or `key`.
    pub ordering: Change<String>,
    /// `block` or `skip`.
    pub on_failed: Change<String>,
    /// `v1`, `v1a` or both.
    pub signing: Change<Vec<String>>,
}

impl EndpointChange {
    /// Creates a new endpoint at `url` that receives all events; the fields refine it.
    ///
    /// ```
    /// use postrider::domain::settings::{Change, EndpointChange};
    ///
    /// let mut change = EndpointChange::to("https://example.com/hook");
    /// change.event_types = Change::Set(vec!["invoice.*".into()]);
    /// ```
    #[must_use]
    pub fn to(url: &str) -> Self {
        Self {
            url: Change::Set(url.to_owned()),
            ..Self::default()
        }
    }
}

/// Settings of an endpoint. `None` follows the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Target of the webhooks.
    pub url: Url,
    /// A description shown in lists.
    pub description: String,
    /// Accepted event types; empty means all.
    pub event_types: Vec<EventFilter>,
    /// Headers sent with every request, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Maximum rate of attempt starts.
    pub rate_limit: Option<RateLimit>,
    /// Maximum attempts in flight.
    pub concurrency: Option<u32>,
    /// Timeout of a request including the response body.
    pub timeout: Option<Duration>,
    /// Delays between attempts.
    pub retry_schedule: Option<RetrySchedule>,
    /// Maximum age of a pending delivery.
    pub max_age: Option<Duration>,
    /// Consecutive failed attempts that open the breaker; 0: no breaker.
    pub breaker_after: Option<u32>,
    /// Ordering of deliveries.
    pub ordering: Ordering,
    /// Effect of a failed delivery on later ones with the same key.
    pub on_failed: OnFailed,
    /// Signature schemes; never empty.
    pub signing: Vec<Signing>,
}

/// Placeholder for an invalid URL while the other fields are checked.
#[expect(clippy::unwrap_used, reason = "it is a constant")]
static NOWHERE: LazyLock<Url> = LazyLock::new(|| Url::parse("http://nowhere.invalid/").unwrap());

const MAX_URL_BYTES: usize = 2048;
const MAX_DESCRIPTION_CHARS: usize = 1024;
const MAX_FILTERS: usize = 100;
const MIN_MAX_AGE: Duration = Duration::from_secs(60);

impl Settings {
    /// Creates the settings of a new endpoint.
    ///
    /// # Errors
    /// Returns every invalid field with its fix.
    pub fn create(change: EndpointChange) -> Result<Self, Vec<FieldError>> {
        // `null` means the default in a change, but no breaker for a new endpoint.
        let off = change.breaker_after == Change::Reset;
        let url = match &change.url {
            Change::Set(url) => parse_url(url),
            Change::Keep | Change::Reset => Err("is required: the URL to send to".to_owned()),
        };
        let (url, wrong_url) = match url {
            Ok(url) => (url, None),
            // Checks the other fields as well, so that all errors are reported at once.
            Err(detail) => (NOWHERE.clone(), Some(FieldError::new("url", detail))),
        };
        let change = EndpointChange {
            url: Change::Keep,
            ..change
        };
        let blank = Self {
            url,
            description: String::new(),
            event_types: Vec::new(),
            headers: BTreeMap::new(),
            rate_limit: None,
            concurrency: None,
            timeout: None,
            retry_schedule: None,
            max_age: None,
            breaker_after: None,
            ordering: Ordering::None,
            on_failed: OnFailed::Block,
            signing: vec![Signing::V1],
        };
        let changed = blank.changed(change);
        if let Some(wrong) = wrong_url {
            let others = changed.err().unwrap_or_default();
            return Err(std::iter::once(wrong).chain(others).collect());
        }
        let mut created = changed?;
        if off {
            created.breaker_after = Some(0);
        }
        Ok(created)
    }

    /// Returns these settings with a change applied.
    ///
    /// # Errors
    /// Returns every invalid field with its fix; nothing is applied then.
    #[expect(clippy::too_many_lines, reason = "one setting after the other")]
    pub fn changed(&self, change: EndpointChange) -> Result<Self, Vec<FieldError>> {
        let mut new = self.clone();
        let mut errors = Vec::new();
        let mut fail = |field: &str, detail: String| errors.push(FieldError::new(field, detail));

        match change.url {
            Change::Keep => {}
            Change::Reset => fail("url", "has no default and cannot be reset".into()),
            Change::Set(url) => match parse_url(&url) {
                Ok(url) => new.url = url,
                Err(detail) => fail("url", detail),
            },
        }
        change
            .description
            .apply_to(&mut new.description, String::new);
        // NUL is refused because Postgres cannot store it in text.
        if new.description.chars().count() > MAX_DESCRIPTION_CHARS || new.description.contains('\0')
        {
            fail(
                "description",
                format!("at most {MAX_DESCRIPTION_CHARS} characters, and no NUL"),
            );
        }
        match change.event_types {
            Change::Keep => {}
            Change::Reset => new.event_types.clear(),
            Change::Set(filters) => match parse_filters(filters) {
                Ok(filters) => new.event_types = filters,
                Err(error) => fail(&error.field, error.detail),
            },
        }
        match change.headers {
            Change::Keep => {}
            Change::Reset => new.headers.clear(),
            Change::Set(headers) => match parse_headers(headers, &self.headers) {
                Ok(headers) => new.headers = headers,
                Err(error) => fail(&error.field, error.detail),
            },
        }
        match change.signing {
            Change::Keep => {}
            Change::Reset => new.signing = vec![Signing::V1],
            Change::Set(schemes) => match parse_signing(&schemes) {
                Ok(signing) => new.signing = signing,
                Err(detail) => fail("signing", detail),
            },
        }
        match change.ordering {
            Change::Keep => {}
            Change::Reset => new.ordering = Ordering::None,
            Change::Set(word) => match word.parse() {
                Ok(ordering) => new.ordering = ordering,
                Err(error) => fail("ordering", format!("{error}")),
            },
        }
        match change.on_failed {
            Change::Keep => {}
            Change::Reset => new.on_failed = OnFailed::Block,
            Change::Set(word) => match word.parse() {
                Ok(on_failed) => new.on_failed = on_failed,
                Err(error) => fail("on_failed", format!("{error}")),
            },
        }
        change
            .rate_limit
            .apply_checked("rate_limit", &mut new.rate_limit, &mut errors, |text| {
                text.parse()
            });
        change.concurrency.apply_checked(
            "concurrency",
            &mut new.concurrency,
            &mut errors,
            check_concurrency,
        );
        change.timeout_ms.apply_checked(
            "timeout_ms",
            &mut new.timeout,
            &mut errors,
            check_timeout_ms,
        );
        change.retry_delays_s.apply_checked(
            "retry_delays_s",
            &mut new.retry_schedule,
            &mut errors,
            RetrySchedule::new,
        );
        change
            .max_age_s
            .apply_checked("max_age_s", &mut new.max_age, &mut errors, |seconds| {
                let age = Duration::from_secs(seconds);
                let years = Duration::from_secs(10 * 365 * 24 * 3600);
                if age >= MIN_MAX_AGE && age <= years {
                    Ok(age)
                } else {
                    Err("must be from 60 seconds to ten years".into())
                }
            });
        change.breaker_after.apply_checked(
            "breaker_after",
            &mut new.breaker_after,
            &mut errors,
            |failures| {
                if failures <= 10_000 {
                    Ok(failures)
                } else {
                    Err("must be 1 to 10,000, or 0 for no breaker".into())
                }
            },
        );

        if errors.is_empty() {
            Ok(new)
        } else {
            Err(errors)
        }
    }
}

/// Checks a maximum of attempts in flight.
///
/// # Errors
/// Returns an error unless it is 1 to 1,000.
pub fn check_concurrency(concurrency: u32) -> Result<u32, String> {
    if (1..=1000).contains(&concurrency) {
        Ok(concurrency)
    } else {
        Err("must be 1 to 1,000".into())
    }
}

/// Checks a request timeout in milliseconds.
///
/// # Errors
/// Returns an error unless it is 1,000 to 30,000.
pub fn check_timeout_ms(timeout_ms: u64) -> Result<Duration, String> {
    if (1000..=30_000).contains(&timeout_ms) {
        Ok(Duration::from_millis(timeout_ms))
    } else {
        Err("must be 1,000 to 30,000 milliseconds".into())
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("at most {MAX_URL_BYTES} bytes"));
    }
    let url = Url::parse(text).map_err(|error| {
        format!("is not a valid URL ({error}): write it in full, such as https://example.com/hook")
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "must begin with http:// or https://, not {}:",
            url.scheme()
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("needs a host".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user name or password: use `headers`".into());
    }
    Ok(url)
}

fn parse_filters(filters: Vec<String>) -> Result<Vec<EventFilter>, FieldError> {
    if filters.len() > MAX_FILTERS {
        return Err(FieldError::new(
            "event_types",
            format!("at most {MAX_FILTERS} filters"),
        ));
    }
    let parse = |(i, text)| {
        EventFilter::try_from(text)
            .map_err(|detail| FieldError::new(format!("event_types[{i}]"), detail))
    };
    filters.into_iter().enumerate().map(parse).collect()
}

fn parse_signing(schemes: &[String]) -> Result<Vec<Signing>, String> {
    let mut parsed = Vec::new();
    for scheme in schemes {
        match scheme.parse().map_err(|error| format!("{error}"))? {
            scheme if parsed.contains(&scheme) => {}
            scheme => parsed.push(scheme),
        }
    }
    if parsed.is_empty() {
        Err("name at least one scheme: `v1`, `v1a` or both".into())
    } else {
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str) -> EndpointChange {
        serde_json::from_str(json).unwrap()
    }

    fn errors(json: &str) -> Vec<String> {
        let errors = Settings::create(change(json)).unwrap_err();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn absent_keeps_null_resets_and_a_value_sets() {
        let one = Settings::create(change(
            r#"{"url":"https://a.example/","concurrency":9,"description":"x"}"#,
        ))
        .unwrap();
        let kept = one.changed(change("{}")).unwrap();
        assert_eq!(kept, one);
        let reset = one
            .changed(change(r#"{"concurrency":null,"description":null}"#))
            .unwrap();
        assert_eq!((reset.concurrency, reset.description.as_str()), (None, ""));
        assert_eq!(
            one.changed(change(r#"{"url":null}"#)).unwrap_err()[0].field,
            "url"
        );
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let wrong = r#"{"url":"https://a.example/","rate_limit":"10/day","concurrency":0,
            "timeout_ms":999,"retry_delays_s":[700000],"max_age_s":1,"event_types":["a","*"],
            "headers":{"Webhook-Id":"x"},"signing":["v2"],"ordering":"fifo","on_failed":"stop"}"#;
        let mut fields = errors(wrong);
        fields.sort();
        assert_eq!(
            fields,
            [
                "concurrency",
                "event_types[1]",
                "headers.Webhook-Id",
                "max_age_s",
                "on_failed",
                "ordering",
                "rate_limit",
                "retry_delays_s",
                "signing",
                "timeout_ms",
            ]
        );
    }

    #[test]
    fn a_wrong_url_hides_no_other_wrong_field() {
        assert_eq!(
            errors(r#"{"url":"ftp://a/","concurrency":0,"signing":[]}"#),
            ["url", "signing", "concurrency"]
        );
        assert_eq!(errors(r#"{"concurrency":0}"#), ["url", "concurrency"]);
    }

    #[test]
    fn urls_are_http_without_credentials() {
        for bad in [
            "",
            "/hook",
            "ftp://a.example/",
            "https://u:p@a.example/",
            "https://u@a.example/",
            "file:///etc",
        ] {
            assert_eq!(errors(&format!(r#"{{"url":"{bad}"}}"#)), ["url"], "{bad}");
        }
        assert_eq!(errors("{}"), ["url"]);
    }

    #[test]
    fn a_mask_keeps_a_headers_value_and_cannot_invent_one() {
        let one = Settings::create(change(
            r#"{"url":"https://a.example/","headers":{"X-Team":"billing"}}"#,
        ))
        .unwrap();
        let kept = one
            .changed(change(r#"{"headers":{"x-team":"***","x-new":"1"}}"#))
            .unwrap();
        assert_eq!(kept.headers["x-team"], "billing");
        assert_eq!(
            one.changed(change(r#"{"headers":{"x-none":"***"}}"#))
                .unwrap_err()[0]
                .field,
            "headers.x-none"
        );
    }

    #[test]
    fn reserved_and_unsendable_headers_are_refused() {
        for name in [
            "Host",
            "proxy-authorization",
            "webhook-anything",
            "a b",
            "",
            "ü",
        ] {
            let json = serde_json::json!({"url": "https://a.example/", "headers": {name: "v"}});
            assert_eq!(errors(&json.to_string()), [format!("headers.{name}")]);
        }
        let json = serde_json::json!({"url": "https://a.example/", "headers": {"x": "a\r\nb: c"}});
        assert_eq!(errors(&json.to_string()), ["headers.x"]);
    }
}
