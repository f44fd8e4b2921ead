//! Headers that an endpoint adds to its requests: the permitted ones, and their masked form.

use std::collections::BTreeMap;

use super::{Field, FieldError};

/// Replaces a header's value wherever headers are shown; in a change it keeps the stored value.
pub const MASK: &str = "***";

const MAX_HEADERS: usize = 50;
/// The limit of nginx and Apache for one header.
const MAX_HEADER_VALUE_BYTES: usize = 8 * 1024;
/// Maximum size of all names and values of an endpoint.
const MAX_HEADERS_BYTES: usize = 16 * 1024;
const MAX_HEADER_NAME_BYTES: usize = 128;

/// Headers that belong to the connection or the signature and cannot be set on an endpoint.
const RESERVED_HEADERS: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
];
const RESERVED_PREFIXES: &[&str] = &["proxy-", "webhook-"];

/// Checks the name of a header set on an endpoint or by a setting.
///
/// # Errors
/// Returns an error if it is not a header name, or is one that Postrider sets itself.
pub fn check_header_name(name: &str) -> Result<(), String> {
    // RFC 9110, section 5.6.2: a header's name is a token.
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > MAX_HEADER_NAME_BYTES || !name.bytes().all(token) {
        return Err("is not a valid header name (RFC 9110, section 5.6.2)".into());
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED_HEADERS.contains(&lower.as_str())
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| lower.starts_with(prefix))
    {
        return Err("is reserved: Postrider sets this header itself".into());
    }
    Ok(())
}

/// Parses the headers of a change; `present` holds the values that a mask keeps.
///
/// # Errors
/// Names the header that cannot be set, and the reason.
pub(super) fn parse_headers(
    headers: BTreeMap<String, String>,
    present: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, FieldError> {
    if headers.len() > MAX_HEADERS {
        let detail = format!("at most {MAX_HEADERS} headers");
        return Err(FieldError::new(Field::Headers, detail));
    }
    let mut parsed = BTreeMap::new();
    for (name, value) in headers {
        let wrong = |detail: String| Err(FieldError::new(Field::Header(name.clone()), detail));
        let lower = name.to_ascii_lowercase();
        if let Err(detail) = check_header_name(&name) {
            return wrong(detail);
        }
        let value = if value == MASK {
            match present.get(&lower) {
                Some(value) => value.clone(),
                None => return wrong(format!("`{MASK}` keeps a stored value, but there is none")),
            }
        } else {
            value
        };
        if value.len() > MAX_HEADER_VALUE_BYTES || !value.bytes().all(|b| (0x20..0x7f).contains(&b))
        {
            return wrong(format!(
                "its value must be printable ASCII, at most {MAX_HEADER_VALUE_BYTES} bytes"
            ));
        }
        if parsed.insert(lower, value).is_some() {
            return wrong("is given twice (header names are case-insensitive)".into());
        }
    }
    let bytes: usize = parsed
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_HEADERS_BYTES {
        let detail =
            format!("names and values take {bytes} bytes; the limit is {MAX_HEADERS_BYTES}");
        return Err(FieldError::new(Field::Headers, detail));
    }
    Ok(parsed)
}
