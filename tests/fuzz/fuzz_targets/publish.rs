//! The body of `POST /events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| postrider::testing::invariants::publish_json(body));
