//! Strict reading of JSON bodies: every error names its field.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use actix_web::{FromRequest, HttpRequest, dev, web};
use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::problem::{Kind, Problem};

/// Timeout for reading a whole body. (actix closes a connection whose head takes longer than 5 s.)
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A request's body, unparsed, at most `MAX` bytes of JSON.
pub(crate) struct JsonBody<const MAX: usize>(Bytes);

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
                let detail = "`content-encoding` is not supported: send the body uncompressed";
                return Err(Problem::new(Kind::UnsupportedMediaType, detail));
            }
            let unreadable = |error: actix_web::Error| {
                Problem::new(
                    Kind::MalformedJson,
                    format!("the request body ended early: {error}"),
                )
            };
            let body = body.await.map_err(unreadable)?;
            let too_large = |_| {
                Problem::new(
                    Kind::TooLarge,
                    format!("the body is larger than {MAX} bytes"),
                )
            };
            let slow = |_| {
                let detail = format!(
                    "the body did not arrive within {} s",
                    BODY_TIMEOUT.as_secs()
                );
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
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Reads the body; an empty body is `{}`.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
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
pub(crate) struct Object<T>(pub(crate) T);

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

/// Any JSON without duplicate keys in an object. (serde_json would take the last one.)
pub(crate) struct Strict(Value);

impl Strict {
    /// Returns the members of an object; empty if it is not an object.
    pub(crate) fn into_fields(self) -> Map<String, Value> {
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

/// Accepts 5.0 as an integer, as JSON Schema does.
fn whole_number(value: f64) -> Option<u64> {
    let whole = value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value);
    whole.then_some(value as u64)
}

/// Reads an integer in any notation.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(given) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let whole = given
        .as_u64()
        .or_else(|| given.as_f64().and_then(whole_number));
    whole
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom("must be a non-negative integer"))
}

/// A request without fields: no body, or an empty object.
pub(crate) struct EmptyBody;

impl FromRequest for EmptyBody {
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

/// Distinguishes malformed JSON (400) from valid JSON of another shape (422, with its field).
pub(crate) fn wrong_json(error: serde_json::Error, path: &str) -> Problem {
    if !error.is_data() {
        return Problem::new(Kind::MalformedJson, error.to_string());
    }
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let quoted = text.split('`').nth(1);
    let path = if path == "." { "" } else { path };
    // Removes the field's name from the end of the path, if it is there.
    let above = |name| path.strip_suffix(name).unwrap_or(path);
    let (field, detail) = match quoted {
        Some(name) if text.starts_with("unknown field") => {
            let expected = text.split_once(", ").map_or("", |(_, expected)| expected);
            (
                below(above(name), name),
                format!("unknown field; {expected}"),
            )
        }
        Some(name) if text.starts_with("duplicate field") => {
            (below(above(name), name), "is given twice".to_owned())
        }
        Some(name) if text.starts_with("missing field") => {
            (below(path, name), "is required".to_owned())
        }
        // serde repeats the given value, which may be a secret: only the expected type is reported.
        _ => match text.rsplit_once(", expected ") {
            Some((_, expected)) => (path.to_owned(), format!("must be {}", in_words(expected))),
            None => (path.to_owned(), text.to_owned()),
        },
    };
    Problem::field(field, detail)
}

/// Translates serde's expectation into the words of JSON.
fn in_words(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" | "a JSON number" => "a non-negative integer",
        "a map" => "an object",
        "a sequence" => "an array",
        other => other,
    }
}

/// Returns the path of a field below `parent`.
fn below(parent: &str, name: &str) -> String {
    match parent.trim_end_matches('.') {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    }
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
