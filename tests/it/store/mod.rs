//! The conformance suite: what every database must do. Each case runs on each of them.

/// Makes tests of functions that take a [`Database`](crate::support::engine::Database).
macro_rules! conformance {
    ($($case:ident,)+) => {
        mod sqlite {
            $(
                #[test]
                fn $case() {
                    super::$case(crate::support::engine::Database::Sqlite);
                }
            )+
        }

        mod postgres {
            $(
                #[test]
                fn $case() {
                    if crate::support::engine::Database::Postgres.is_there() {
                        super::$case(crate::support::engine::Database::Postgres);
                    }
                }
            )+
        }
    };
}
mod calls;
mod fencing;
mod footprint;
mod lists;
mod order;
mod outbox;
mod plans;
mod pool;
mod publishing;
mod recovery;
