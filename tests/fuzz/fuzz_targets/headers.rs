//! The header map of an endpoint.
#![no_main]

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    if let Ok(headers) = serde_json::from_slice(json) {
        postrider::testing::invariants::header_map(headers);
    }
});
