//! URLs of endpoints, and the address policy.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| postrider::testing::invariants::url_and_address_policy(text));
