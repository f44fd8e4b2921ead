//! Ledgers: files of lines that are only appended to, one line for each observation.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use postrider::domain::clock::Clock as _;
use postrider::ports::SystemClock;

/// Appends lines. Each is handed to the operating system at once, so a kill loses none.
pub(crate) struct Ledger {
    file: Mutex<File>,
}

impl Ledger {
    pub(crate) fn append_to(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot append to {}", path.display()))?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    pub(crate) fn note(&self, line: &impl ToString) {
        let mut line = line.to_string();
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            // Evidence that is not written would look like a loss.
            eprintln!("postrider-campaign: the ledger cannot be written: {error}");
            std::process::exit(2);
        }
    }
}

/// Reads all lines of a ledger.
pub(crate) fn read<T: FromStr>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let one = |line: &str| {
        line.parse()
            .map_err(|_| anyhow::anyhow!("{}: not a line of a ledger: {line}", path.display()))
    };
    text.lines().map(one).collect()
}

/// Returns the time since the Unix epoch.
pub(crate) fn now() -> Duration {
    let now = SystemClock::new().now();
    Duration::from_micros(now.as_micros().unsigned_abs())
}

/// Returns the hash of a body, as both ledgers write it.
pub(crate) fn hash(body: &[u8]) -> String {
    use sha2::Digest as _;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(body)[..8])
}

/// An event that a node accepted.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// Time of the request that was accepted, and of its response.
    pub(crate) asked: Duration,
    pub(crate) answered: Duration,
    pub(crate) endpoint: usize,
    /// Its place among the events of its endpoint.
    pub(crate) place: u64,
    pub(crate) id: String,
    pub(crate) hash: String,
}

impl std::fmt::Display for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            asked,
            answered,
            endpoint,
            place,
            id,
            hash,
        } = self;
        let (asked, answered) = (asked.as_micros(), answered.as_micros());
        write!(f, "{asked} {answered} {endpoint} {place} {id} {hash}")
    }
}

impl FromStr for Accepted {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [asked, answered, endpoint, place, id, hash] = fields(line)?;
        Ok(Self {
            asked: Duration::from_micros(asked.parse()?),
            answered: Duration::from_micros(answered.parse()?),
            endpoint: endpoint.parse()?,
            place: place.parse()?,
            id: id.to_owned(),
            hash: hash.to_owned(),
        })
    }
}

/// A request that the receiver got.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: Duration,
    pub(crate) endpoint: usize,
    pub(crate) id: String,
    pub(crate) hash: String,
    pub(crate) is_signed: bool,
    /// Status code of the response; 0 if it gave none.
    pub(crate) status: u16,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            at,
            endpoint,
            id,
            hash,
            is_signed,
            status,
        } = self;
        let at = at.as_micros();
        write!(f, "{at} {endpoint} {id} {hash} {is_signed} {status}")
    }
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [at, endpoint, id, hash, is_signed, status] = fields(line)?;
        Ok(Self {
            at: Duration::from_micros(at.parse()?),
            endpoint: endpoint.parse()?,
            id: id.to_owned(),
            hash: hash.to_owned(),
            is_signed: is_signed.parse()?,
            status: status.parse()?,
        })
    }
}

/// A fault, with the time of its begin and of its end.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) what: String,
    /// True if it lets the node finish what it does.
    pub(crate) is_clean: bool,
}

fn fields<const N: usize>(line: &str) -> anyhow::Result<[&str; N]> {
    let fields: Vec<&str> = line.split(' ').collect();
    <[&str; N]>::try_from(fields).map_err(|_| anyhow::anyhow!("{N} fields are expected"))
}
