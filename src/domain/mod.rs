//! What Postrider means, without saying how it is stored, sent or scheduled.
//!
//! Owns the vocabulary (event, endpoint, delivery, attempt) and every rule that can be stated as a
//! pure function of its arguments. Imports nothing of this crate but itself, and never diesel,
//! actix, hyper or a clock: time comes in as an argument, or by the [`clock::Clock`] trait.

pub mod access;
pub mod breaker;
pub mod census;
pub mod clock;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod fair_queue;
pub mod headers;
pub mod idempotency;
pub mod ids;
pub mod lease;
pub mod lifecycle;
pub mod notice;
pub mod rate_limit;
pub mod recovery;
pub mod retry;
pub mod secret;
pub mod session;
pub mod settings;
pub mod trace;

use serde::Serialize;

/// One thing that is wrong with one field of a request, in words that say how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's path as the caller wrote it, such as `rate_limit` or `events[17].type`; empty
    /// for the whole.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// An error at `field`.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.detail),
            field => write!(f, "{field}: {}", self.detail),
        }
    }
}

/// Declares an enum whose variants are stored and shown as fixed words.
///
/// The words are the contract of the HTTP API and the `CHECK` constraints of the schema at once;
/// a test compares them with the migrations.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[non_exhaustive]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every variant, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that stands for it in SQL and JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::domain::UnknownWord {
                        word: word.to_owned(),
                        known: &[$($word),+],
                    }),
                }
            }
        }
    };
}
pub(crate) use words;

/// A word that is none of those a field may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is none of {}", .known.join(", "))]
pub struct UnknownWord {
    /// The word as it was given.
    pub word: String,
    /// The words that would have been understood.
    pub known: &'static [&'static str],
}
