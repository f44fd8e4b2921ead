//! Tracks one connection by its bytes: the current request, and the progress of its response.
//!
//! Pure: it reads and writes nothing. The client above (hyper) reads response heads without a limit
//! and does not report if a response byte came before a failure, so both are tracked here.

/// Maximum bytes of response heads per request, including interim responses (1xx).
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Maximum number of interim responses (1xx) per request.
pub(super) const MAX_INTERIM: u32 = 16;

/// A reason to close a connection during an record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// Bytes arrived although no request was under way.
    #[error("the receiver sent data before the request")]
    Unsolicited,
    /// The response's heads are larger than [`MAX_HEAD_BYTES`].
    #[error("the response head is larger than 64 KiB")]
    HeadTooLarge,
    /// There were more interim responses than [`MAX_INTERIM`].
    #[error("more than 16 interim responses (1xx) came before the final one")]
    TooManyInterim,
}

/// Progress of writing the current request.
#[derive(Debug, PartialEq, Eq)]
enum Writing {
    /// Complete: the next byte begins a request.
    Idle,
    /// Head incomplete; the bytes so far.
    Head(Vec<u8>),
    /// Head complete; this many bytes of the body are left.
    Body(usize),
}

/// Progress of reading the current response.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// Nothing is expected: no request has been written yet.
    Nothing,
    /// Heads, the final one incomplete.
    Heads(HeadMeter),
    /// Final head complete; the rest is body.
    Body,
}

/// Tracks the requests and responses of one connection.
#[derive(Debug)]
pub(super) struct WireMeter {
    requests: u32,
    writing: Writing,
    reading: Reading,
    response_begun: bool,
    closed_before_request: bool,
    header_lines: usize,
    final_status: Option<u16>,
}

impl WireMeter {
    pub(super) fn new() -> Self {
        Self {
            requests: 0,
            writing: Writing::Idle,
            reading: Reading::Nothing,
            response_begun: false,
            closed_before_request: false,
            header_lines: 0,
            final_status: None,
        }
    }

    /// Returns whether the next written byte begins a request.
    pub(super) fn is_between_requests(&self) -> bool {
        self.writing == Writing::Idle
    }

    /// Returns whether at least one byte came in response to the last request.
    pub(super) fn response_begun(&self) -> bool {
        self.response_begun
    }

    /// Returns whether the connection was closed or had data on it when a request was to be
    /// written.
    pub(super) fn closed_before_request(&self) -> bool {
        self.closed_before_request
    }

    /// Returns the number of header lines of the last response, including those that cannot be
    /// parsed.
    pub(super) fn header_lines(&self) -> usize {
        self.header_lines
    }

    /// Returns the status of the last request's final response, once its head is complete.
    pub(super) fn final_status(&self) -> Option<u16> {
        self.final_status
    }

    /// Returns the same for an incomplete head, once its status line is complete.
    pub(super) fn begun_final_status(&self) -> Option<u16> {
        match &self.reading {
            Reading::Heads(heads) if heads.lines > 1 && !heads.is_interim() => heads.status(),
            _ => None,
        }
    }

    /// Notes that the connection had ended before a request could be written.
    pub(super) fn note_closed_before_request(&mut self) {
        self.closed_before_request = true;
    }

    /// Counts written bytes.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.writing {
                Writing::Idle => {
                    self.requests += 1;
                    self.writing = Writing::Head(Vec::new());
                    self.reading = Reading::Heads(HeadMeter::default());
                    self.response_begun = false;
                    self.final_status = None;
                }
                Writing::Head(head) => {
                    let before = head.len();
                    head.extend_from_slice(bytes);
                    // The empty line that ends the head may be split over two writes.
                    let from = before.saturating_sub(3);
                    let end = head[from..].windows(4).position(|four| four == b"\r\n\r\n");
                    let Some(end) = end.map(|at| from + at + 4) else {
                        return;
                    };
                    bytes = &bytes[end - before..];
                    let body = content_length(&head[..end]);
                    self.writing = if body == 0 {
                        Writing::Idle
                    } else {
                        Writing::Body(body)
                    };
                }
                Writing::Body(left) => {
                    let now = bytes.len().min(*left);
                    *left -= now;
                    bytes = &bytes[now..];
                    if *left == 0 {
                        self.writing = Writing::Idle;
                    }
                }
            }
        }
    }

    /// Counts read bytes.
    ///
    /// # Errors
    /// Returns an error if the connection must be closed because of them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.reading {
            Reading::Nothing => Err(WireError::Unsolicited),
            Reading::Heads(heads) => {
                self.response_begun = true;
                if heads.read(bytes)? {
                    self.header_lines = heads.lines.saturating_sub(1);
                    self.final_status = heads.status();
                    self.reading = Reading::Body;
                }
                Ok(())
            }
            Reading::Body => Ok(()),
        }
    }
}

