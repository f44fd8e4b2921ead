//! `Retry-After`.
#![no_main]

#[path = "../../it/support/invariants.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod invariants;

libfuzzer_sys::fuzz_target!(|value: &str| invariants::retry_after(value));
