//! What comes in: JSON bodies and query parameters, read strictly. Whatever is wrong is named.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use actix_web::{FromRequest, HttpRequest, dev, web};
use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::problem::{Kind, Problem};
use crate::domain::FieldError;
use crate::domain::clock::Timestamp;
use crate::domain::ids::could_be_id;

/// How long a body may take to come, all of it. (actix ends a head that takes longer than 5 s.)
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A request's body as it came, at most `MAX` bytes of JSON.
pub(super) struct JsonBody<const MAX: usize>(Bytes);

impl<const MAX: usize> FromRequest for JsonBody<MAX> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let media_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let essence = media_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let json = essence.eq_ignore_ascii_case("application/json");
        let declared = media_type.is_some();
        let encoding = request
            .headers()
            .get(CONTENT_ENCODING)
            .map(|value| value.as_bytes().to_vec());
        let is_encoded =
            encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
        let body = web::Payload::from_request(request, payload);
        Box::pin(async move {
            if is_encoded {
                let detail =
                    "send the body as it is, without `content-encoding`: none is decoded here";
                return Err(Problem::new(Kind::UnsupportedMediaType, detail));
            }
            let unreadable = |error: actix_web::Error| {
                Problem::new(Kind::MalformedJson, format!("the body broke off: {error}"))
            };
            let body = body.await.map_err(unreadable)?;
            let too_large = |_| {
                Problem::new(
                    Kind::TooLarge,
                    format!("the body is larger than {MAX} bytes"),
                )
            };
            let slow = |_| {
                let detail = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
                Problem::new(Kind::RequestTimeout, detail)
            };
            let bytes = tokio::time::timeout(BODY_TIMEOUT, body.to_bytes_limited(MAX))
                .await
                .map_err(slow)?;
            let bytes = bytes.map_err(too_large)?.map_err(unreadable)?;
            if !json && (declared || !bytes.is_empty()) {
                let detail = "send the header `content-type: application/json`";
                return Err(Problem::new(Kind::UnsupportedMediaType, detail));
            }
            Ok(Self(bytes))
        })
    }
}

impl<const MAX: usize> JsonBody<MAX> {
    #[cfg(feature = "testing")]
    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Reads the body; `{}` where there is none.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let text: &[u8] = if self.0.is_empty() { b"{}" } else { &self.0 };
        let mut reader = serde_json::Deserializer::from_slice(text);
        let Object(read) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            wrong_json(error.into_inner(), &path)
        })?;
        reader.end().map_err(|error| wrong_json(error, ""))?;
        Ok(read)
    }
}

/// A JSON object. (serde's derived structs would take an array of their fields' values as well.)
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// Any JSON, in which no object gives a key twice. (serde_json would take the last one.)
pub(super) struct Strict(Value);

impl Strict {
    /// The members of an object; empty where it is none.
    pub(super) fn into_fields(self) -> Map<String, Value> {
        match self.0 {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
                Ok(Strict(
                    whole_number(value).map_or(value.into(), Value::from),
                ))
            }

            fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                let mut values = Vec::new();
                while let Some(Strict(value)) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Strict(Value::Array(values)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut fields = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    if fields.contains_key(&name) {
                        return Err(serde::de::Error::custom(format_args!(
                            "duplicate field `{name}`"
                        )));
                    }
                    let Strict(value) = map.next_value()?;
                    fields.insert(name, value);
                }
                Ok(Strict(Value::Object(fields)))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// To JSON Schema 5.0 is an integer.
fn whole_number(value: f64) -> Option<u64> {
    let whole = value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value);
    whole.then_some(value as u64)
}

/// A whole number, however it is written.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(given) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let whole = given
        .as_u64()
        .or_else(|| given.as_f64().and_then(whole_number));
    whole
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom("must be a whole number from 0 up"))
}

/// A call that takes no fields: no body, or an empty object.
pub(super) struct NoFields;

impl FromRequest for NoFields {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        let body = JsonBody::<1024>::from_request(request, payload);
        Box::pin(async move { body.await?.read().map(|Nothing {}| Self) })
    }
}

