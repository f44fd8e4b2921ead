//! Randomness: where it comes from ([`Random`]), so that a seed can determine a run.

use std::fmt;

/// A source of random bytes.
///
/// Secrets are made from it: outside of tests it must be a cryptographic generator, as
/// [`OsRandom`](crate::ports::OsRandom) is.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// Draws `N` bytes.
#[must_use]
pub fn bytes<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// Draws a number from 0 (inclusive) to 1 (exclusive), in steps of 2⁻⁵³.
#[must_use]
pub fn share(random: &dyn Random) -> f64 {
    (u64::from_be_bytes(bytes(random)) >> 11) as f64 / (1_u64 << 53) as f64
}
