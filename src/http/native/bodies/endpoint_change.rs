//! Changes of endpoints: the body, and the typed change that it stands for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::secret::NewSecretText;
use crate::domain::event::EventFilter;
use crate::domain::ids::Tenant;
use crate::domain::rate_limit::RateLimit;
use crate::domain::retry::RetrySchedule;
use crate::domain::settings::{
    Change, EndpointChange, MAX_FILTERS, OnFailed, Ordering, Signing, parse_url,
};
use crate::domain::{Field, FieldError, UnknownWord};
use crate::http::native::problem::Problem;

/// Absent: kept; `null`: reset; a value: set.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Reset, Self::Set))
    }
}

/// The fields to change. Absent: unchanged; `null`: back to the default.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointChange, example = json!({"rate_limit": "100/s", "concurrency": 20, "description": null}))]
pub(crate) struct EndpointChangeBody {
    /// URL to send to. An IP address is accepted as the host, if the address policy allows it.
    #[schema(value_type = String, required = false, max_length = 2048, pattern = "^https?://([A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){0,4}[A-Za-z]([A-Za-wyz0-9]{0,30})?(:[0-9]{1,4})?([/?#][\\s\\S]*)?$")]
    #[serde(default)]
    url: Change<String>,
    /// Shown in lists.
    #[schema(value_type = Option<String>, max_length = 1024, pattern = "^[^\\x00]*$")]
    #[serde(default)]
    description: Change<String>,
    /// Subscribed event types; empty: all.
    #[schema(value_type = Option<Vec<EventFilter>>, max_items = 100)]
    #[serde(default)]
    event_types: Change<Vec<String>>,
    /// Headers sent with each request. `***` keeps the value.
    #[schema(value_type = Option<HeaderValues>)]
    #[serde(default)]
    headers: Change<BTreeMap<String, String>>,
    #[schema(value_type = Option<RateLimit>)]
    #[serde(default)]
    rate_limit: Change<String>,
    /// Maximum attempts in flight.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    #[serde(default)]
    concurrency: Change<u32>,
    /// Timeout of an attempt in milliseconds.
    #[schema(value_type = Option<u64>, minimum = 1000, maximum = 30000)]
    #[serde(default)]
    timeout_ms: Change<u64>,
    /// Seconds before each retry; empty: a single attempt.
    #[schema(value_type = Option<RetryDelays>)]
    #[serde(default)]
    retry_delays_s: Change<Vec<u32>>,
    /// Maximum wait of a delivery in seconds: one minute to ten years.
    #[schema(value_type = Option<u64>, minimum = 60, maximum = 315360000)]
    #[serde(default)]
    max_age_s: Change<u64>,
    /// Consecutive failures that open the breaker; 0: never.
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 10000)]
    #[serde(default)]
    breaker_after: Change<u32>,
    #[schema(value_type = Option<Ordering>)]
    #[serde(default)]
    ordering: Change<String>,
    #[schema(value_type = Option<OnFailed>)]
    #[serde(default)]
    on_failed: Change<String>,
    #[schema(value_type = Option<Vec<Signing>>, min_items = 1)]
    #[serde(default)]
    signing: Change<Vec<String>>,
}

impl EndpointChangeBody {
    /// Parses every field, and checks them by `check`. All errors are reported at once.
    pub(crate) fn into_change(
        self,
        check: fn(&EndpointChange) -> Vec<FieldError>,
    ) -> Result<EndpointChange, Problem> {
        let mut errors = Vec::new();
        let change = EndpointChange {
            url: parsed(self.url, Field::Url, &mut errors, |text| parse_url(&text)),
            description: self.description,
            event_types: filters(self.event_types, &mut errors),
            headers: self.headers,
            rate_limit: parsed(self.rate_limit, Field::RateLimit, &mut errors, |text| {
                text.parse()
            }),
            concurrency: self.concurrency,
            timeout: self.timeout_ms.map(Duration::from_millis),
            retry_schedule: parsed(
                self.retry_delays_s,
                Field::RetrySchedule,
                &mut errors,
                RetrySchedule::new,
            ),
            max_age: self.max_age_s.map(Duration::from_secs),
            breaker_after: self.breaker_after,
            ordering: parsed(self.ordering, Field::Ordering, &mut errors, |word| {
                word.parse()
            }),
            on_failed: parsed(self.on_failed, Field::OnFailed, &mut errors, |word| {
                word.parse()
            }),
            signing: parsed(self.signing, Field::Signing, &mut errors, schemes),
        };
        let unparsed: Vec<Field> = errors.iter().map(|error| error.field.clone()).collect();
        let checked = check(&change).into_iter();
        errors.extend(checked.filter(|error| !unparsed.contains(&error.field)));
        if errors.is_empty() {
            Ok(change)
        } else {
            Err(Problem::invalid(
                errors.into_iter().map(Into::into).collect(),
            ))
        }
    }
}