/// Tells what is no JSON (400) from what is JSON of another shape (422, with its field).
pub(super) fn wrong_json(error: serde_json::Error, path: &str) -> Problem {
    if !error.is_data() {
        return Problem::new(Kind::MalformedJson, error.to_string());
    }
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let quoted = text.split('`').nth(1);
    let path = if path == "." { "" } else { path };
    // Where the field's own name is the path's end already, what is above it.
    let above = |name| path.strip_suffix(name).unwrap_or(path);
    let (field, detail) = match quoted {
        Some(name) if text.starts_with("unknown field") => {
            let expected = text.split_once(", ").map_or("", |(_, expected)| expected);
            (
                below(above(name), name),
                format!("is not known here; {expected}"),
            )
        }
        Some(name) if text.starts_with("duplicate field") => {
            (below(above(name), name), "is given twice".to_owned())
        }
        Some(name) if text.starts_with("missing field") => {
            (below(path, name), "is needed".to_owned())
        }
        // serde repeats what was given, which may be a secret: only what was expected is told.
        _ => match text.rsplit_once(", expected ") {
            Some((_, expected)) => (path.to_owned(), format!("must be {}", in_words(expected))),
            None => (path.to_owned(), text.to_owned()),
        },
    };
    Problem::field(field, detail)
}

/// What serde expects, without Rust's names for it.
fn in_words(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" | "a JSON number" => "a whole number from 0 up",
        "a map" => "an object",
        "a sequence" => "an array",
        other => other,
    }
}

/// The path of a field of what is at `parent`.
fn below(parent: &str, name: &str) -> String {
    match parent.trim_end_matches('.') {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    }
}

/// The parameters of a query string, each known and none twice.
pub(super) struct Params {
    given: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Params {
    pub(super) fn read(request: &HttpRequest, known: &[&str]) -> Self {
        let (mut given, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            if !known.contains(&&*name) {
                let detail = if known.is_empty() {
                    "is not known here; this call takes no parameters".to_owned()
                } else {
                    format!("is not known here; expected one of {}", known.join(", "))
                };
                errors.push(FieldError::new(name, detail));
            } else if given.insert(name.to_string(), value.to_string()).is_some() {
                errors.push(FieldError::new(name, "is given twice"));
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
                self.errors.push(FieldError::new(name, detail));
                None
            }
        }
    }

    /// Reads one parameter by its `FromStr`.
    pub(super) fn take<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: ToString>,
    {
        self.take_with(name, |text| {
            text.parse().map_err(|error: T::Err| error.to_string())
        })
    }

    /// Reads one time. In a query `+` stands for a space, and no time has one: a space is the plus
    /// of an offset.
    pub(super) fn take_time(&mut self, name: &str) -> Option<Timestamp> {
        self.take_with(name, |text| text.replace(' ', "+").parse())
    }

    /// `limit` and `cursor` of a list.
    pub(super) fn page(&mut self, list: &str) -> (i64, Option<String>) {
        let limit = self.take_with("limit", |text| match text.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
            _ => Err(format!("must be 1 to {MAX_LIMIT}")),
        });
        let after = self.take_with("cursor", |text| {
            let key = text
                .strip_prefix(list)
                .and_then(|rest| rest.strip_prefix(':'));
            let key = key.filter(|key| could_be_id(key)).map(str::to_owned);
            key.ok_or_else(|| "is none that this list answered with".to_owned())
        });
        (limit.unwrap_or(DEFAULT_LIMIT), after)
    }

    /// Refuses the request if anything of it was wrong.
    pub(super) fn done(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }
}

/// A call that takes no query parameters; any is refused by name.
pub(super) struct NoParams;

impl FromRequest for NoParams {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        std::future::ready(Params::read(request, &[]).done().map(|()| Self))
    }
}

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 250;

/// The cursor of a list's page that begins after `key`. Those of another list are none of its own.
pub(super) fn cursor(list: &str, key: &str) -> String {
    format!("{list}:{key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::ResponseError as _;
    use actix_web::test::TestRequest;

    #[test]
    fn a_body_that_does_not_come_is_not_waited_for() {
        crate::testing::on_virtual_time(async {
            let request = TestRequest::post().insert_header((CONTENT_TYPE, "application/json"));
            let request = request.to_http_request();
            let never = Box::pin(futures_util::stream::pending::<
                Result<Bytes, actix_web::error::PayloadError>,
            >());
            let body = JsonBody::<1024>::from_request(
                &request,
                &mut dev::Payload::Stream { payload: never },
            );
            let problem = body.await.err().expect("nothing came");
            assert_eq!(problem.status_code(), 408);
        });
    }

    #[test]
    fn json_that_is_nested_without_end_is_refused_and_overflows_nothing() {
        let deep = |levels: usize| {
            JsonBody::<{ 16 << 20 }>(
                format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels)).into(),
            )
        };
        assert!(deep(100).read::<serde_json::Map<String, Value>>().is_ok());
        for levels in [200, 1_000_000] {
            let problem = deep(levels)
                .read::<serde_json::Map<String, Value>>()
                .unwrap_err();
            assert_eq!(problem.status_code(), 400, "{levels}");
        }
    }
}
