//! The body of `POST /events`.
#![no_main]

#[path = "../../it/support/invariants.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod invariants;

libfuzzer_sys::fuzz_target!(|body: &[u8]| invariants::publish_json(body));