/// Parses a new value. An invalid one is added to `errors`.
fn parsed<T, U, E: ToString>(
    change: Change<T>,
    field: Field,
    errors: &mut Vec<FieldError>,
    parse: impl FnOnce(T) -> Result<U, E>,
) -> Change<U> {
    match change.map(parse) {
        Change::Keep => Change::Keep,
        Change::Reset => Change::Reset,
        Change::Set(Ok(value)) => Change::Set(value),
        Change::Set(Err(error)) => {
            errors.push(FieldError::new(field, error.to_string()));
            Change::Keep
        }
    }
}

fn filters(change: Change<Vec<String>>, errors: &mut Vec<FieldError>) -> Change<Vec<EventFilter>> {
    let Change::Set(texts) = change else {
        return change.map(|_| Vec::new());
    };
    if texts.len() > MAX_FILTERS {
        let detail = format!("at most {MAX_FILTERS} filters");
        errors.push(FieldError::new(Field::EventTypes, detail));
        return Change::Keep;
    }
    let parse = |(i, text)| match EventFilter::try_from(text) {
        Ok(filter) => Some(filter),
        Err(detail) => {
            errors.push(FieldError::new(Field::EventTypeAt(i), detail));
            None
        }
    };
    Change::Set(texts.into_iter().enumerate().filter_map(parse).collect())
}

fn schemes(words: Vec<String>) -> Result<Vec<Signing>, UnknownWord> {
    words.iter().map(|word| word.parse()).collect()
}

/// Fields that can only be set when an endpoint is created.
#[derive(ToSchema, Deserialize)]
#[allow(dead_code, reason = "read separately")]
struct OnceGiven {
    tenant: Option<Tenant>,
    secret: Option<NewSecretText>,
}

/// A new endpoint: a change of one with all defaults.
pub(crate) struct NewEndpoint;

impl PartialSchema for NewEndpoint {
    fn schema() -> RefOr<Schema> {
        let (RefOr::T(Schema::Object(mut whole)), RefOr::T(Schema::Object(once))) =
            (EndpointChangeBody::schema(), OnceGiven::schema())
        else {
            return EndpointChangeBody::schema();
        };
        whole.properties.extend(once.properties);
        whole.required = vec!["url".into()];
        whole.description =
            Some("A new endpoint. Only `url` is required; `null` is the default.".into());
        whole.example = Some(serde_json::json!({
            "url": "https://example.com/hook", "tenant": "default", "event_types": ["invoice.*"],
            "headers": {"x-team": "billing"}, "rate_limit": "10/min", "concurrency": 3
        }));
        RefOr::T(Schema::Object(whole))
    }
}

impl ToSchema for NewEndpoint {
    fn name() -> Cow<'static, str> {
        "NewEndpoint".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        EndpointChangeBody::schemas(schemas);
        OnceGiven::schemas(schemas);
    }
}

/// Header values by name.
#[derive(ToSchema, Deserialize)]
#[schema(value_type = BTreeMap<String, String>)]
struct HeaderValues(#[expect(dead_code, reason = "only described")] BTreeMap<String, String>);

/// Each at most seven days.
#[derive(ToSchema, Deserialize)]
#[schema(max_items = 30)]
struct RetryDelays(#[expect(dead_code, reason = "only described")] Vec<u32>);
