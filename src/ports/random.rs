//! Sources of randomness: the operating system's generator, and a seeded one for tests.

use crate::domain::random::Random;

/// The operating system's cryptographic generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, bytes: &mut [u8]) {
        rand::fill(bytes);
    }
}

/// A seeded generator. Never for secrets.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct SeededRandom(std::sync::Mutex<rand::rngs::StdRng>);

#[cfg(feature = "testing")]
impl SeededRandom {
    /// Creates a generator whose bytes depend only on `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(std::sync::Mutex::new(rand::SeedableRng::seed_from_u64(
            seed,
        )))
    }
}

#[cfg(feature = "testing")]
impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut generator = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        rand::Rng::fill_bytes(&mut *generator, bytes);
    }
}
