//! Settings of an endpoint, and the validation that reports every invalid field with its fix.
//!
//! [`EndpointChange`] serves both creating and changing. Settings that were not given stay unset;
//! `EndpointLimits` fill them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::event::EventFilter;
use super::headers::{check_headers, unmask};
use super::rate_limit::RateLimit;
use super::retry::RetrySchedule;
use super::words;
use super::{Field, FieldError};

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// The stored value stays.
    #[default]
    Keep,
    /// The default applies again.
    Reset,
    /// A new value.
    Set(T),
}

impl<T> Change<T> {
    /// Maps a new value.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Reset => Change::Reset,
            Self::Set(value) => Change::Set(map(value)),
        }
    }

    /// Returns the new value, if there is one.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Reset => None,
        }
    }

    /// Applies the change to a field with a default.
    fn apply(self, present: &T, default: impl FnOnce() -> T) -> T
    where
        T: Clone,
    {
        match self {
            Self::Keep => present.clone(),
            Self::Reset => default(),
            Self::Set(value) => value,
        }
    }

    /// Applies the change to a field that may be unset.
    fn apply_optional(self, present: &Option<T>) -> Option<T>
    where
        T: Clone,
    {
        self.map(Some).apply(present, || None)
    }
}

/// The fields for creating or changing an endpoint.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// Target of the webhooks: http or https.
    pub url: Change<Url>,
    /// A description shown in lists.
    pub description: Change<String>,
    /// Event types to receive; empty means all.
    pub event_types: Change<Vec<EventFilter>>,
    /// Headers sent with every request.
    pub headers: Change<BTreeMap<String, String>>,
    /// Maximum rate of attempt starts, such as `10/min`.
    pub rate_limit: Change<RateLimit>,
    /// Maximum attempts in flight, 1 to 1,000.
    pub concurrency: Change<u32>,
    /// Timeout of a request, 1 to 30 seconds.
    pub timeout: Change<Duration>,
    /// Delays between attempts.
    pub retry_schedule: Change<RetrySchedule>,
    /// Maximum age of a pending delivery, 60 seconds to ten years.
    pub max_age: Change<Duration>,
    /// Consecutive failed attempts that open the breaker; 0 turns it off.
    pub breaker_after: Change<u32>,
    /// Ordering of deliveries.
    pub ordering: Change<Ordering>,
    /// Effect of a failed delivery on later ones with the same key.
    pub on_failed: Change<OnFailed>,
    /// Signature schemes, at least one.
    pub signing: Change<Vec<Signing>>,
}

impl<T, E> Change<Result<T, E>> {
    fn transpose(self) -> Result<Change<T>, E> {
        match self {
            Self::Keep => Ok(Change::Keep),
            Self::Reset => Ok(Change::Reset),
            Self::Set(value) => value.map(Change::Set),
        }
    }
}

impl EndpointChange {
    /// Creates a new endpoint at `url` that receives all events; the fields refine it.
    ///
    /// ```
    /// use postrider::domain::settings::{Change, EndpointChange};
    ///
    /// # fn change() -> Result<EndpointChange, Box<dyn std::error::Error>> {
    /// let mut change = EndpointChange::to("https://example.com/hook".parse()?);
    /// change.event_types = Change::Set(vec!["invoice.*".to_owned().try_into()?]);
    /// change.rate_limit = Change::Set("10/min".parse()?);
    /// # Ok(change)
    /// # }
    /// ```
    #[must_use]
    pub fn to(url: Url) -> Self {
        Self {
            url: Change::Set(url),
            ..Self::default()
        }
    }

    /// Returns true if deliveries may no longer have to wait for others of their ordering key.
    #[must_use]
    pub fn changes_order(&self) -> bool {
        self.ordering != Change::Keep || self.on_failed != Change::Keep
    }

    /// Returns true if it resets the breaker or turns it off, which closes it.
    #[must_use]
    pub fn closes_breaker(&self) -> bool {
        matches!(self.breaker_after, Change::Reset | Change::Set(0))
    }

    /// Checks the change of a new endpoint, and returns all errors.
    #[must_use]
    pub fn check_new(&self) -> Vec<FieldError> {
        let mut errors = self.check();
        if self.url.value().is_none() {
            errors.retain(|error| error.field != Field::Url);
            errors.insert(
                0,
                FieldError::new(Field::Url, "is required: the URL to send to"),
            );
        }
        errors
    }

