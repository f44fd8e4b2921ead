//! `Retry-After`.
#![no_main]

libfuzzer_sys::fuzz_target!(|value: &str| postrider::testing::invariants::retry_after(value));
