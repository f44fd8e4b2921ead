//! The parts of an attempt that nothing else determines, in a compact form.
//!
//! A request's headers follow for the most part from its event and its endpoint. Only the rest is
//! stored; reading composes the headers again, exactly as they were sent.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{StoreError, corrupt};
use crate::domain::delivery::{Headers, Timings};
use crate::domain::headers::MASK;

const TABLE: &str = "webhook_attempts";

/// The parts of an event that its requests repeat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeated<'a> {
    pub(super) event_id: &'a str,
    pub(super) content_type: &'a str,
}

/// One header of a request. The order of the variants is the stored format.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    Other(String, String),
    /// A header of the endpoint, whose value is hidden.
    Hidden(String),
    ContentType,
    UserAgent(String),
    EventId,
    Timestamp(i64),
    Signature(Vec<(Scheme, Vec<u8>)>),
    /// A further header with the event's id.
    EventIdAs(String),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Scheme {
    V1,
    V1a,
}

impl Scheme {
    const ALL: [Self; 2] = [Self::V1, Self::V1a];

    const fn prefix(self) -> &'static str {
        match self {
            Self::V1 => "v1,",
            Self::V1a => "v1a,",
        }
    }
}

/// Returns the stored form of a request's headers.
pub(super) fn stored_headers(headers: &Headers, repeated: Repeated<'_>) -> Vec<u8> {
    let parts: Vec<Part> = headers
        .iter()
        .map(|(name, value)| part(name, value, repeated))
        .collect();
    to_bytes(&parts)
}

/// Composes a request's headers again.
pub(super) fn headers(stored: &[u8], repeated: Repeated<'_>) -> Result<Headers, StoreError> {
    let parts: Vec<Part> = from_bytes("request_parts", stored)?;
    Ok(parts
        .into_iter()
        .map(|part| header(part, repeated))
        .collect())
}

fn part(name: &str, value: &str, repeated: Repeated<'_>) -> Part {
    match name {
        "content-type" if value == repeated.content_type => Part::ContentType,
        "webhook-id" if value == repeated.event_id => Part::EventId,
        "user-agent" if value != MASK => Part::UserAgent(value.to_owned()),
        "webhook-timestamp" | "webhook-signature" => {
            exact(name, value).unwrap_or_else(|| Part::Other(name.to_owned(), value.to_owned()))
        }
        _ if value == MASK => Part::Hidden(name.to_owned()),
        _ if value == repeated.event_id => Part::EventIdAs(name.to_owned()),
        _ => Part::Other(name.to_owned(), value.to_owned()),
    }
}

/// Returns the short form of a value that can be written again exactly.
fn exact(name: &str, value: &str) -> Option<Part> {
    let part = if name == "webhook-timestamp" {
        Part::Timestamp(value.parse().ok()?)
    } else {
        Part::Signature(value.split(' ').map(signature).collect::<Option<_>>()?)
    };
    let nothing = Repeated {
        event_id: "",
        content_type: "",
    };
    let written = match &part {
        Part::Timestamp(at) => header(Part::Timestamp(*at), nothing),
        Part::Signature(all) => header(Part::Signature(all.clone()), nothing),
        _ => return None,
    };
    (written.1 == value).then_some(part)
}

fn signature(text: &str) -> Option<(Scheme, Vec<u8>)> {
    Scheme::ALL.into_iter().find_map(|scheme| {
        let encoded = text.strip_prefix(scheme.prefix())?;
        Some((scheme, BASE64_STANDARD.decode(encoded).ok()?))
    })
}

fn header(part: Part, repeated: Repeated<'_>) -> (String, String) {
    match part {
        Part::Other(name, value) => (name, value),
        Part::Hidden(name) => (name, MASK.to_owned()),
        Part::ContentType => ("content-type".into(), repeated.content_type.to_owned()),
        Part::UserAgent(value) => ("user-agent".into(), value),
        Part::EventId => ("webhook-id".into(), repeated.event_id.to_owned()),
        Part::Timestamp(at) => ("webhook-timestamp".into(), at.to_string()),
        Part::Signature(all) => {
            let each = all
                .iter()
                .map(|(scheme, bytes)| scheme.prefix().to_owned() + &BASE64_STANDARD.encode(bytes));
            let value: Vec<String> = each.collect();
            ("webhook-signature".into(), value.join(" "))
        }
        Part::EventIdAs(name) => (name, repeated.event_id.to_owned()),
    }
}

