//! URLs of endpoints, and the address policy.
#![no_main]

#[path = "../../it/support/invariants.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod invariants;

libfuzzer_sys::fuzz_target!(|text: &str| invariants::url_and_address_policy(text));