/// Returns the body length that a request's head declares; all of our requests declare one.
fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    let declared = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())
            .flatten()
    });
    declared.unwrap_or(0)
}

/// Finds the end of the final head among a response's heads.
#[derive(Debug, Default, PartialEq, Eq)]
struct HeadMeter {
    bytes: usize,
    interim: u32,
    /// The current head's status line, as much of it as contains the status.
    status_line: Vec<u8>,
    /// Lines of the current head, including the status line; folded lines are not counted.
    lines: usize,
    line_bytes: usize,
}

impl HeadMeter {
    /// Returns whether the final head has ended.
    fn read(&mut self, bytes: &[u8]) -> Result<bool, WireError> {
        for &byte in bytes {
            self.bytes += 1;
            if self.bytes > MAX_HEAD_BYTES {
                return Err(WireError::HeadTooLarge);
            }
            match byte {
                b'\n' if self.line_bytes > 0 => self.line_bytes = 0,
                // An empty line before a status line is skipped (RFC 9112, section 2.2).
                b'\n' if self.lines == 0 => {}
                b'\n' if self.is_interim() => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(WireError::TooManyInterim);
                    }
                    self.status_line.clear();
                    self.lines = 0;
                }
                b'\n' => return Ok(true),
                b'\r' => {}
                byte => {
                    if self.line_bytes == 0 && !matches!(byte, b' ' | b'\t') {
                        self.lines += 1;
                    }
                    self.line_bytes += 1;
                    if self.lines <= 1 && self.status_line.len() < STATUS_BYTES {
                        self.status_line.push(byte);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Returns whether the head is an interim one. 101 is final, because it ends HTTP here.
    fn is_interim(&self) -> bool {
        self.status()
            .is_some_and(|status| (100..200).contains(&status) && status != 101)
    }

    /// Returns the current head's status: three digits after the version (RFC 9112, section 4).
    fn status(&self) -> Option<u16> {
        let line = std::str::from_utf8(&self.status_line).ok()?;
        let status = line
            .strip_prefix("HTTP/1.")?
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start();
        let (status, rest) = status.split_at_checked(3)?;
        let is_whole = !rest.starts_with(|c: char| c.is_ascii_digit());
        status
            .parse()
            .ok()
            .filter(|status| is_whole && *status >= 100)
    }
}

/// Length of `HTTP/1.1 200`, with room for extra spaces and the next character.
const STATUS_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";

    fn asked() -> WireMeter {
        let mut meter = WireMeter::new();
        meter.wrote(REQUEST);
        meter
    }

    #[test]
    fn requests_are_told_apart_however_they_are_cut() {
        for cut in 1..REQUEST.len() {
            let mut meter = WireMeter::new();
            for _ in 0..2 {
                meter.wrote(&REQUEST[..cut]);
                assert!(!meter.is_between_requests(), "cut at {cut}");
                meter.wrote(&REQUEST[cut..]);
                assert!(meter.is_between_requests(), "cut at {cut}");
                assert!(!meter.response_begun());
                meter
                    .read(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .unwrap();
                assert!(meter.response_begun());
            }
            assert_eq!(meter.requests, 2);
        }
        let mut meter = WireMeter::new();
        meter.wrote(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        assert!(meter.is_between_requests(), "a request may have no body");
    }

    #[test]
    fn data_before_a_request_answers_nothing() {
        assert_eq!(
            WireMeter::new().read(b"HTTP/1.1 200 OK\r\n"),
            Err(WireError::Unsolicited)
        );
    }

    #[test]
    fn heads_are_bounded_and_bodies_are_not() {
        let mut meter = asked();
        meter
            .read(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n folded\r\nx b : 2\r\n\r\n")
            .unwrap();
        assert_eq!(
            meter.header_lines(),
            2,
            "a folded line is part of the one before"
        );
        assert_eq!(meter.read(&vec![b'x'; 1 << 20]), Ok(()));
        let mut meter = asked();
        meter.read(b"HTTP/1.1 200 OK\r\nx: ").unwrap();
        assert_eq!(
            meter.read(&vec![b'x'; MAX_HEAD_BYTES]),
            Err(WireError::HeadTooLarge)
        );
    }

    #[test]
    fn interim_responses_are_bounded_in_number_and_in_bytes() {
        let mut meter = asked();
        for _ in 0..MAX_INTERIM {
            meter
                .read(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n")
                .unwrap();
        }
        meter.read(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(
            meter.read(&vec![b'x'; 1 << 20]),
            Ok(()),
            "the final head has been found"
        );
        let mut meter = asked();
        let flood = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20);
        assert_eq!(meter.read(&flood), Err(WireError::TooManyInterim));
        let mut meter = asked();
        let large = format!(
            "HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n",
            "x".repeat(10_000)
        );
        let read: Result<Vec<()>, _> = (0..10).map(|_| meter.read(large.as_bytes())).collect();
        assert_eq!(read, Err(WireError::HeadTooLarge));
    }
}
