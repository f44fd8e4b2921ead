//! Named steps at which a test stops this process, or holds it up.

/// Marks a step. With the feature `testing`, the environment variable `FAILPOINTS` (of the crate
/// `fail`) chooses what happens there: `NAME=return` ends the process as `kill -9` does, and
/// `NAME=sleep(MS)` holds it up. Without that feature it is nothing.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "testing")]
        let _: Option<()> = fail::eval($name, |_| std::process::abort());
    };
}

pub(crate) use failpoint;
