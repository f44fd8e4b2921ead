//! The header map of an endpoint.
#![no_main]

#[path = "../../it/support/invariants.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod invariants;

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    if let Ok(headers) = serde_json::from_slice(json) {
        invariants::header_map(headers);
    }
});