/// An address that a request was sent to.
#[derive(Serialize, Deserialize)]
enum Address {
    Socket(SocketAddr),
    Text(String),
}

/// Returns the stored form of an address.
pub(super) fn stored_address(address: &str) -> Vec<u8> {
    let socket = address.parse::<SocketAddr>().ok();
    to_bytes(
        &match socket.filter(|socket| socket.to_string() == address) {
            Some(socket) => Address::Socket(socket),
            None => Address::Text(address.to_owned()),
        },
    )
}

/// Reads an address.
pub(super) fn address(stored: &[u8]) -> Result<String, StoreError> {
    Ok(match from_bytes("remote_address", stored)? {
        Address::Socket(socket) => socket.to_string(),
        Address::Text(text) => text,
    })
}

/// Microseconds of the phases.
type Micros = [Option<u64>; 3];

/// Returns the stored form of timings, to the microsecond; `None` where nothing was measured.
pub(super) fn stored_timings(timings: &Timings) -> Option<Vec<u8>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time is positive and short"
    )]
    let micros = |millis: f64| (millis * 1000.0).round() as u64;
    let all: Micros = [timings.dns, timings.connect, timings.first_byte].map(|one| one.map(micros));
    all.iter().any(Option::is_some).then(|| to_bytes(&all))
}

/// Reads timings.
pub(super) fn timings(stored: Option<&[u8]>) -> Result<Timings, StoreError> {
    let Some(stored) = stored else {
        return Ok(Timings::default());
    };
    #[expect(clippy::cast_precision_loss, reason = "a time is short")]
    let millis = |micros: u64| micros as f64 / 1000.0;
    let all: Micros = from_bytes("timings", stored)?;
    let [dns, connect, first_byte] = all.map(|one| one.map(millis));
    Ok(Timings {
        dns,
        connect,
        first_byte,
    })
}

/// Serializes values that always can be.
fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap_or_default()
}

fn from_bytes<T: DeserializeOwned>(column: &'static str, stored: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(stored).map_err(|error| corrupt(TABLE, column, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPEATED: Repeated<'static> = Repeated {
        event_id: "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a",
        content_type: "application/json",
    };

    #[test]
    fn the_headers_of_a_request_take_few_bytes() {
        let signature = format!("v1,{}", BASE64_STANDARD.encode([9; 32]));
        let all: Headers = [
            ("content-type", REPEATED.content_type),
            ("user-agent", "Postrider/0.1.0"),
            ("webhook-id", REPEATED.event_id),
            ("webhook-timestamp", "1764000000"),
            ("webhook-signature", &signature),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let stored = stored_headers(&all, REPEATED);
        assert!(stored.len() < 65, "{}", stored.len());
        assert_eq!(headers(&stored, REPEATED).unwrap(), all);
    }

    proptest! {
        #[test]
        fn headers_are_read_as_they_were_sent(all in prop::collection::vec(
            ("content-type|user-agent|webhook-id|webhook-timestamp|webhook-signature|x-[a-z]{1,8}",
             "application/json|3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a|\\*\\*\\*|[+-]?0?[0-9]{1,10}|v1a?,[A-Za-z0-9+/]{0,8}={0,2}( v1,AAAA)?|[ -~]{0,20}"),
            0..8,
        )) {
            let stored = stored_headers(&all, REPEATED);
            prop_assert_eq!(headers(&stored, REPEATED).unwrap(), all);
        }

        #[test]
        fn an_address_is_read_as_it_was(text in "[0-9.:a-f\\[\\]]{0,20}", port in any::<u16>(), ip in any::<std::net::IpAddr>()) {
            for address in [text.clone(), SocketAddr::new(ip, port).to_string()] {
                prop_assert_eq!(super::address(&stored_address(&address)).unwrap(), address);
            }
        }
    }
}
