#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bearward::fuzzing::jwks(bytes));
