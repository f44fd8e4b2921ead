//! The ports through which the engine reaches the operating system: time, randomness and blocking
//! threads. Tests replace them, so that a seed determines a run.

pub(crate) mod blocking;
mod clock;
mod failpoint;
pub(crate) mod ids;
mod random;

pub(crate) use self::blocking::{Blocking, runtime};
pub use self::clock::{SharedClock, SystemClock};
pub(crate) use self::failpoint::failpoint;
pub(crate) use self::ids::IdSource;
pub use self::random::OsRandom;
#[cfg(feature = "testing")]
pub use self::random::SeededRandom;