    /// Checks every new value, and returns all errors.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let headers = self.headers.value().map_or(Ok(()), check_headers);
        let mut errors = Vec::from_iter(headers.err());
        let mut check = |field: Field, result: Result<(), String>| {
            errors.extend(result.err().map(|detail| FieldError::new(field, detail)));
        };
        match &self.url {
            Change::Set(url) => check(Field::Url, check_url(url)),
            Change::Reset => check(
                Field::Url,
                Err("has no default and cannot be reset".to_owned()),
            ),
            Change::Keep => {}
        }
        if let Some(description) = self.description.value() {
            check(Field::Description, check_description(description));
        }
        if self
            .event_types
            .value()
            .is_some_and(|all| all.len() > MAX_FILTERS)
        {
            let detail = format!("at most {MAX_FILTERS} filters");
            check(Field::EventTypes, Err(detail));
        }
        if let Some(concurrency) = self.concurrency.value() {
            check(Field::Concurrency, check_concurrency(*concurrency));
        }
        if let Some(timeout) = self.timeout.value() {
            check(Field::Timeout, check_timeout(*timeout));
        }
        if let Some(age) = self.max_age.value() {
            let is_valid = (MIN_MAX_AGE..=MAX_MAX_AGE).contains(age);
            let detail = || "must be from 60 seconds to ten years".to_owned();
            check(Field::MaxAge, is_valid.then_some(()).ok_or_else(detail));
        }
        if self
            .breaker_after
            .value()
            .is_some_and(|failures| *failures > MAX_BREAKER_AFTER)
        {
            let detail = "must be 1 to 10,000, or 0 for no breaker";
            check(Field::BreakerAfter, Err(detail.to_owned()));
        }
        if self.signing.value().is_some_and(Vec::is_empty) {
            let detail = "name at least one scheme: `v1`, `v1a` or both";
            check(Field::Signing, Err(detail.to_owned()));
        }
        errors
    }
}

/// Settings of an endpoint. `None` follows the defaults.
///
/// Serialized, they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Maximum attempts in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Timeout of a request including the response body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Delays between attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_schedule: Option<RetrySchedule>,
    /// Maximum age of a pending delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Consecutive failed attempts that open the breaker; 0: no breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker_after: Option<u32>,
    /// Ordering of deliveries.
    pub ordering: Ordering,
    /// Effect of a failed delivery on later ones with the same key.
    pub on_failed: OnFailed,
    /// Signature schemes; never empty.
    pub signing: Vec<Signing>,
}

const MAX_URL_BYTES: usize = 2048;
/// Percent-encoding triples a byte.
const MAX_ENCODED_URL_BYTES: usize = 3 * MAX_URL_BYTES;
const MAX_DESCRIPTION_CHARS: usize = 1024;
/// Maximum number of event type filters of an endpoint.
pub const MAX_FILTERS: usize = 100;
const MIN_MAX_AGE: Duration = Duration::from_secs(60);
const MAX_MAX_AGE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const MAX_BREAKER_AFTER: u32 = 10_000;

impl Settings {
    /// Creates the settings of a new endpoint.
    ///
    /// # Errors
    /// Returns every invalid field with its fix.
    pub fn create(mut change: EndpointChange) -> Result<Self, Vec<FieldError>> {
        let Change::Set(url) = change.url.clone() else {
            return Err(change.check_new());
        };
        // A reset means the default in a change, but no breaker for a new endpoint.
        if change.breaker_after == Change::Reset {
            change.breaker_after = Change::Set(0);
        }
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
        blank.changed(change)
    }

    /// Returns these settings with a change applied.
    ///
    /// # Errors
    /// Returns every invalid field with its fix; nothing is applied then.
    pub fn changed(&self, change: EndpointChange) -> Result<Self, Vec<FieldError>> {
        let mut errors = change.check();
        let headers = change.headers.map(|headers| unmask(headers, &self.headers));
        let headers = headers.transpose().unwrap_or_else(|error| {
            errors.push(error);
            Change::Keep
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            url: change.url.apply(&self.url, || self.url.clone()),
            description: change.description.apply(&self.description, String::new),
            event_types: change.event_types.apply(&self.event_types, Vec::new),
            headers: headers.apply(&self.headers, BTreeMap::new),
            rate_limit: change.rate_limit.apply_optional(&self.rate_limit),
            concurrency: change.concurrency.apply_optional(&self.concurrency),
            timeout: change.timeout.apply_optional(&self.timeout),
            retry_schedule: change.retry_schedule.apply_optional(&self.retry_schedule),
            max_age: change.max_age.apply_optional(&self.max_age),
            breaker_after: change.breaker_after.apply_optional(&self.breaker_after),
            ordering: change.ordering.apply(&self.ordering, || Ordering::None),
            on_failed: change.on_failed.apply(&self.on_failed, || OnFailed::Block),
            signing: change
                .signing
                .map(distinct)
                .apply(&self.signing, || vec![Signing::V1]),
        })
    }
}

fn distinct(schemes: Vec<Signing>) -> Vec<Signing> {
    let mut distinct = Vec::new();
    for scheme in schemes {
        if !distinct.contains(&scheme) {
            distinct.push(scheme);
        }
    }
    distinct
}

/// Checks a maximum of attempts in flight.
///
/// # Errors
/// Returns an error unless it is 1 to 1,000.
pub fn check_concurrency(concurrency: u32) -> Result<(), String> {
    if (1..=1000).contains(&concurrency) {
        Ok(())
    } else {
        Err("must be 1 to 1,000".into())
    }
}

