//! Reading files and standard input, so that secrets need not be arguments, and parsing relative
//! times.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use postrider::domain::clock::{Clock as _, Timestamp};
use postrider::ports::SystemClock;

/// Reads a file; `-` is standard input.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a secret from a file, without surrounding white space.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<String> {
    Ok(read(path)?.trim().to_owned())
}

/// Converts a duration (`2h`, `3d`) to that long ago; returns any other text unchanged for the API
/// to validate.
pub(crate) fn time(text: &str) -> String {
    match humantime::parse_duration(text) {
        Ok(ago) => before(SystemClock::new().now(), ago).to_string(),
        Err(_) => text.to_owned(),
    }
}

fn before(now: Timestamp, ago: Duration) -> Timestamp {
    Timestamp::from_micros(
        now.as_micros()
            .saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)),
    )
}
