//! W3C Trace Context: an event belongs to its publisher's trace, which continues at the receiver.

use std::fmt;

/// The header that carries it, from publishers and to receivers.
pub const TRACEPARENT: &str = "traceparent";

/// The trace flags with a defined meaning: sampled, and random trace id.
const KNOWN_FLAGS: u8 = 0b11;

/// A `traceparent` (W3C Trace Context, section 3.2): a trace id and the parent span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    /// Creates it from its parts; `None` if an id is zero, which is invalid.
    #[must_use]
    pub const fn new(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        if trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            flags: flags & KNOWN_FLAGS,
        })
    }

    /// Parses a header's value. Later versions are read like this one (section 4.3).
    ///
    /// # Errors
    /// Describes the valid form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "must be 00-TRACE-SPAN-FLAGS in lower-case hex (W3C Trace Context)".to_owned();
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let part = parts
                .next()
                .filter(|part| part.len() == digits && part.bytes().all(hex));
            part.and_then(|part| u128::from_str_radix(part, 16).ok())
                .ok_or_else(wrong)
        };
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let ends = parts.next().is_none();
        if version == 0xff || (version == 0 && !ends) {
            return Err(wrong());
        }
        let narrow = (u64::try_from(span_id), u8::try_from(flags));
        let (Ok(span_id), Ok(flags)) = narrow else {
            return Err(wrong());
        };
        Self::new(trace_id, span_id, flags).ok_or_else(wrong)
    }

    /// Returns the parent for spans below `span_id` in the same trace; a zero `span_id` becomes 1.
    #[must_use]
    pub const fn child(self, span_id: u64) -> Self {
        Self {
            span_id: if span_id == 0 { 1 } else { span_id },
            ..self
        }
    }

    /// Returns the trace id.
    #[must_use]
    pub const fn trace_id(self) -> u128 {
        self.trace_id
    }

    /// Returns the span id.
    #[must_use]
    pub const fn span_id(self) -> u64 {
        self.span_id
    }

    /// Returns the flags: 1 is sampled.
    #[must_use]
    pub const fn flags(self) -> u8 {
        self.flags
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_again() {
        let read = TraceParent::parse(EXAMPLE).unwrap();
        assert_eq!(read.to_string(), EXAMPLE);
        let child = read.child(0xabc);
        assert_eq!(
            child.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01"
        );
    }

    #[test]
    fn a_later_version_is_read_as_this_one() {
        let later = format!("{}-what-comes-later", EXAMPLE.replacen("00-", "cc-", 1));
        assert_eq!(TraceParent::parse(&later).unwrap().to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(TraceParent::parse(bad).is_err(), "{bad}");
        }
    }
}
