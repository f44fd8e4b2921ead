//! Headers that an endpoint adds to its requests: the permitted ones, and their masked form.

use std::collections::{BTreeMap, BTreeSet};

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

/// Checks the headers of a change.
///
/// # Errors
/// Names the header that cannot be set, and the reason.
pub(super) fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), FieldError> {
    if headers.len() > MAX_HEADERS {
        let detail = format!("at most {MAX_HEADERS} headers");
        return Err(FieldError::new(Field::Headers, detail));
    }
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let wrong = |detail: String| FieldError::new(Field::Header(name.clone()), detail);
        check_header_name(name).map_err(wrong)?;
        if value.len() > MAX_HEADER_VALUE_BYTES || !value.bytes().all(|b| (0x20..0x7f).contains(&b))
        {
            return Err(wrong(format!(
                "its value must be printable ASCII, at most {MAX_HEADER_VALUE_BYTES} bytes"
            )));
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            let detail = "is given twice (header names are case-insensitive)";
            return Err(wrong(detail.to_owned()));
        }
        bytes += name.len() + value.len();
    }
    check_size(bytes)
}

fn check_size(bytes: usize) -> Result<(), FieldError> {
    if bytes > MAX_HEADERS_BYTES {
        let detail =
            format!("names and values take {bytes} bytes; the limit is {MAX_HEADERS_BYTES}");
        return Err(FieldError::new(Field::Headers, detail));
    }
    Ok(())
}

/// Lowers the names of checked headers, and puts the `present` values in place of masks.
///
/// # Errors
/// Names the mask without a value, or the total size.
pub(super) fn unmask(
    headers: BTreeMap<String, String>,
    present: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, FieldError> {
    let mut unmasked = BTreeMap::new();
    for (name, mut value) in headers {
        let lower = name.to_ascii_lowercase();
        if value == MASK {
            let Some(stored) = present.get(&lower) else {
                let detail = format!("`{MASK}` keeps a stored value, but there is none");
                return Err(FieldError::new(Field::Header(name), detail));
            };
            value.clone_from(stored);
        }
        unmasked.insert(lower, value);
    }
    let sizes = unmasked
        .iter()
        .map(|(name, value)| name.len() + value.len());
    check_size(sizes.sum())?;
    Ok(unmasked)
}