/// Checks the timeout of a request.
///
/// # Errors
/// Returns an error unless it is 1 to 30 seconds.
pub fn check_timeout(timeout: Duration) -> Result<(), String> {
    if (Duration::from_secs(1)..=Duration::from_secs(30)).contains(&timeout) {
        Ok(())
    } else {
        Err("must be 1,000 to 30,000 milliseconds".into())
    }
}

fn check_description(text: &str) -> Result<(), String> {
    // NUL is refused because Postgres cannot store it in text.
    if text.chars().count() > MAX_DESCRIPTION_CHARS || text.contains('\0') {
        Err(format!(
            "at most {MAX_DESCRIPTION_CHARS} characters, and no NUL"
        ))
    } else {
        Ok(())
    }
}

/// Parses the URL of an endpoint.
///
/// # Errors
/// Returns the problem with its fix.
pub fn parse_url(text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("at most {MAX_URL_BYTES} bytes"));
    }
    Url::parse(text).map_err(|error| {
        format!("is not a valid URL ({error}): write it in full, such as https://example.com/hook")
    })
}

fn check_url(url: &Url) -> Result<(), String> {
    if url.as_str().len() > MAX_ENCODED_URL_BYTES {
        return Err(format!(
            "at most {MAX_ENCODED_URL_BYTES} bytes when encoded"
        ));
    }
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(url: &str) -> EndpointChange {
        EndpointChange::to(url.parse().unwrap())
    }

    fn fields(change: EndpointChange) -> Vec<Field> {
        let errors = Settings::create(change).unwrap_err();
        errors.into_iter().map(|error| error.field).collect()
    }

    fn headers(of: &[(&str, &str)]) -> Change<BTreeMap<String, String>> {
        let of = of
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Change::Set(of.collect())
    }

    #[test]
    fn a_change_keeps_resets_or_sets() {
        let one = Settings::create(EndpointChange {
            concurrency: Change::Set(9),
            description: Change::Set("x".to_owned()),
            ..to("https://a.example/")
        });
        let one = one.unwrap();
        assert_eq!(one.changed(EndpointChange::default()).unwrap(), one);
        let reset = one.changed(EndpointChange {
            concurrency: Change::Reset,
            description: Change::Reset,
            ..EndpointChange::default()
        });
        let reset = reset.unwrap();
        assert_eq!((reset.concurrency, reset.description.as_str()), (None, ""));
        let without_url = EndpointChange {
            url: Change::Reset,
            ..EndpointChange::default()
        };
        assert_eq!(one.changed(without_url).unwrap_err()[0].field, Field::Url);
    }

    #[test]
    fn every_invalid_field_is_named_at_once() {
        let wrong = EndpointChange {
            url: Change::Set("ftp://a.example/".parse().unwrap()),
            concurrency: Change::Set(0),
            timeout: Change::Set(Duration::from_millis(999)),
            max_age: Change::Set(Duration::from_secs(1)),
            breaker_after: Change::Set(10_001),
            headers: headers(&[("Webhook-Id", "x")]),
            signing: Change::Set(Vec::new()),
            ..EndpointChange::default()
        };
        let expected = [
            Field::Header("Webhook-Id".to_owned()),
            Field::Url,
            Field::Concurrency,
            Field::Timeout,
            Field::MaxAge,
            Field::BreakerAfter,
            Field::Signing,
        ];
        assert_eq!(fields(wrong), expected);
        let without_url = EndpointChange {
            concurrency: Change::Set(0),
            ..EndpointChange::default()
        };
        assert_eq!(fields(without_url), [Field::Url, Field::Concurrency]);
    }

    #[test]
    fn urls_are_http_without_credentials() {
        for text in ["", "/hook"] {
            assert!(parse_url(text).is_err(), "{text}");
        }
        for text in [
            "ftp://a.example/",
            "https://u:p@a.example/",
            "https://u@a.example/",
            "file:///etc",
        ] {
            assert_eq!(fields(to(text)), [Field::Url], "{text}");
        }
    }

    #[test]
    fn a_mask_keeps_a_headers_value_and_cannot_invent_one() {
        let one = Settings::create(EndpointChange {
            headers: headers(&[("X-Team", "billing")]),
            ..to("https://a.example/")
        });
        let one = one.unwrap();
        let with = |of| EndpointChange {
            headers: headers(of),
            ..EndpointChange::default()
        };
        let kept = one
            .changed(with(&[("x-team", "***"), ("x-new", "1")]))
            .unwrap();
        assert_eq!(kept.headers["x-team"], "billing");
        let errors = one.changed(with(&[("x-none", "***")])).unwrap_err();
        assert_eq!(errors[0].field, Field::Header("x-none".to_owned()));
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
            let change = EndpointChange {
                headers: headers(&[(name, "v")]),
                ..to("https://a.example/")
            };
            assert_eq!(fields(change), [Field::Header(name.to_owned())]);
        }
        let change = EndpointChange {
            headers: headers(&[("x", "a\r\nb: c")]),
            ..to("https://a.example/")
        };
        assert_eq!(fields(change), [Field::Header("x".to_owned())]);
    }
}
