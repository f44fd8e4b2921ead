//! What is read from files and standard input, so that no secret needs to be an argument; and times
//! as people write them.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use postrider::domain::clock::{Clock as _, SystemClock, Timestamp};

/// What a file holds; `-` is standard input.
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

/// A secret in a file, without the line's end.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<String> {
    Ok(read(path)?.trim().to_owned())
}

/// A time as the API takes it: as it is, or so long ago (`2h`, `3d`).
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
